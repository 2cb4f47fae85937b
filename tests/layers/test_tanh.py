"""Hyperbolic tangent: kernels, literal code, finite differences and known values agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, Sigmoid, Tanh

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)
SINGLE_ERROR = 4e-7  # of tanh in float32, see tests/engine/test_scalar.py


@given(SHAPES, st.integers(0, 99), st.sampled_from([0.01, 1, 20]))
def test_kernel_is_the_literal_code(at_point, shape, seed, spread):
    at_point(Tanh, spread * np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99), st.sampled_from([0.01, 1, 20]))
def test_float32_is_float64_but_for_rounding(at_point, shape, seed, spread):
    z = (spread * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)
    single = at_point(Tanh, z, dtype="float32")
    double = at_point(Tanh, z, dL_dz=single.dL_dz)
    assert (np.abs(single.z - double.z) <= SINGLE_ERROR * np.abs(double.z)).all()
    # an error of a turns into twice that in 1 - a², and the two operations after it are rounded
    bound = (2 * SINGLE_ERROR + 3 * np.finfo(np.float32).eps) * np.abs(single.dL_dz)
    assert (np.abs(single.dL_dx[0] - double.dL_dx[0]) <= bound).all()


def test_finite_differences(at_point, rng):
    at_point(Tanh, rng.normal(size=(3, 5))).check_differences()


def test_known_values(at_point, close):
    z = [0, math.log(2), -math.log(3)]  # tanh(log n) = (n² - 1) / (n² + 1)
    point = at_point(Tanh, [z], dL_dz=[[1, 1, 1]])
    close(point.z, [[0, 0.6, -0.8]], 1e-15)
    close(point.dL_dx[0], [[1, 0.64, 0.36]], 1e-15)


@given(st.integers(0, 99))
def test_it_is_a_stretched_sigmoid(at_point, close, seed):
    z = np.random.default_rng(seed).normal(size=(4, 6))
    stretched = at_point(Sigmoid, 2 * z)
    point = at_point(Tanh, z, dL_dz=stretched.dL_dz)
    close(point.z, 2 * stretched.z - 1, 1e-14)
    close(point.dL_dx[0], 4 * stretched.dL_dx[0], 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturates_without_overflow(at_point, dtype):
    point = at_point(Tanh, [[-1e30, 1e30, -np.inf, np.inf, -100, 100]], dtype=dtype)
    assert point.z.tolist() == [[-1, 1, -1, 1, -1, 1]]
    assert not point.dL_dx[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_survives_in_its_place(at_point, dtype):
    z = np.zeros((20, 3))
    z[17, 1] = np.nan
    point = at_point(Tanh, z, dtype=dtype)
    np.testing.assert_array_equal(np.isnan(point.z), np.isnan(z))
    np.testing.assert_array_equal(np.isnan(point.dL_dx[0]), np.isnan(z))


def test_a_batch_is_its_parts(at_point, rng):
    at_point(Tanh, rng.normal(size=(35, 7))).check_parts(18)


def test_any_shape():
    assert Tanh()(Input((3, 4, 5))).shape == (3, 4, 5)
