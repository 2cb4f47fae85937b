"""Upsampling: kernels, literal code, finite differences, PyTorch and numbers by hand agree, for both methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handgrad.derivations import upsample2d as derivation
from handgrad.engine import AvgPool2D, Input, Upsample2D
from handgrad.engine.checks import ConfigurationError, ShapeError

METHODS = ("nearest", "bilinear")
both_methods = pytest.mark.parametrize("method", METHODS)


@st.composite
def configurations(draw, most=2_000):
    """Options of a layer, and the shape of a mini-batch, with so many output values at most."""
    scale = draw(st.integers(1, 4) | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    shape = (draw(st.integers(1, 36)), draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    rows, columns = scale if isinstance(scale, tuple) else (scale, scale)
    assume(np.prod(shape) * rows * columns <= most)
    return {"scale": scale, "method": draw(st.sampled_from(METHODS))}, shape


@example(({"scale": (2, 3), "method": "nearest"}, (17, 2, 3, 2)), 0)
@example(({"scale": (2, 3), "method": "bilinear"}, (17, 2, 3, 2)), 0)
@example(({"scale": (3, 4), "method": "bilinear"}, (35, 1, 3, 1)), 0)
@example(({"scale": 1, "method": "bilinear"}, (1, 1, 1, 1)), 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    x = np.random.default_rng(seed).normal(size=shape)
    at_point(lambda: Upsample2D(**options), x, seed=seed).check_literal()


@given(configurations(most=50_000), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, configuration, seed):
    """A gradient is a sum of rows, then columns, of at most 2 s products with rounded weights each."""
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    point.check_single(terms=2 * (2 * 5 + 2))


@both_methods
def test_finite_differences(at_point, rng, method):
    at_point(lambda: Upsample2D((2, 3), method=method), rng.normal(size=(2, 2, 3, 2))).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nearest_by_hand(at_point, dtype):
    upstream = np.arange(1, 25).reshape(1, 1, 4, 6)
    point = at_point(lambda: Upsample2D((2, 3)), [[[[1, 2], [3, 4]]]], dtype=dtype, dL_dz=upstream)
    above, below = [1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]
    assert point.z.tolist() == [[[above, above, below, below]]]
    assert point.dL_dx[0].tolist() == [[[[1 + 2 + 3 + 7 + 8 + 9, 4 + 5 + 6 + 10 + 11 + 12], [102, 120]]]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bilinear_by_hand(at_point, dtype):
    """With scale 2 the first pixel counts 1, 3/4, 1/4, 0; with scale 3 two of the outputs lie on a pixel's centre."""
    point = at_point(
        lambda: Upsample2D((1, 2), method="bilinear"), [[[[1, 5]]]], dtype=dtype, dL_dz=[[[[1, 10, 100, 1000]]]]
    )
    assert point.z.tolist() == [[[[1, 2, 4, 5]]]]
    assert point.dL_dx[0].tolist() == [[[[33.5, 1077.5]]]]
    three = at_point(lambda: Upsample2D((1, 3), method="bilinear"), [[[[1, 7]]]], dL_dz=[[[[3, 30, 0, 0, 0, 600]]]])
    np.testing.assert_allclose(three.z, [[[[1, 1, 3, 5, 7, 7]]]], rtol=1e-15)
    np.testing.assert_allclose(three.dL_dx[0], [[[[33, 600]]]], rtol=1e-15)


@given(configurations(most=20_000), st.integers(0, 99))
def test_backward_is_the_adjoint_of_forward(at_point, configuration, seed):
    """<A x, y> = <x, Aᵀ y> for every sample and channel, with y the upstream gradient."""
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    left = (point.z * point.dL_dz).sum(axis=(2, 3))
    right = (point.x[0] * point.dL_dx[0]).sum(axis=(2, 3))
    size = (np.abs(point.z) * np.abs(point.dL_dz)).sum(axis=(2, 3)).max()
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-13 * size)  # sums of some hundred terms


