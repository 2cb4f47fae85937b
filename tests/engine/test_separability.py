"""Whether a line separates two sets: a proof either way, checked by the proof itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine.separability import common_point

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))


def check(common, first, second):
    """Demand that the point is what it says: the same mixture of samples of both sets."""
    for points, share in zip((first, second), common.shares, strict=True):
        weights = np.array([w for _, w in share])
        assert (weights > 0).all() and abs(weights.sum() - 1) < 1e-9
        assert all((points == p).all(axis=1).any() for p, _ in share)
        np.testing.assert_allclose(sum(w * p for p, w in share), common.point, rtol=0, atol=1e-8 * np.abs(points).max())


def test_xor_and_its_proof():
    first, second = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]])
    common = common_point(first, second)
    np.testing.assert_allclose(common.point, [0.5, 0.5], atol=1e-12)
    check(common, first, second)


@pytest.mark.parametrize("first", [[[1, 1]], [[0, 1], [1, 0], [1, 1]], [[0, 0]]], ids=["and", "or", "nor"])
def test_other_functions_of_two_bits(first):
    every = {(0, 0), (0, 1), (1, 0), (1, 1)}
    second = np.array(sorted(every - {tuple(p) for p in first}))
    assert common_point(np.array(first), second) is None


@given(SIZES, st.integers(0, 999))
def test_sets_on_two_sides_of_a_plane_are_separable(sizes, seed):
    n, m, d = sizes
    rng = np.random.default_rng(seed)
    normal, points = rng.normal(size=d), rng.normal(size=(n + m, d))
    sides = points @ normal
    points += np.sign(sides)[:, None] * 0.1 * normal / (normal @ normal) ** 0.5  # a gap of 0.2
    if (sides > 0).all() or (sides < 0).all():
        return
    assert common_point(points[sides > 0], points[sides < 0]) is None


@given(SIZES, st.integers(0, 999))
def test_sets_that_share_a_mixture_are_not(sizes, seed):
    n, m, d = sizes
    if n == m == 1:  # two equal points, but for a rounding that is as large as all there is
        return
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    second += rng.dirichlet(np.ones(n)) @ first - rng.dirichlet(np.ones(m)) @ second
    common = common_point(first, second)
    assert common is not None
    check(common, first, second)


@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_scale_and_place_do_not_matter(size, offset):
    corners = np.array([[0, 0], [1, 1], [0, 1], [1, 0]]) * size + offset * size
    assert common_point(corners[:2], corners[2:]) is not None
    assert common_point(corners[:1], corners[1:]) is None


@pytest.mark.parametrize("gap", [1e-5, 1.0, 1e6])
def test_a_narrow_gap_between_long_sides_is_a_gap(gap):
    first, second = np.array([[0, 0], [1, 0.0]]), np.array([[0, 1], [1, 1.0]])
    assert common_point(first * [1, gap], second * [1, gap]) is None
    first[1, 1], second[1, 1] = 1, 0  # crossed
    assert common_point(first * [1, gap], second * [1, gap]) is not None


def test_one_point_in_both_sets():
    assert common_point(np.array([[3.0, 4.0]]), np.array([[3.0, 4.0], [9.0, 9.0]])).point.tolist() == [3, 4]
