"""Linear activation: kernels, literal code, finite differences and symbols agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Dense, Input, Linear, Network

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


@given(SHAPES, st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, shape, seed):
    at_point(Linear, np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.integers(0, 99))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_changes(at_point, dtype, shape, seed):
    point = at_point(Linear, np.random.default_rng(seed).normal(size=shape), dtype=dtype)
    np.testing.assert_array_equal(point.z, point.x[0])  # copies are exact, in float32 as well
    np.testing.assert_array_equal(point.dL_dx[0], point.dL_dz)


def test_finite_differences(at_point, rng):
    at_point(Linear, rng.normal(size=(3, 4))).check_differences()


def test_numbers_that_are_none_pass(at_point):
    point = at_point(Linear, [[np.nan, np.inf, -np.inf, 1.0]], dL_dz=[[1.0, 2.0, np.nan, 3.0]])
    np.testing.assert_array_equal(point.z, [[np.nan, np.inf, -np.inf, 1.0]])
    np.testing.assert_array_equal(point.dL_dx[0], [[1.0, 2.0, np.nan, 3.0]])


def test_two_linear_layers_are_one(close, rng):
    """W₂ (W₁ x + b₁) + b₂ = (W₂ W₁) x + (W₂ b₁ + b₂): depth without an activation function gains nothing."""
    x = Input((3,))
    deep = Network(x, Linear()(Dense(2)(Linear()(Dense(5)(x)))), dtype="float64", threads=1)
    for array in deep.parameters.values():
        array[...] = rng.normal(size=array.shape)
    (W1, b1, W2, b2), samples = deep.parameters.values(), rng.normal(size=(20, 3))
    close(deep.forward(samples), samples @ (W2 @ W1).T + W2 @ b1 + b2, 1e-12)


def test_any_shape():
    assert Linear()(Input((3, 4, 5))).shape == (3, 4, 5)
    assert Linear()(Input((7,))).shape == (7,)