@given(configurations(most=20_000), st.integers(0, 99))
def test_the_sum_of_the_gradient_stays_the_same(at_point, close, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    close(point.dL_dx[0].sum(axis=(2, 3)), point.dL_dz.sum(axis=(2, 3)), 1e-12)


@given(configurations(most=20_000))
def test_a_constant_image_stays_constant(at_point, configuration):
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.full(shape, 0.7))
    np.testing.assert_allclose(point.z, 0.7, rtol=1e-15)


@given(configurations(most=20_000), st.integers(0, 99))
def test_no_value_is_beyond_those_of_the_input(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.random.default_rng(seed).normal(size=shape))
    x = point.x[0]
    low, high = x.min(axis=(2, 3), keepdims=True), x.max(axis=(2, 3), keepdims=True)
    assert (point.z >= low - 1e-15).all() and (point.z <= high + 1e-15).all()


@both_methods
@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_image_gives_the_mirrored_result(at_point, close, rng, method, axis):
    x, dL_dz = rng.normal(size=(3, 2, 3, 4)), rng.normal(size=(3, 2, 6, 12))
    one = at_point(lambda: Upsample2D((2, 3), method=method), x, dL_dz=dL_dz)
    other = at_point(lambda: Upsample2D((2, 3), method=method), np.flip(x, axis), dL_dz=np.flip(dL_dz, axis))
    close(other.z, np.flip(one.z, axis), 1e-15)
    close(other.dL_dx[0], np.flip(one.dL_dx[0], axis), 1e-15)


@pytest.mark.parametrize("s", [2, 3, 4])
def test_bilinear_goes_on_with_a_slope_between_the_outermost_centres(at_point, s):
    """x[a] = a becomes z[h] = (h + 1/2) / s - 1/2, and stays 0 and n - 1 beyond."""
    point = at_point(lambda: Upsample2D((s, 1), method="bilinear"), np.arange(5.0).reshape(1, 1, 5, 1))
    expected = np.clip((np.arange(5 * s) + 0.5) / s - 0.5, 0, 4)
    np.testing.assert_allclose(point.z[0, 0, :, 0], expected, rtol=0, atol=1e-14)


def test_average_pooling_undoes_copies_and_each_is_the_backward_pass_of_the_other(at_point, close, rng):
    up = at_point(lambda: Upsample2D((2, 3)), rng.normal(size=(20, 2, 3, 4)))
    down = at_point(lambda: AvgPool2D((2, 3)), up.z, dL_dz=up.x[0])
    close(down.z, up.x[0], 1e-15)
    close(6 * down.dL_dx[0], up.z, 1e-15)
    mean = at_point(lambda: AvgPool2D((2, 3)), up.dL_dz)
    close(6 * mean.z, up.dL_dx[0], 1e-14)


@both_methods
def test_scale_1_changes_nothing(at_point, rng, method):
    point = at_point(lambda: Upsample2D(1, method=method), rng.normal(size=(3, 2, 3, 4)))
    np.testing.assert_array_equal(point.z, point.x[0])
    np.testing.assert_array_equal(point.dL_dx[0], point.dL_dz)


@both_methods
def test_one_pixel_fills_the_image(at_point, close, rng, method):
    point = at_point(lambda: Upsample2D((4, 5), method=method), rng.normal(size=(3, 2, 1, 1)))
    close(point.z, np.broadcast_to(point.x[0], (3, 2, 4, 5)), 1e-15)
    close(point.dL_dx[0][:, :, 0, 0], point.dL_dz.sum(axis=(2, 3)), 1e-14)


@both_methods
def test_a_second_pass_starts_from_nothing(at_point, rng, method):
    x, y = rng.normal(size=(2, 5, 2, 3, 3))
    point = at_point(lambda: Upsample2D(2, method=method), x)
    fresh = at_point(lambda: Upsample2D(2, method=method), y)
    np.testing.assert_array_equal(point.network.forward([y]), fresh.z)
    np.testing.assert_array_equal(point.network.backward(fresh.dL_dz)[0], fresh.dL_dx[0])


