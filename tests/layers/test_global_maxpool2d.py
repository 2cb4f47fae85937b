"""Global max pooling: kernels, literal code, finite differences, PyTorch and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handgrad.engine import Flatten, GlobalMaxPool2D, Input, MaxPool2D, Network
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
NOTES = [[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]  # the image of S2's average pooling


def image_of(shape, seed, ties):
    """Random numbers; with ties, all are -1 or 0 or -0, so that many win and a lane of zeros would win as well."""
    rng = np.random.default_rng(seed)
    return -rng.integers(0, 2, size=shape).astype(float) if ties else rng.normal(size=shape)


@example((1, 1, 1, 1), 0, True)
@example((17, 3, 5, 4), 0, False)
@example((35, 1, 3, 7), 0, True)
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(at_point, shape, seed, ties):
    at_point(GlobalMaxPool2D, image_of(shape, seed, ties), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64(at_point, shape, seed):
    """Values and gradients are copies, so both are equal to the last bit."""
    x = image_of(shape, seed, ties=False).astype(np.float32)
    single = at_point(GlobalMaxPool2D, x, dtype="float32")
    double = at_point(GlobalMaxPool2D, x, dL_dz=single.dL_dz)
    assert single.z.dtype == single.dL_dx[0].dtype == np.float32
    np.testing.assert_array_equal(single.z, double.z)
    np.testing.assert_array_equal(single.dL_dx[0], double.dL_dx[0])


def test_finite_differences(at_point, rng):
    distinct = rng.permutation(2 * 3 * 3 * 4).reshape(2, 3, 3, 4) * 0.1  # neighbours differ by far more than h
    at_point(GlobalMaxPool2D, distinct).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_image_of_the_notes(at_point, dtype):
    point = at_point(GlobalMaxPool2D, [[NOTES, np.eye(4) - 3]], dtype=dtype, dL_dz=[[16, 32]])
    assert point.z.tolist() == [[9, -2]]
    first, second = point.dL_dx[0][0]
    assert first.tolist() == [[0, 0, 0, 0], [0, 16, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert second.tolist() == [[32, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_the_first_of_equal_values_wins_in_row_major_order(at_point):
    x = [[[[0, 0, 7], [7, 7, 1]]]]
    assert at_point(GlobalMaxPool2D, x, dL_dz=[[5]]).dL_dx[0].tolist() == [[[[0, 0, 5], [0, 0, 0]]]]
    assert at_point(GlobalMaxPool2D, np.ones((1, 1, 2, 2)), dL_dz=[[5]]).dL_dx[0].tolist() == [[[[5, 0], [0, 0]]]]


@given(SHAPES, st.integers(0, 99), st.booleans())
def test_it_is_a_window_as_large_as_the_image_and_a_flatten(shape, seed, ties):
    x, dL_dz = image_of(shape, seed, ties), np.random.default_rng(seed).normal(size=shape[:2])
    image, other = Input(shape[1:]), Input(shape[1:])
    pooled = Network(image, GlobalMaxPool2D()(image), dtype="float64", threads=1)
    # 8 x 8 is the one window that is compiled; its border, which never wins, fills it up
    padding = (0, 8 - shape[2], 0, 8 - shape[3])
    window = Network(other, Flatten()(MaxPool2D(8, padding=padding)(other)), dtype="float64", threads=1)
    np.testing.assert_array_equal(pooled.forward(x), window.forward(x))
    np.testing.assert_array_equal(pooled.backward(dL_dz), window.backward(dL_dz))


@given(st.permutations(range(12)), st.integers(0, 99))
def test_where_a_feature_stands_does_not_matter_and_its_gradient_goes_with_it(at_point, order, seed):
    x = np.random.default_rng(seed).normal(size=(3, 2, 3, 4))
    moved = x.reshape(3, 2, 12)[:, :, order].reshape(3, 2, 3, 4)
    one = at_point(GlobalMaxPool2D, x)
    other = at_point(GlobalMaxPool2D, moved, dL_dz=one.dL_dz)
    np.testing.assert_array_equal(one.z, other.z)
    np.testing.assert_array_equal(one.dL_dx[0].reshape(3, 2, 12)[:, :, order], other.dL_dx[0].reshape(3, 2, 12))


def test_one_pixel_of_each_channel_gets_the_whole_gradient(at_point, rng):
    point = at_point(GlobalMaxPool2D, rng.normal(size=(35, 3, 5, 4)))
    np.testing.assert_array_equal(np.count_nonzero(point.dL_dx[0], axis=(2, 3)), 1)
    np.testing.assert_array_equal(point.dL_dx[0].sum(axis=(2, 3)), point.dL_dz)
    np.testing.assert_array_equal(point.z, point.x[0].max(axis=(2, 3)))


def test_a_second_pass_starts_from_nothing(at_point, rng):
    point, x = at_point(GlobalMaxPool2D, 9 + rng.normal(size=(5, 2, 3, 3))), rng.normal(size=(5, 2, 3, 3))
    fresh = at_point(GlobalMaxPool2D, x)
    np.testing.assert_array_equal(point.network.forward([x]), fresh.z)
    np.testing.assert_array_equal(point.network.backward(fresh.dL_dz)[0], fresh.dL_dx[0])


def test_a_batch_is_its_parts(at_point, rng):
    at_point(GlobalMaxPool2D, rng.normal(size=(35, 2, 4, 4))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point, rng):
    x = rng.normal(size=(35, 2, 4, 3))
    one, two = at_point(GlobalMaxPool2D, x), at_point(GlobalMaxPool2D, x, threads=2)
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


@pytest.mark.parametrize("places", [[(0, 0)], [(1, 1)], [(0, 1), (1, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)]])
def test_nan_wins_and_stays_in_its_channel(at_point, places):
    x = np.tile(np.arange(4.0).reshape(2, 2), (20, 2, 1, 1))
    for a, b in places:
        x[17, 1, a, b] = np.nan
    point = at_point(GlobalMaxPool2D, x)
    assert np.argwhere(np.isnan(point.z)).tolist() == [[17, 1]]
    assert point.dL_dx[0][17, 1][places[-1]] == point.dL_dz[17, 1]  # the last NaN, as in PyTorch
    point.check_literal()
    others = np.delete(np.arange(20), 17)
    assert (point.z[others] == 3).all() and (point.dL_dx[0][others, :, 1, 1] == point.dL_dz[others]).all()


def test_infinities_are_values_like_others(at_point):
    x = [[[[-np.inf, -np.inf]], [[1, np.inf]], [[-np.inf, 2]]]]
    point = at_point(GlobalMaxPool2D, x, dL_dz=[[3, 5, 7]])
    assert point.z.tolist() == [[-np.inf, np.inf, 2]]
    assert point.dL_dx[0].tolist() == [[[[3, 0]], [[0, 5]], [[0, 7]]]]


def test_an_infinite_gradient_makes_no_nan_in_the_pixels_that_lost(at_point):
    point = at_point(GlobalMaxPool2D, [[[[1, 2, 0]]]], dL_dz=[[np.inf]])
    assert point.dL_dx[0].tolist() == [[[[0, np.inf, 0]]]]


def test_decisions_are_the_winners(at_point):
    point = at_point(GlobalMaxPool2D, [[NOTES, np.eye(4)]])
    share = point.network.last_pass.active[0].shares[point.name]
    assert point.layer.decisions(share)[0, :, 0].tolist() == [1 * 4 + 1, 0]
    point.network.forward([np.array([[np.eye(4)[::-1], NOTES]])])
    assert point.layer.decisions(share)[0, :, 0].tolist() == [3, 1 * 4 + 1]


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.booleans(), st.booleans())
def test_pytorch_agrees(at_point, shape, seed, ties, with_nan):
    torch = pytest.importorskip("torch")
    x = image_of(shape, seed, ties)
    if with_nan:
        x[np.random.default_rng(seed).uniform(size=shape) < 0.1] = np.nan
    point = at_point(GlobalMaxPool2D, x)
    x = torch.tensor(x, requires_grad=True)
    z = torch.nn.AdaptiveMaxPool2d(1)(x).flatten(1)
    z.backward(torch.tensor(point.dL_dz))
    np.testing.assert_array_equal(point.z, z.detach().numpy())
    np.testing.assert_array_equal(point.dL_dx[0], x.grad.numpy())


def test_shapes_and_the_error_for_a_flat_input():
    assert GlobalMaxPool2D()(Input((512, 7, 7))).shape == (512,)
    assert GlobalMaxPool2D()(Input((1, 1, 9))).shape == (1,)
    with pytest.raises(ShapeError) as caught:
        GlobalMaxPool2D(name="g1")(Input((400,)))
    assert str(caught.value) == (
        "GlobalMaxPool2D 'g1': got an input of 400, expected an image of channels x rows x columns"
    )
