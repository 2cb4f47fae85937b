"""Lane layout: packing and unpacking lose nothing, and lanes without a sample hold zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Conv2D, Dense, Flatten, Input, MaxPool2D, Network, ReLU
from handgrad.engine.arrays import add_into, aligned, aligned_zeros, blocks_for, gather, pack, unpack
from handgrad.engine.backend import LANES

SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


@pytest.mark.parametrize(("samples", "blocks"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3), (1000, 63)])
def test_blocks_hold_the_samples(samples, blocks):
    assert blocks_for(samples) == blocks


@given(st.integers(1, 50), SHAPES, st.sampled_from([np.float32, np.float64]), st.integers(0, 2))
def test_unpack_is_the_inverse_of_pack(samples, shape, dtype, more):
    values = np.random.default_rng(samples).normal(size=(samples, *shape)).astype(dtype)
    lanes = np.full((blocks_for(samples) + more, *shape, LANES), np.nan, dtype)
    pack(values, lanes)
    back = unpack(lanes, samples)
    np.testing.assert_array_equal(back, values)
    assert back.dtype == dtype and back.flags.c_contiguous and back.base is None
    assert not unpack(lanes, len(lanes) * LANES)[samples:].any()  # zeros, not the NaN from before


@given(st.integers(1, 50), SHAPES)
def test_sample_n_stands_in_block_n_16_and_lane_n_mod_16(samples, shape):
    values = np.random.default_rng(0).normal(size=(samples, *shape))
    lanes = np.empty((blocks_for(samples), *shape, LANES))
    pack(values, lanes)
    for n in range(samples):
        np.testing.assert_array_equal(lanes[n // LANES, ..., n % LANES], values[n])


def test_pack_converts_and_takes_strided_samples():
    values = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6)[::-1, ::2]
    lanes = np.empty((1, 3, LANES), np.float32)
    pack(values, lanes)
    np.testing.assert_array_equal(unpack(lanes, 5), values)


def test_pack_of_no_samples_is_all_zeros():
    lanes = np.ones((1, 3, LANES))
    pack(np.empty((0, 3)), lanes)
    assert not lanes.any()


@given(
    st.integers(1, 40),
    st.integers(1, 7) | st.sampled_from([15, 16, 17, 127, 128, 129, 271]),
    st.integers(1, 30),
    st.sampled_from([np.uint8, np.float32]),
    st.sampled_from([np.float32, np.float64]),
)
def test_gather_chooses_scales_and_fills_up(chosen, features, stored, kind, dtype):
    rng = np.random.default_rng(chosen)
    images = rng.integers(0, 256, size=(stored, features)).astype(kind)
    scale, shift = rng.normal(size=(2, features)).astype(dtype)
    indices = rng.integers(stored, size=chosen)
    blocks = blocks_for(chosen)
    lanes = np.full(blocks * LANES, -1)
    lanes[:chosen] = indices
    x = np.full((blocks, features, LANES), np.nan, dtype)
    gather(images, lanes, scale, shift, x)
    expected = scale * images[indices].astype(dtype) + shift
    # a product and a sum, fused or not: two roundings of numbers below 256 |scale| + |shift|
    limit = 2 * np.finfo(dtype).eps * (256 * np.abs(scale) + np.abs(shift))
    assert (np.abs(unpack(x, chosen) - expected) <= limit).all()
    assert not unpack(x, blocks * LANES)[chosen:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_into(dtype):
    total, part = np.arange(37, dtype=dtype), np.full(37, 2, dtype)
    add_into(total, part)
    np.testing.assert_array_equal(total, np.arange(37) + 2)
    np.testing.assert_array_equal(part, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("shape", [7, (), (3, 5), (2, 3, 4, 16)])
def test_aligned_arrays_begin_on_a_cache_line(shape, dtype):
    for _ in range(5):
        zeros = aligned_zeros(shape, dtype)
        assert (
            zeros.ctypes.data % 64 == 0 and zeros.dtype == dtype and zeros.flags.c_contiguous and zeros.flags.writeable
        )
        assert zeros.shape == np.zeros(shape).shape and not zeros.any()
        values = np.random.default_rng(0).normal(size=shape).astype(dtype)
        copy = aligned(values)
        np.testing.assert_array_equal(copy, values)
        assert copy.ctypes.data % 64 == 0 and not np.shares_memory(copy, values)


def test_all_buffers_of_a_step_begin_on_a_cache_line():
    x = Input((3, 9, 9))
    network = Network(x, Dense(5)(Flatten()(MaxPool2D(2)(ReLU()(Conv2D(5, 3)(x))))), threads=2)
    network.backward(np.ones_like(network.forward(np.ones((40, 3, 9, 9)))))
    for part in network.last_pass.active:
        arrays = [*part.values.values(), *part.edges.values(), *part.seeds.values(), *part.own_gradients.values()]
        arrays += [network.theta, network.dL_dtheta]
        arrays += [
            array for share in part.shares.values() for array in (*share.scratch.values(), *share.common.values())
        ]
        assert all(array.ctypes.data % 64 == 0 for array in arrays)
