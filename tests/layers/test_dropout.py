"""Dropout: the right share is dropped, the rest is scaled, and the random numbers depend on nothing they should not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Dropout, Input, Network
from handgrad.engine.checks import ConfigurationError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9)) | st.tuples(st.integers(1, 20), *[st.integers(1, 4)] * 3)


def dropout_network(rate=0.5, size=50, *, seed=0, threads=1, dtype="float64", name="dropout1"):
    x = Input((size,))
    return Network(x, Dropout(rate, name=name)(x), dtype=dtype, seed=seed, threads=threads)


def kept(network, samples=40):
    """Return which values of a mini-batch of ones the next draw keeps."""
    return network.forward(np.ones((samples, network.inputs[0].size)), training=True) > 0


@given(SHAPES, st.integers(0, 99), st.sampled_from([0, 0.2, 0.5, 0.9]), st.booleans())
def test_kernel_is_the_literal_code(at_point, shape, seed, rate, training):
    x = np.random.default_rng(seed).normal(size=shape)
    at_point(lambda: Dropout(rate), x, seed=seed, training=training).check_literal()


@given(SHAPES, st.integers(0, 99), st.sampled_from([0.2, 0.5, 0.9]))
def test_float32_is_float64_but_for_rounding(at_point, shape, seed, rate):
    """1 - rate, the product with the mask, and the quotient: three roundings; the masks are the same."""
    x = np.random.default_rng(seed).normal(size=shape)
    at_point(lambda: Dropout(rate), x, seed=seed, training=True).check_single(terms=3)


@pytest.mark.parametrize("training", [True, False])
def test_finite_differences(at_point, rng, training):
    at_point(lambda: Dropout(0.4), rng.normal(size=(3, 7)), training=training).check_differences()


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.5, 0.9])
def test_share_of_dropped_values(rate):
    """The share of 100,000 draws has standard deviation sqrt(rate (1 - rate) / 1e5); 5 of them are one in a million."""
    share = 1 - kept(dropout_network(rate, 500), 200).mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / 1e5)


def test_every_position_and_every_sample_has_the_same_chance():
    network = dropout_network(0.5, 64)
    counts = sum(kept(network, 48).astype(int) for _ in range(400))
    deviation = np.sqrt(400 / 4)  # of one count
    assert np.abs(counts - 200).max() < 5.5 * deviation
    assert np.abs(counts.mean(axis=0) - 200).max() < 5 * deviation / np.sqrt(48)
    assert np.abs(counts.mean(axis=1) - 200).max() < 5 * deviation / np.sqrt(64)


def test_neighbours_are_independent():
    mask = kept(dropout_network(0.5, 500), 200)
    for one, other in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1]), (mask[16:], mask[:-16])):
        assert abs((one == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(one.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_kept_is_scaled_up(rng, dtype):
    x = rng.normal(size=(20, 50)).astype(dtype)
    network = dropout_network(0.2, dtype=dtype)
    z = network.forward(x, training=True)
    mask = z != 0
    np.testing.assert_allclose(z[mask], x[mask] / 0.8, rtol=4 * np.finfo(dtype).eps)
    dL_dz = rng.normal(size=z.shape).astype(dtype)
    dL_dx = network.backward(dL_dz)
    np.testing.assert_array_equal(dL_dx != 0, mask)
    np.testing.assert_allclose(dL_dx[mask], dL_dz[mask] / 0.8, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inference_is_the_identity(rng, dtype):
    x = rng.normal(size=(20, 50)).astype(dtype)
    network = dropout_network(0.9, dtype=dtype)
    network.forward(x, training=True)
    np.testing.assert_array_equal(network.forward(x), x)
    np.testing.assert_array_equal(network.backward(2 * x), 2 * x)
    assert network.draw == 1  # inference draws nothing


def test_rate_0_keeps_everything(rng):
    x = rng.normal(size=(20, 50))
    np.testing.assert_array_equal(dropout_network(0).forward(x, training=True), x)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("samples", [5, 16, 37, 64])
def test_mask_does_not_depend_on_the_number_of_threads(threads, samples):
    one, many = dropout_network(), dropout_network(threads=threads)
    for _ in range(2):
        np.testing.assert_array_equal(kept(one, samples), kept(many, samples))


def test_mask_of_a_sample_does_not_depend_on_the_size_of_the_batch():
    np.testing.assert_array_equal(kept(dropout_network(), 5), kept(dropout_network(), 40)[:5])


def test_same_seed_and_draw_same_mask():
    one, other = dropout_network(seed=3), dropout_network(seed=3)
    first, second = kept(one), kept(one)
    np.testing.assert_array_equal(kept(other), first)
    np.testing.assert_array_equal(kept(other), second)
    other.draw = 0
    np.testing.assert_array_equal(kept(other), first)


def test_mask_is_another_for_another_draw_seed_layer_or_sample():
    network = dropout_network()
    masks = [kept(network), kept(network), kept(dropout_network(seed=1)), kept(dropout_network(name="other"))]
    masks.append(np.roll(masks[0], 1, axis=0))
    for k, one in enumerate(masks):
        for other in masks[:k]:
            assert abs((one == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(one.size)


def test_backward_uses_the_mask_of_its_forward_pass():
    network = dropout_network()
    for _ in range(3):
        mask = kept(network)
        np.testing.assert_array_equal(network.backward(np.ones(mask.shape)) > 0, mask)


def test_numbers_that_are_none_stay_in_their_sample():
    x = np.ones((20, 50))
    x[17, :] = np.nan
    z = dropout_network().forward(x, training=True)
    assert np.isnan(z[17]).all() and np.isfinite(np.delete(z, 17, axis=0)).all()


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 2, float("nan"), True, "0.5", None])
def test_rate_is_checked(rate):
    with pytest.raises(ConfigurationError) as caught:
        Dropout(rate, name="d1")
    assert str(caught.value) == f"Dropout 'd1': rate: got {rate!r}, expected a number from 0 up to below 1"


def test_any_shape():
    assert Dropout(0.5)(Input((3, 4, 5))).shape == (3, 4, 5)
    assert Dropout(0.25).settings() == {"rate": 0.25}
