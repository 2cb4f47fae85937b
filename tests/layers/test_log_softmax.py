"""Log-softmax: kernels, literal code, finite differences, its Jacobian and the softmax agree, for huge numbers too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, LogSoftmax, Softmax, SoftmaxCrossEntropy
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12))


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 300]))
def test_kernel_is_the_literal_code(at_point, shape, seed, spread):
    at_point(LogSoftmax, spread * np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, shape, seed):
    """z - m is off by eps/2 of at most 8; the sum of K exponentials by K + 10 eps of itself, its logarithm by as much.

    The sum lies between 1 and 12, its logarithm below 2.5: in y both errors add up. p = exp(y) is off by that part of
    itself, and is multiplied with a sum of K gradients.
    """
    z = np.random.default_rng(seed).uniform(-4, 4, size=shape).astype(np.float32)
    single = at_point(LogSoftmax, z, dtype="float32")
    double = at_point(LogSoftmax, z, dL_dz=single.dL_dz)
    limit = (4 + shape[1] + 10 + 11) * np.finfo(np.float32).eps
    assert single.z.dtype == single.dL_dx[0].dtype == np.float32
    assert (np.abs(single.z - double.z) <= limit).all()
    size = np.abs(single.dL_dz).sum(axis=1, keepdims=True)
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= 2 * limit * size).all()


def test_finite_differences(at_point, rng):
    at_point(LogSoftmax, rng.normal(size=(4, 5))).check_differences()


def test_probabilities_by_hand(at_point, close):
    point = at_point(LogSoftmax, [[math.log(1), math.log(2), math.log(5)]], dL_dz=[[8, 0, 0]])
    close(point.z, [[-math.log(8), -math.log(4), math.log(5 / 8)]], 1e-15)
    close(point.dL_dx[0], [[8 - 1, -2, -5]], 1e-14)  # 8 [k=0] - p_k 8


def test_example_of_the_notes(at_point):
    point = at_point(LogSoftmax, [[1.2, 0.9, 0.4]], dL_dz=[[-1, 0, 0]])  # S3's softmax
    assert np.exp(point.z).round(2).tolist() == [[0.46, 0.34, 0.21]]
    assert point.dL_dx[0].round(2).tolist() == [[-0.54, 0.34, 0.21]]  # p - t


@given(SHAPES, st.integers(0, 99))
def test_gradient_is_the_full_jacobian(at_point, close, shape, seed):
    point = at_point(LogSoftmax, np.random.default_rng(seed).normal(size=shape))
    jacobian = np.eye(shape[1])[None] - np.exp(point.z)[:, None, :]  # (N, i, k)
    expected = np.einsum("ni,nik->nk", point.dL_dz, jacobian)
    np.testing.assert_allclose(point.dL_dx[0], expected, rtol=0, atol=1e-13)


@given(SHAPES, st.integers(0, 99))
def test_it_is_the_logarithm_of_the_softmax(at_point, close, shape, seed):
    z = np.random.default_rng(seed).normal(size=shape)
    point = at_point(LogSoftmax, z)
    p = at_point(Softmax, z, dL_dz=point.dL_dz * np.exp(-point.z))  # dL/dp = dL/dy / p
    close(np.exp(point.z), p.z, 1e-14)
    np.testing.assert_allclose(point.dL_dx[0], p.dL_dx[0], rtol=0, atol=1e-12)


@given(SHAPES, st.integers(0, 99))
def test_picking_the_true_class_is_the_cross_entropy(at_point, close, shape, seed):
    """S4's network ends in log_softmax, and its loss only picks -y[label] and takes the mean."""
    rng = np.random.default_rng(seed)
    z, labels = 5 * rng.normal(size=shape), rng.integers(0, shape[1], size=shape[0])
    picked = -np.eye(shape[1])[labels] / shape[0]
    point = at_point(LogSoftmax, z, dL_dz=picked)
    L, dL_dz = SoftmaxCrossEntropy()(z, labels)
    np.testing.assert_allclose((picked * point.z).sum(), L, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(point.dL_dx[0], dL_dz, rtol=0, atol=1e-14)


@given(SHAPES, st.integers(0, 99))
def test_exponentials_sum_to_1_and_gradients_to_0(at_point, shape, seed):
    point = at_point(LogSoftmax, 3 * np.random.default_rng(seed).normal(size=shape))
    assert (point.z <= 0).all()
    np.testing.assert_allclose(np.exp(point.z).sum(axis=1), 1, rtol=0, atol=1e-14)
    size = np.abs(point.dL_dz).sum(axis=1)
    assert (np.abs(point.dL_dx[0].sum(axis=1)) <= 1e-14 * (1 + size)).all()


@given(st.floats(-500, 500), st.integers(0, 99))
def test_adding_a_number_to_all_changes_nothing(at_point, shift, seed):
    z = np.random.default_rng(seed).normal(size=(3, 5))
    one = at_point(LogSoftmax, z)
    other = at_point(LogSoftmax, z + shift, dL_dz=one.dL_dz)
    np.testing.assert_allclose(other.z, one.z, rtol=0, atol=1e-12)  # z + shift is rounded at 500 · 1e-16
    np.testing.assert_allclose(other.dL_dx[0], one.dL_dx[0], rtol=0, atol=1e-12)


@given(st.permutations(range(6)))
def test_order_of_the_classes_does_not_matter(at_point, close, order):
    z = np.random.default_rng(0).normal(size=(3, 6))
    one = at_point(LogSoftmax, z)
    other = at_point(LogSoftmax, z[:, order], dL_dz=one.dL_dz[:, order])
    close(other.z, one.z[:, order], 1e-14)
    close(other.dL_dx[0], one.dL_dx[0][:, order], 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_far_apart_neither_overflow_nor_become_minus_infinity(at_point, dtype):
    z = [[1000, 1000, -1000], [-1e30, -1e30, 1e30], [-np.inf, 0, 0]]
    point = at_point(LogSoftmax, z, dtype=dtype, dL_dz=[[-1, 0, 0], [-1, 0, 0], [0, -1, 0]])
    half = float(np.log(np.dtype(dtype).type(2)))
    below = float(np.dtype(dtype).type(-2000) - np.dtype(dtype).type(half))
    far = float(2 * np.dtype(dtype).type(-1e30))
    np.testing.assert_allclose(
        point.z, [[-half, -half, below], [far, far, 0], [-np.inf, -half, -half]], rtol=2 * np.finfo(dtype).eps
    )
    np.testing.assert_allclose(
        point.dL_dx[0], [[-0.5, 0.5, 0], [-1, 0, 1], [0, -0.5, 0.5]], rtol=4 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize(("dtype", "huge"), [("float32", 1e8), ("float64", 1e17)])
@pytest.mark.parametrize("K", [2, 3, 8, 33])
def test_huge_numbers_do_not_swallow_the_logarithm(at_point, dtype, huge, K):
    """m + log K rounds to m here: the logarithm must be subtracted from the difference z - m."""
    for z in (np.full((17, K), huge), np.full((17, K), -huge)):
        point = at_point(LogSoftmax, z, dtype=dtype)
        np.testing.assert_allclose(point.z, np.full((17, K), -math.log(K)), rtol=4 * np.finfo(dtype).eps)


def test_one_class_is_certain(at_point):
    point = at_point(LogSoftmax, [[-3.0], [7.0]])
    assert point.z.tolist() == [[0], [0]] and point.dL_dx[0].tolist() == [[0], [0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_number_that_is_none_stays_in_its_sample(at_point, rng, bad, place):
    z = rng.normal(size=(20, 5))
    z[17, place] = bad
    point = at_point(LogSoftmax, z)
    assert np.isnan(point.z[17]).any() and np.isnan(point.dL_dx[0][17]).any()
    assert np.isfinite(np.delete(point.z, 17, axis=0)).all()
    assert np.isfinite(np.delete(point.dL_dx[0], 17, axis=0)).all()


def test_a_batch_is_its_parts(at_point, rng):
    at_point(LogSoftmax, rng.normal(size=(35, 7))).check_parts(18)


def test_two_threads_give_what_one_gives(at_point, rng):
    z = rng.normal(size=(70, 5))
    one, two = (at_point(LogSoftmax, z, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.dL_dx[0], two.dL_dx[0])


def test_buffers_are_overwritten(at_point, rng):
    z = rng.normal(size=(5, 3))
    point, fresh = at_point(LogSoftmax, np.full((5, 3), np.nan)), at_point(LogSoftmax, z)
    np.testing.assert_array_equal(point.network.forward([z]), fresh.z)
    np.testing.assert_array_equal(point.network.backward(fresh.dL_dz)[0], fresh.dL_dx[0])


def test_an_image_must_be_flattened_first():
    with pytest.raises(ShapeError) as caught:
        LogSoftmax(name="y")(Input((2, 3, 3)))
    expected = "LogSoftmax 'y': got an input of 2 x 3 x 3, expected a flat one; put a Flatten before it"
    assert str(caught.value) == expected


@pytest.mark.parity
@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 300]))
def test_pytorch_agrees(at_point, close, shape, seed, spread):
    torch = pytest.importorskip("torch")
    values = spread * np.random.default_rng(seed).normal(size=shape)
    point = at_point(LogSoftmax, values, seed=seed)
    z = torch.tensor(values, requires_grad=True)
    y = torch.log_softmax(z, dim=1)
    y.backward(torch.tensor(point.dL_dz))
    close(point.z, y.detach().numpy(), 1e-14)
    np.testing.assert_allclose(point.dL_dx[0], z.grad.numpy(), rtol=0, atol=1e-13)
