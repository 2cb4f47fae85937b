"""Global average pooling: kernels, literal code, finite differences, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import AvgPool2D, Flatten, GlobalAvgPool2D, Input, Network
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
NOTES = [[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]  # the image of S2's average pooling


@example((1, 1, 1, 1), 0)
@example((17, 3, 5, 4), 0)
@example((35, 1, 3, 7), 0)
@given(SHAPES, st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, shape, seed):
    at_point(GlobalAvgPool2D, np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, shape, seed):
    point = at_point(GlobalAvgPool2D, np.random.default_rng(seed).normal(size=shape), seed=seed)
    point.check_single(terms=7 + 7 + 1)  # rows of at most 7, then at most 7 rows, then a division


def test_the_mean_of_a_large_image_is_as_exact_as_its_rows_and_columns_are_long(at_point):
    """A sum of 600 x 600 numbers one after another would be off by about 1e-3; rows first, by 600 + 600 roundings."""
    x = np.full((1, 1, 600, 600), 0.1, dtype=np.float32)
    mean = at_point(GlobalAvgPool2D, x, dtype="float32").z[0, 0]
    assert abs(float(mean) / float(np.float32(0.1)) - 1) < 1200 * 0.5 * np.finfo(np.float32).eps


def test_finite_differences(at_point, rng):
    at_point(GlobalAvgPool2D, rng.normal(size=(2, 3, 3, 4))).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_image_of_the_notes(at_point, dtype):
    point = at_point(GlobalAvgPool2D, [[NOTES, np.eye(4) * 8]], dtype=dtype, dL_dz=[[16, 32]])
    assert point.z.tolist() == [[2.75, 2]]
    assert point.dL_dx[0].tolist() == [[[[1] * 4] * 4, [[2] * 4] * 4]]


@given(SHAPES, st.integers(0, 99))
def test_it_is_a_window_as_large_as_the_image_and_a_flatten(close, shape, seed):
    rng = np.random.default_rng(seed)
    x, dL_dz = rng.normal(size=shape), rng.normal(size=shape[:2])
    image, other = Input(shape[1:]), Input(shape[1:])
    pooled = Network(image, GlobalAvgPool2D()(image), dtype="float64", threads=1)
    # 7 x 7 is the one window that is compiled; smaller images are put into its corner
    padding = (0, 7 - shape[2], 0, 7 - shape[3])
    window = Network(other, Flatten()(AvgPool2D(7, padding=padding)(other)), dtype="float64", threads=1)
    factor = 49 / (shape[2] * shape[3])  # the zeros around a smaller image count in the window's mean
    close(pooled.forward(x), factor * window.forward(x), 1e-12)
    close(pooled.backward(dL_dz), factor * window.backward(dL_dz), 1e-12)


@given(st.permutations(range(12)), st.integers(0, 99))
def test_where_a_feature_stands_does_not_matter(at_point, close, order, seed):
    x = np.random.default_rng(seed).normal(size=(3, 2, 3, 4))
    moved = x.reshape(3, 2, 12)[:, :, order].reshape(3, 2, 3, 4)
    close(at_point(GlobalAvgPool2D, moved).z, at_point(GlobalAvgPool2D, x).z, 1e-14)


def test_a_brighter_image_has_a_brighter_mean_and_channels_do_not_mix(at_point, close, rng):
    x, shift = rng.normal(size=(3, 4, 5, 3)), np.array([1.0, 0, -2, 0])
    one, other = at_point(GlobalAvgPool2D, x), at_point(GlobalAvgPool2D, x + shift[:, None, None])
    close(other.z, one.z + shift, 1e-13)


def test_the_gradient_is_only_spread(at_point, close, rng):
    point = at_point(GlobalAvgPool2D, rng.normal(size=(17, 2, 5, 3)))
    close(point.dL_dx[0].sum(axis=(2, 3)), point.dL_dz, 1e-13)
    assert (point.dL_dx[0] == point.dL_dx[0][:, :, :1, :1]).all()


def test_a_second_pass_starts_from_nothing(at_point, rng):
    point, x = at_point(GlobalAvgPool2D, rng.normal(size=(5, 2, 3, 3))), rng.normal(size=(5, 2, 3, 3))
    fresh = at_point(GlobalAvgPool2D, x)
    np.testing.assert_array_equal(point.network.forward([x]), fresh.z)
    np.testing.assert_array_equal(point.network.backward(fresh.dL_dz)[0], fresh.dL_dx[0])


def test_a_batch_is_its_parts(at_point, rng):
    at_point(GlobalAvgPool2D, rng.normal(size=(35, 2, 4, 4))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point, rng):
    x = rng.normal(size=(35, 2, 4, 3))
    one, two = at_point(GlobalAvgPool2D, x), at_point(GlobalAvgPool2D, x, threads=2)
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_stays_in_its_channel(at_point, rng, bad):
    x = rng.normal(size=(20, 2, 4, 4))
    x[17, 1, 0, 3] = bad
    point = at_point(GlobalAvgPool2D, x)
    touched = np.zeros((20, 2), dtype=bool)
    touched[17, 1] = True
    np.testing.assert_array_equal(point.z[touched], [bad])
    assert np.isfinite(point.z[~touched]).all() and np.isfinite(point.dL_dx[0]).all()


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99))
def test_pytorch_agrees(at_point, close, shape, seed):
    torch = pytest.importorskip("torch")
    point = at_point(GlobalAvgPool2D, np.random.default_rng(seed).normal(size=shape))
    x = torch.tensor(point.x[0], requires_grad=True)
    z = torch.nn.AdaptiveAvgPool2d(1)(x).flatten(1)
    z.backward(torch.tensor(point.dL_dz))
    close(point.z, z.detach().numpy(), 1e-12)
    close(point.dL_dx[0], x.grad.numpy(), 1e-12)


def test_shapes_and_the_error_for_a_flat_input():
    assert GlobalAvgPool2D()(Input((1024, 7, 7))).shape == (1024,)
    assert GlobalAvgPool2D()(Input((1, 1, 9))).shape == (1,)
    with pytest.raises(ShapeError) as caught:
        GlobalAvgPool2D(name="g1")(Input((400,)))
    assert str(caught.value) == (
        "GlobalAvgPool2D 'g1': got an input of 400, expected an image of channels x rows x columns"
    )