@both_methods
def test_a_batch_is_its_parts(at_point, rng, method):
    at_point(lambda: Upsample2D((2, 3), method=method), rng.normal(size=(35, 2, 3, 2))).check_parts(18)


@both_methods
def test_two_threads_give_what_one_gives(at_point, rng, method):
    x = rng.normal(size=(35, 2, 4, 3))
    one, two = [at_point(lambda: Upsample2D(2, method=method), x, threads=threads) for threads in (1, 2)]
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


@both_methods
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_number_that_is_none_touches_the_outputs_that_it_counts_in(at_point, rng, method, bad, scale):
    """Scale 3 puts output lines on the centres of input lines, whose neighbours must not come in as 0 times ∞."""
    x = rng.normal(size=(20, 2, 4, 4))
    x[17, 1, 1, 2] = bad
    point = at_point(lambda: Upsample2D(scale, method=method), x)
    clean = at_point(lambda: Upsample2D(scale, method=method), np.where(np.isfinite(x), x, 1.0))
    indicator = at_point(lambda: Upsample2D(scale, method=method), (~np.isfinite(x)).astype(float))
    touched = indicator.z > 0
    assert touched[17, 1].sum() == (scale if method == "nearest" else 2 * scale - scale % 2) ** 2
    np.testing.assert_array_equal(point.z[touched], bad)
    np.testing.assert_array_equal(point.z[~touched], clean.z[~touched])
    assert np.isfinite(point.dL_dx[0]).all()


@pytest.mark.parity
@given(configurations(most=50_000), st.integers(0, 99))
def test_pytorch_agrees(at_point, close, configuration, seed):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    point = at_point(lambda: Upsample2D(**options), np.random.default_rng(seed).normal(size=shape))
    x = torch.tensor(point.x[0], requires_grad=True)
    corners = {"align_corners": False} if options["method"] == "bilinear" else {}
    scale = tuple(map(float, point.layer.scale))
    z = torch.nn.functional.interpolate(x, scale_factor=scale, mode=options["method"], **corners)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-13)
    close(point.dL_dx[0], x.grad.numpy(), 1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale: got 0, expected an integer of at least 1, or (rows, columns)"),
        ({"scale": (2, 1.5)}, "scale: got (2, 1.5), expected an integer of at least 1, or (rows, columns)"),
        ({"scale": (1, 2, 3)}, "scale: got (1, 2, 3), expected an integer of at least 1, or (rows, columns)"),
        ({"method": "cubic"}, 'method: got \'cubic\', expected "nearest" or "bilinear"'),
        ({"method": None}, 'method: got None, expected "nearest" or "bilinear"'),
    ],
)
def test_options_are_checked_when_the_layer_is_made(options, message):
    with pytest.raises(ConfigurationError) as caught:
        Upsample2D(**({"scale": 2, "name": "u1"} | options))
    assert str(caught.value) == f"Upsample2D 'u1': {message}"


def test_a_flat_input_is_an_error():
    with pytest.raises(ShapeError) as caught:
        Upsample2D(2, name="u1")(Input((400,)))
    assert str(caught.value) == "Upsample2D 'u1': got an input of 400, expected an image of channels x rows x columns"


def test_literal_code_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="^upsample2d: method: got 'cubic'"):
        derivation.forward(np.zeros((1, 2, 2), dtype=object), scale=2, method="cubic")


def test_shapes_and_settings():
    assert Upsample2D(2)(Input((64, 7, 7))).shape == (64, 14, 14)
    assert Upsample2D((1, 4), method="bilinear")(Input((3, 8, 8))).shape == (3, 8, 32)
    assert Upsample2D(2).settings() == {"scale": (2, 2), "method": "nearest"}
