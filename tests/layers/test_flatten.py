"""Flatten: only places are renamed, in row-major order, and no memory is copied."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Dense, Flatten, Input, Network, ReLU

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


@given(SHAPES, st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, shape, seed):
    at_point(Flatten, np.random.default_rng(seed).normal(size=shape), seed=seed).check_literal()


@given(SHAPES, st.sampled_from(["float32", "float64"]))
def test_it_is_a_reshape(at_point, shape, dtype):
    x = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    point = at_point(Flatten, x, dtype=dtype)
    np.testing.assert_array_equal(point.z, x.reshape(len(x), -1))
    np.testing.assert_array_equal(point.dL_dx[0], point.dL_dz.reshape(shape))


def test_finite_differences(at_point, rng):
    at_point(Flatten, rng.normal(size=(2, 2, 2, 3))).check_differences()


def test_white_square_of_the_notes(at_point):
    image = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert at_point(Flatten, [[image]]).z.tolist() == [[1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]


def test_sizes_of_the_notes():
    assert Flatten()(Input((1, 28, 28))).shape == (784,)
    assert Flatten()(Input((40, 5, 5))).shape == (1000,)
    assert Flatten()(Input((7,))).shape == (7,)


def test_value_and_gradient_are_the_same_memory(rng):
    image = Input((2, 3, 3))
    network = Network(image, Dense(4)(Flatten()(ReLU()(image))), threads=1)
    network.backward(np.ones_like(network.forward(rng.normal(size=(5, 2, 3, 3)))))
    part = network.last_pass.active[0]
    assert np.shares_memory(part.values["flatten1"], part.values["relu1"])
    assert np.shares_memory(part.gradients["flatten1"], part.gradients["relu1"])
    np.testing.assert_array_equal(network.values["flatten1"], network.values["relu1"].reshape(5, -1))


def test_numbers_that_are_none_pass(at_point):
    x = np.zeros((17, 1, 2, 2))
    x[16, 0, 1, 0] = np.nan
    point = at_point(Flatten, x)
    assert np.argwhere(np.isnan(point.z)).tolist() == [[16, 2]]
