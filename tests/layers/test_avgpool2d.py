"""Average pooling: kernels, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handgrad.engine import AvgPool2D, Conv2D, Input
from handgrad.engine.checks import ConfigurationError, ShapeError

SIZES = st.sampled_from([(2, 2), (3, 3), (3, 2), (1, 3)])  # few, for each is compiled on its own
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
NOTES = [[[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]]


@st.composite
def configurations(draw):
    """Options of a layer, and the shape of a mini-batch it fits."""
    size, stride = draw(SIZES), draw(st.none() | st.integers(1, 4) | PAIR)
    rows, columns = st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)
    padding = draw(
        st.sampled_from(["same", "valid"]) | st.tuples(rows, columns) | st.tuples(rows, rows, columns, columns)
    )
    options = {"size": size, "stride": stride, "padding": padding}
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    try:
        _, P, Q = AvgPool2D(**options)(Input(shape[1:])).shape
    except ShapeError:
        assume(False)
    assume(shape[0] * shape[1] * P * Q * size[0] * size[1] <= 20_000)
    return options, shape


OVERLAPPING = ({"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}, (17, 3, 6, 5))


@example(OVERLAPPING, 0)
@given(configurations(), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, configuration, seed):
    options, shape = configuration
    at_point(lambda: AvgPool2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(configurations(), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, configuration, seed):
    options, shape = configuration
    point = at_point(lambda: AvgPool2D(**options), np.random.default_rng(seed).normal(size=shape), seed=seed)
    point.check_single(terms=2 * 9)  # at most 3 x 3 values, each divided and added


def test_finite_differences(at_point, rng):
    options, _ = OVERLAPPING
    at_point(lambda: AvgPool2D(**options), rng.normal(size=(2, 2, 6, 5))).check_differences()


def test_image_of_the_notes(at_point):
    point = at_point(lambda: AvgPool2D(2), [NOTES], dL_dz=[[[[4, 8], [12, 16]]]])
    assert point.z.tolist() == [[[[3.75, 1.25], [4, 2]]]]
    assert point.dL_dx[0].tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]]


def test_a_window_as_large_as_the_image_is_global_average_pooling(at_point, close, rng):
    x = rng.normal(size=(5, 3, 4, 6))
    point = at_point(lambda: AvgPool2D((4, 6)), x)
    close(point.z[:, :, 0, 0], x.mean(axis=(2, 3)), 1e-12)
    close(point.dL_dx[0], np.broadcast_to(point.dL_dz / 24, x.shape), 1e-12)


def test_the_border_of_zeros_counts_in_the_mean(at_point):
    point = at_point(lambda: AvgPool2D(2, padding=1), np.full((1, 1, 2, 2), 8.0))
    assert point.z.tolist() == [[[[2, 2], [2, 2]]]]


@given(configurations(), st.integers(0, 99))
def test_it_is_the_convolution_of_each_channel_with_equal_weights(at_point, close, configuration, seed):
    options, shape = configuration
    x = np.random.default_rng(seed).normal(size=shape)
    pool = at_point(lambda: AvgPool2D(**options), x)
    (fh, fw), stride, sides = pool.layer.settings().values()
    parameters = {"W": np.full((shape[1], 1, fh, fw), 1 / (fh * fw)), "b": np.zeros(shape[1])}
    conv = at_point(
        lambda: Conv2D(shape[1], (fh, fw), stride=stride, padding=sides, groups=shape[1]),
        x,
        parameters=parameters,
        dL_dz=pool.dL_dz,
    )
    close(pool.z, conv.z, 1e-12)
    close(pool.dL_dx[0], conv.dL_dx[0], 1e-12)


def test_without_a_border_the_gradient_is_only_spread(at_point, close, rng):
    point = at_point(lambda: AvgPool2D(3, stride=2), rng.normal(size=(17, 2, 7, 7)))
    close(point.dL_dx[0].sum(axis=(2, 3)), point.dL_dz.sum(axis=(2, 3)), 1e-12)


def test_a_batch_is_its_parts(at_point, rng):
    at_point(lambda: AvgPool2D(2, stride=1), rng.normal(size=(35, 2, 4, 4))).check_parts(18)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_stays_in_its_window(at_point, rng, bad):
    x = rng.normal(size=(20, 2, 4, 4))
    x[17, 1, 0, 3] = bad
    point = at_point(lambda: AvgPool2D(2), x)
    touched = np.zeros(point.z.shape, dtype=bool)
    touched[17, 1, 0, 1] = True
    np.testing.assert_array_equal(np.isfinite(point.z), ~touched)
    assert np.isfinite(point.dL_dx[0]).all()


@pytest.mark.parity
@given(configurations(), st.integers(0, 99))
def test_pytorch_agrees(at_point, close, configuration, seed):
    torch = pytest.importorskip("torch")
    options, shape = configuration
    point = at_point(lambda: AvgPool2D(**options), np.random.default_rng(seed).normal(size=shape))
    size, stride, (top, bottom, left, right) = point.layer.settings().values()
    x = torch.tensor(point.x[0], requires_grad=True)
    z = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (left, right, top, bottom)), size, stride)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-12)
    close(point.dL_dx[0], x.grad.numpy(), 1e-12)


def test_errors_name_the_layer_and_the_numbers():
    with pytest.raises(ConfigurationError, match=r"^AvgPool2D 'a1': size: got \(0, 2\), expected an integer"):
        AvgPool2D((0, 2), name="a1")
    with pytest.raises(ConfigurationError, match="^AvgPool2D 'a1': stride: got 'two'"):
        AvgPool2D(2, stride="two", name="a1")
    with pytest.raises(ShapeError, match="^AvgPool2D 'a1': got an input of 3 x 4, expected an image"):
        AvgPool2D(2, name="a1")(Input((3, 4)))
    with pytest.raises(
        ShapeError, match=r"^AvgPool2D 'a1': got an image of 4 x 4 .* expected at least 5 x 5 .*; use a smaller"
    ):
        AvgPool2D(5, name="a1")(Input((3, 4, 4)))
    with pytest.raises(ConfigurationError, match=r"^AvgPool2D 'a1': padding: got \(0, 0, 3, 0\), expected less than"):
        AvgPool2D(3, padding=(0, 0, 3, 0), name="a1")(Input((3, 5, 5)))


def test_shapes():
    assert AvgPool2D(2)(Input((6, 28, 28))).shape == (6, 14, 14)
    assert AvgPool2D(3, stride=2, padding="same")(Input((6, 7, 8))).shape == (6, 4, 4)
