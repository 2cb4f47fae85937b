"""Sigmoid: kernels, literal code, finite differences and known values agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, Sigmoid

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10, 300]))
def test_kernel_is_the_literal_code(at_point, shape, seed, spread):
    at_point(Sigmoid, spread * np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99), st.sampled_from([1, 10]))
def test_float32_is_float64_but_for_rounding(at_point, close, shape, seed, spread):
    """Five operations are rounded: exp (2 eps), sum, quotient, 1 - a and two products; 10 eps of the largest."""
    z = (spread * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)
    single = at_point(Sigmoid, z, dtype="float32")
    double = at_point(Sigmoid, z, dL_dz=single.dL_dz)
    assert single.z.dtype == single.dL_dx[0].dtype == np.float32
    eps = np.finfo(np.float32).eps
    assert (np.abs(single.z - double.z) <= 10 * eps * double.z).all()  # relative to each: no value cancels
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= 10 * eps * np.abs(single.dL_dz)).all()


def test_finite_differences(at_point, rng):
    at_point(Sigmoid, rng.normal(size=(3, 5))).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_known_values(at_point, close, dtype):
    z = [0, math.log(3), -math.log(3), math.log(9)]
    point = at_point(Sigmoid, [z], dtype=dtype, dL_dz=[[1, 1, 1, 1]])
    limit = 4 * np.finfo(dtype).eps
    close(point.z, [[0.5, 0.75, 0.25, 0.9]], limit)
    close(point.dL_dx[0], [[0.25, 0.1875, 0.1875, 0.09]], limit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers_do_not_overflow(at_point, dtype):
    point = at_point(Sigmoid, [[-1e30, 1e30, -np.inf, np.inf, -1000, 1000]], dtype=dtype)
    assert point.z.tolist() == [[0, 1, 0, 1, 0, 1]]
    assert not point.dL_dx[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_survives_in_its_place(at_point, dtype):
    z = np.zeros((20, 3))
    z[17, 1] = np.nan
    point = at_point(Sigmoid, z, dtype=dtype)
    np.testing.assert_array_equal(np.isnan(point.z), np.isnan(z))
    np.testing.assert_array_equal(np.isnan(point.dL_dx[0]), np.isnan(z))


@given(st.integers(0, 99))
def test_symmetry_bounds_and_slope(at_point, close, seed):
    z = 5 * np.random.default_rng(seed).normal(size=(4, 6))
    ones = np.ones_like(z)
    point, mirrored = at_point(Sigmoid, z, dL_dz=ones), at_point(Sigmoid, -z, dL_dz=ones)
    close(point.z + mirrored.z, ones, 1e-15)
    assert ((point.z > 0) & (point.z < 1)).all()
    assert ((point.dL_dx[0] > 0) & (point.dL_dx[0] <= 0.25)).all()


def test_a_batch_is_its_parts(at_point, rng):
    at_point(Sigmoid, rng.normal(size=(35, 7))).check_parts(18)


def test_any_shape():
    assert Sigmoid()(Input((3, 4, 5))).shape == (3, 4, 5)
