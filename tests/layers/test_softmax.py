"""Softmax: kernels, literal code, finite differences, its Jacobian and the notes' numbers agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, Softmax
from handgrad.engine.checks import ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12))


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 300]))
def test_kernel_is_the_literal_code(at_point, shape, seed, spread):
    at_point(Softmax, spread * np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, close, shape, seed):
    """z - m is off by eps/2 of at most 8, its exponential and the sum of K by 2 and K eps more."""
    z = np.random.default_rng(seed).uniform(-4, 4, size=shape).astype(np.float32)
    single = at_point(Softmax, z, dtype="float32")
    double = at_point(Softmax, z, dL_dz=single.dL_dz)
    limit = (4 + 4 + shape[1]) * np.finfo(np.float32).eps
    assert (np.abs(single.z - double.z) <= limit * double.z).all()
    size = np.abs(single.dL_dz).max(axis=1, keepdims=True)
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= 3 * limit * size).all()  # p, the mean, and p again


def test_finite_differences(at_point, rng):
    at_point(Softmax, rng.normal(size=(4, 5))).check_differences()


def test_example_of_the_notes(at_point, close):
    point = at_point(Softmax, [[1.2, 0.9, 0.4]], dL_dz=[[-1, 0, 0]])
    exact = np.exp([1.2, 0.9, 0.4]) / np.exp([1.2, 0.9, 0.4]).sum()
    close(point.z[0], exact, 1e-15)
    assert point.z.round(2).tolist() == [[0.46, 0.34, 0.21]]  # S3 prints .20 for the last, which is .2052
    assert point.dL_dx[0].round(2).tolist() == [[-0.25, 0.15, 0.09]]


def test_probabilities_by_hand(at_point, close):
    point = at_point(Softmax, [[math.log(1), math.log(2), math.log(5)]], dL_dz=[[8, 0, 0]])
    close(point.z, [[1 / 8, 2 / 8, 5 / 8]], 1e-15)
    close(point.dL_dx[0], [[7 / 8, -2 / 8, -5 / 8]], 1e-14)  # p_k (8 [k=0] - 1)


@given(SHAPES, st.integers(0, 99))
def test_gradient_is_the_full_jacobian(at_point, close, shape, seed):
    point = at_point(Softmax, np.random.default_rng(seed).normal(size=shape))
    p = point.z
    jacobian = np.einsum("ni,ik->nik", p, np.eye(shape[1])) - np.einsum("ni,nk->nik", p, p)
    expected = np.einsum("ni,nik->nk", point.dL_dz, jacobian)
    np.testing.assert_allclose(point.dL_dx[0], expected, rtol=0, atol=1e-14)


@given(SHAPES, st.integers(0, 99))
def test_probabilities_sum_to_1_and_gradients_to_0(at_point, shape, seed):
    point = at_point(Softmax, 3 * np.random.default_rng(seed).normal(size=shape))
    assert (point.z > 0).all()
    np.testing.assert_allclose(point.z.sum(axis=1), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(point.dL_dx[0].sum(axis=1), 0, rtol=0, atol=1e-14)


@given(st.floats(-500, 500), st.integers(0, 99))
def test_adding_a_number_to_all_changes_nothing(at_point, shift, seed):
    z = np.random.default_rng(seed).normal(size=(3, 5))
    one = at_point(Softmax, z)
    other = at_point(Softmax, z + shift, dL_dz=one.dL_dz)
    np.testing.assert_allclose(other.z, one.z, rtol=1e-12)  # z + shift is rounded at 500 · 1e-16
    np.testing.assert_allclose(other.dL_dx[0], one.dL_dx[0], rtol=0, atol=1e-12)


@given(st.permutations(range(6)))
def test_order_of_the_classes_does_not_matter(at_point, close, order):
    z = np.random.default_rng(0).normal(size=(3, 6))
    one = at_point(Softmax, z)
    other = at_point(Softmax, z[:, order], dL_dz=one.dL_dz[:, order])
    close(other.z, one.z[:, order], 1e-14)
    close(other.dL_dx[0], one.dL_dx[0][:, order], 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers_do_not_overflow(at_point, dtype):
    point = at_point(Softmax, [[1000, 1000, -1000], [-1e30, -1e30, 1e30], [-np.inf, 0, 0]], dtype=dtype)
    assert point.z.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0, 0.5, 0.5]]
    assert np.isfinite(point.dL_dx[0]).all()


def test_one_class_is_certain(at_point):
    point = at_point(Softmax, [[-3.0], [7.0]])
    assert point.z.tolist() == [[1], [1]] and point.dL_dx[0].tolist() == [[0], [0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_number_that_is_none_stays_in_its_sample(at_point, rng, bad, place):
    z = rng.normal(size=(20, 5))
    z[17, place] = bad
    point = at_point(Softmax, z)
    assert np.isnan(point.z[17]).any() and np.isnan(point.dL_dx[0][17]).any()
    assert np.isfinite(np.delete(point.z, 17, axis=0)).all()
    assert np.isfinite(np.delete(point.dL_dx[0], 17, axis=0)).all()


def test_a_batch_is_its_parts(at_point, rng):
    at_point(Softmax, rng.normal(size=(35, 7))).check_parts(18)


def test_an_image_must_be_flattened_first():
    with pytest.raises(ShapeError, match="^Softmax 'p': got an input of 2 x 3 x 3, expected a flat one; put a Flatten"):
        Softmax(name="p")(Input((2, 3, 3)))
