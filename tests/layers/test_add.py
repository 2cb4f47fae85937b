"""Add: the sum of branches forward, the same gradient to each of them backward."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import add as derivation
from handgrad.engine import Add, Input
from handgrad.engine.checks import ConfigurationError, ShapeError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


@given(SHAPES, st.integers(2, 4), st.integers(0, 99))
def test_kernel_is_the_literal_code(at_point, shape, branches, seed):
    x = np.random.default_rng(seed).normal(size=(branches, *shape))
    at_point(Add, *x, seed=seed).check_literal()


@given(SHAPES, st.integers(2, 4), st.integers(0, 99))
def test_float32_is_float64_but_for_rounding(at_point, shape, branches, seed):
    x = np.random.default_rng(seed).normal(size=(branches, *shape))
    at_point(Add, *x, seed=seed).check_single(terms=branches)


def test_finite_differences(at_point, rng):
    at_point(Add, *rng.normal(size=(3, 2, 4))).check_differences()


def test_fan_out_of_the_literal_code_is_the_mirror_image():
    parts = [np.array([1, 2], dtype=object), np.array([10, 20], dtype=object), np.array([100, 200], dtype=object)]
    assert derivation.fan_out(*parts).tolist() == [111, 222]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_hand(at_point, dtype):
    point = at_point(Add, [[1, 2]], [[10, 20]], [[100, 200]], dtype=dtype, dL_dz=[[3, 4]])
    assert point.z.tolist() == [[111, 222]]
    assert [dL_dx.tolist() for dL_dx in point.dL_dx] == [[[3, 4]]] * 3


@given(st.permutations(range(4)))
def test_order_does_not_matter(at_point, close, order):
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    close(at_point(Add, *x[list(order)]).z, at_point(Add, *x).z, 1e-15)


def test_nan_stays_in_its_place(at_point):
    x, y = np.zeros((17, 3)), np.ones((17, 3))
    x[16, 1] = np.nan
    assert np.argwhere(np.isnan(at_point(Add, x, y).z)).tolist() == [[16, 1]]


def test_a_batch_is_its_parts(at_point, rng):
    at_point(Add, *rng.normal(size=(2, 35, 3))).check_parts(18)


def test_inputs_can_be_a_list():
    x, y = Input((3,)), Input((3,))
    assert Add()([x, y]).inputs == (x, y)


def test_errors_name_the_layer_and_the_shapes():
    with pytest.raises(ShapeError, match=r"^Add 'skip': got inputs of \(3,\) and \(4,\), expected inputs of one shape"):
        Add(name="skip")(Input((3,)), Input((3,)), Input((4,)))
    with pytest.raises(ConfigurationError, match="^Add 'skip': got 1 inputs, expected two or more"):
        Add(name="skip")(Input((3,)))
