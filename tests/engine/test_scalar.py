"""Scalar formulas: the tanh of float32 is as good as it says, and random bits look random."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine.arrays import LANES
from handgrad.engine.layers.dropout import draw_mask
from handgrad.engine.layers.tanh import tanh_forward
from handgrad.engine.scalar import random_bits

EPS = float(np.finfo(np.float32).eps)


def tanh(values, dtype):
    z = np.ascontiguousarray(values, dtype=dtype).reshape(-1)
    a = np.empty_like(z)
    tanh_forward(z, a)
    return a


def sweep():
    """Return float32 numbers of all sizes from 1e-30 to 20, dense where the curve bends."""
    return np.concatenate([np.geomspace(1e-30, 20, 200_000), np.linspace(0.01, 12, 400_000)]).astype(np.float32)


def test_tanh_of_float32_is_right_to_4e_7():
    z = sweep()
    exact = np.tanh(z.astype(np.float64))
    assert (np.abs(tanh(z, np.float32) - exact) / exact).max() < 4e-7


def test_tanh_of_float32_is_odd_to_the_last_bit():
    z = sweep()
    np.testing.assert_array_equal(tanh(-z, np.float32), -tanh(z, np.float32))
    assert tanh([0.0], np.float32)[0] == 0


def test_tanh_of_float32_never_exceeds_1():
    assert tanh(sweep(), np.float32).max() <= 1  # else 1 - a², the derivative, would be negative


def test_tanh_of_float32_saturates_at_1():
    assert tanh([9.02, 20, 1e30, np.inf], np.float32).tolist() == [1, 1, 1, 1]
    assert tanh([-9.02, -20, -1e30, -np.inf], np.float32).tolist() == [-1, -1, -1, -1]


def test_tanh_of_float32_does_not_fall_by_more_than_its_error():
    a = tanh(np.sort(sweep()), np.float32).astype(np.float64)
    assert (np.diff(a) >= -8e-7 * a[1:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_of_nan_is_nan(dtype):
    assert np.isnan(tanh([np.nan], dtype))[0]


def test_tanh_of_float64_is_that_of_the_standard_library():
    z = np.linspace(-25, 25, 20_001)
    np.testing.assert_allclose(tanh(z, np.float64), np.tanh(z), rtol=4e-16 * 4, atol=0)


# Kernels turn random bits into masks, mask = bits >= threshold; on masks there are millions to count
def masks(key, threshold, blocks=64, size=128, first_sample=0):
    mask = np.empty((blocks, size, LANES))
    draw_mask(mask, np.uint64(key), first_sample, np.uint32(threshold))
    return np.moveaxis(mask, 2, 1).reshape(blocks * LANES, size)  # (samples, size)


@pytest.mark.parametrize("key", [0, 1, 2**32, 2**63 + 12345])
def test_random_bits_are_uniform(key):
    """At 16 thresholds the share of larger bits is within 5 standard deviations, sqrt(p (1 - p) / n)."""
    for step in range(1, 16):
        p = 1 - step / 16
        mask = masks(key, step * 2**28)
        assert abs(mask.mean() - p) < 5 * np.sqrt(p * (1 - p) / mask.size)


@pytest.mark.parametrize("bit", [0, 1, 7, 15, 31, 33, 63])
@pytest.mark.parametrize("of", ["key", "position"])
def test_one_changed_bit_changes_each_of_the_32_with_probability_one_half(of, bit):
    """Each share has deviation 0.5 / sqrt(4000); of the 448 in all these tests none may be 5 of them away."""
    rng = np.random.default_rng(bit)
    flips = np.zeros(32)
    for key, position in rng.integers(2**64, size=(4000, 2), dtype=np.uint64):
        other = [key, position]
        other[of == "position"] ^= np.uint64(1) << np.uint64(bit)
        difference = int(random_bits(key, position)) ^ int(random_bits(*other))
        flips += [difference >> k & 1 for k in range(32)]
    assert np.abs(flips / 4000 - 0.5).max() < 5 * 0.5 / np.sqrt(4000)


def test_bits_of_neighbouring_positions_are_all_different_and_balanced():
    bits = np.array([random_bits(np.uint64(99), np.uint64(k)) for k in range(20_000)], dtype=np.uint32)
    assert len(np.unique(bits)) > 19_990  # among 2**32, 0.05 pairs of 20,000 numbers are equal on average
    shares = np.array([(bits >> np.uint32(k) & np.uint32(1)).mean() for k in range(32)])
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2**32), (5, 5 + 2**63), (1, 2)])
def test_neighbouring_keys_are_unrelated(one, other):
    a, b = masks(one, 2**31), masks(other, 2**31)
    for shift in range(3):  # not even the same numbers at other places
        agree = (a[:, shift:] == b[:, : b.shape[1] - shift]).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(a[:, shift:].size)


def test_a_mask_does_not_depend_on_who_draws_it():
    whole = masks(3, 2**31, blocks=4)
    np.testing.assert_array_equal(masks(3, 2**31, blocks=2, first_sample=2 * LANES), whole[2 * LANES :])


def test_threshold_0_keeps_everything_and_the_largest_drops_nearly_everything():
    assert masks(3, 0).all()
    assert masks(3, 2**32 - 1).sum() <= 1
