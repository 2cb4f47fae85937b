"""Feed: chosen samples reach the network scaled, in order, and each worker gets its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import SGD, Dense, Flatten, Input, Network, SoftmaxCrossEntropy
from handgrad.engine.backend import LANES
from handgrad.engine.checks import ShapeError
from handgrad.engine.feed import Feed, standardize
from handgrad.engine.metrics import evaluate
from handgrad.engine.training import TrainingStep


def image_feed(samples=50, channels=2, dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(samples, channels, 3, 4)).astype(dtype)
    return Feed(images, rng.integers(10, size=samples), rng.uniform(0.1, 1, channels), rng.normal(size=channels))


def test_length_and_inputs():
    feed = image_feed()
    chosen = np.array([7, 3, 3, 49])
    expected = feed.images[chosen] * feed.scale[::12][:, None, None] + feed.shift[::12][:, None, None]
    assert len(feed) == 50
    np.testing.assert_allclose(feed.inputs(chosen), expected, rtol=1e-15)
    assert feed.inputs(chosen, np.float32).dtype == np.float32
    assert feed.inputs(np.array([], dtype=int)).shape == (0, 2, 3, 4)


@given(st.integers(1, 70))
def test_choose_fills_whole_blocks(count):
    chosen = np.arange(count) + 100
    lanes = image_feed().choose(chosen)
    assert lanes.size % LANES == 0 and lanes.size - count < LANES and lanes.dtype == np.int64
    np.testing.assert_array_equal(lanes[:count], chosen)
    assert (lanes[count:] == -1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 16, 37])
def test_load_brings_the_inputs_and_names_the_samples(dtype, stored, threads, count):
    feed, image = image_feed(dtype=stored), Input((2, 3, 4))
    network = Network(image, Dense(2)(Flatten()(image)), dtype=dtype, threads=threads)
    chosen = np.random.default_rng(1).permutation(50)[:count]
    current, lanes = network.pass_for(count), feed.choose(chosen)
    mine = [feed.load(current, part, lanes) for part in current.active]
    np.testing.assert_array_equal(np.concatenate(mine), chosen)
    # two roundings of numbers below 256 |scale| + |shift|, and those two rounded themselves
    limit = 4 * np.finfo(dtype).eps * (256 * feed.scale.max() + np.abs(feed.shift).max())
    np.testing.assert_allclose(current.value("input"), feed.inputs(chosen), rtol=0, atol=limit)
    for part in current.active:
        rest = np.moveaxis(part.values["input"], -1, 1).reshape(-1, 24)[part.samples :]
        assert not rest.any()  # lanes without a sample


def test_features_are_scaled_one_by_one():
    feed = Feed(np.ones((3, 4), np.float32), np.zeros(3, int), np.array([1.0, 2, 3, 4]), np.array([0.0, 10, 20, 30]))
    assert feed.inputs(np.array([0])).tolist() == [[1, 12, 23, 34]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(200, 3, 5, 4), (300, 7)])
def test_standardize_gives_mean_0_and_deviation_1(dtype, shape):
    rng = np.random.default_rng(0)
    brighter = 10 * np.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2))  # one channel than the one before
    images = (rng.integers(0, 190, size=shape) + brighter).astype(dtype)
    scale, shift = standardize(images)
    x = Feed(images, np.zeros(shape[0], int), scale, shift).inputs(np.arange(shape[0]))
    axes = (0, *range(2, len(shape)))
    assert scale.shape == shift.shape == (shape[1],) and scale.dtype == np.float64
    np.testing.assert_allclose(x.mean(axis=axes), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=axes), 1, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_channel_is_only_shifted(dtype, value):
    images = np.full((10, 2, 3, 3), value, dtype)
    images[::2, 1] = 0
    images[1::2, 1] = 2
    scale, shift = standardize(images)
    assert scale.tolist() == [1, 1] and shift.tolist() == [-value, -1]


def test_samples_and_labels_must_fit_before_a_kernel_sees_them():
    x = Input((4,))
    network, loss, one = Network(x, Dense(3)(x), threads=1), SoftmaxCrossEntropy(), np.ones(1)
    good = np.zeros((8, 4), np.float32)
    for samples, labels, words in (
        (good, np.full(8, 5_000_000), "labels: got 5000000"),
        (good, np.full(8, -1), "labels: got -1"),
        (np.zeros((8, 5), np.float32), np.zeros(8, int), "got 5 values, expected 4"),
    ):
        feed = Feed(samples, labels, one, one)
        with pytest.raises(ShapeError, match=words):
            evaluate(network, feed, loss)
        with pytest.raises(ShapeError, match=words):
            TrainingStep(network, loss, SGD(), feed)


def test_a_constant_channel_is_only_shifted_whatever_rounding_says():
    scale, shift = standardize(np.full((1000, 3), 0.1))
    np.testing.assert_allclose(scale, 1)
    np.testing.assert_allclose(shift, -0.1)
