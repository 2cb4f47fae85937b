"""ReLU: kernels, literal code, finite differences and numbers by hand agree, at the kink as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Input, ReLU

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


@given(SHAPES, st.integers(0, 99), st.booleans())
def test_kernel_is_the_literal_code(at_point, shape, seed, kinks):
    rng = np.random.default_rng(seed)
    z = rng.integers(-1, 2, size=shape) if kinks else rng.normal(size=shape)
    at_point(ReLU, z, seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
def test_float32_is_float64(at_point, shape, seed):
    """Nothing is rounded, so both are equal to the last bit."""
    z = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    single = at_point(ReLU, z, dtype="float32")
    double = at_point(ReLU, z, dL_dz=single.dL_dz)
    np.testing.assert_array_equal(single.z, double.z)
    np.testing.assert_array_equal(single.dL_dx[0], double.dL_dx[0])


def test_finite_differences_away_from_the_kink(at_point, rng):
    z = rng.normal(size=(3, 8))
    at_point(ReLU, np.where(np.abs(z) < 0.01, 1.0, z)).check_differences()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    point = at_point(ReLU, [[-2, 0, -0.0, 3, 1e-30, -1e-30]], dtype=dtype, dL_dz=[[5, 6, 7, 8, 9, 10]])
    assert point.z.tolist() == [[0, 0, 0, 3, np.dtype(dtype).type(1e-30), 0]]
    assert point.dL_dx[0].tolist() == [[0, 0, 0, 8, 9, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_that_is_none_survives_in_its_place(at_point, dtype):
    z = np.ones((20, 3))
    z[17] = [np.nan, np.inf, -np.inf]
    point = at_point(ReLU, z, dtype=dtype)
    np.testing.assert_array_equal(point.z[17], [np.nan, np.inf, 0])
    np.testing.assert_array_equal(np.delete(point.z, 17, axis=0), np.ones((19, 3)))
    np.testing.assert_array_equal(point.dL_dx[0][17], [point.dL_dz[17, 0], point.dL_dz[17, 1], 0])


def test_nan_in_the_upstream_gradient_stops_at_a_dead_unit(at_point):
    point = at_point(ReLU, [[-1.0, 1.0]], dL_dz=[[np.nan, np.nan]])
    np.testing.assert_array_equal(point.dL_dx[0], [[0, np.nan]])


@given(st.floats(0.01, 100), st.integers(0, 99))
def test_scaling_the_input_scales_the_output(at_point, close, factor, seed):
    z = np.random.default_rng(seed).normal(size=(3, 4))
    one, other = at_point(ReLU, z), at_point(ReLU, factor * z)
    close(other.z, factor * one.z, 1e-15)
    np.testing.assert_array_equal(one.dL_dx[0], other.dL_dx[0])


def test_a_batch_is_its_parts(at_point, rng):
    at_point(ReLU, rng.normal(size=(35, 2, 3, 3))).check_parts(18)


def test_decisions_say_which_units_are_active(at_point):
    point = at_point(ReLU, [[-1.0, 0.0, 2.0]])
    share = point.network.last_pass.active[0].shares[point.name]
    assert point.layer.decisions(share)[0, :, 0].tolist() == [False, False, True]


def test_any_shape():
    assert ReLU()(Input((3, 4, 5))).shape == (3, 4, 5)
