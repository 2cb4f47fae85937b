"""Metrics: the confusion matrix, the loss and all ratios are those of plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.engine import Dense, Dropout, Input, MeanSquaredError, Network, SoftmaxCrossEntropy
from handgrad.engine.arrays import blocks_for, pack
from handgrad.engine.backend import LANES
from handgrad.engine.feed import Feed
from handgrad.engine.metrics import Evaluation, evaluate, predicted_classes


def toy(threads=1, samples=101, dtype="float64", classes=4):
    rng = np.random.default_rng(0)
    x = Input((5,))
    network = Network(x, Dense(classes)(Dropout(0.5)(x)), dtype=dtype, threads=threads)
    images = rng.normal(size=(samples, 5)).astype(np.float32)
    return network, Feed(images, rng.integers(classes, size=samples), np.full(5, 2.0), np.full(5, -0.5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 10, 16, 50, 256])
def test_evaluate_is_plain_numpy(threads, batch_size, dtype):
    network, feed = toy(threads, dtype=dtype)
    W, b = network.parameters.values()
    z = feed.inputs(np.arange(101)) @ W.T.astype(np.float64) + b
    confusion = np.zeros((4, 4), dtype=int)
    for true, predicted in zip(feed.targets, z.argmax(axis=1), strict=True):
        confusion[true, predicted] += 1
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(101), feed.targets]
    result = evaluate(network, feed, SoftmaxCrossEntropy(), batch_size)
    np.testing.assert_array_equal(result.confusion, confusion)
    assert result.samples == 101 == result.confusion.sum() and result.confusion.dtype == np.int64
    assert result.loss == pytest.approx(losses.mean(), rel=50 * float(np.finfo(dtype).eps))
    assert result.correct == (z.argmax(axis=1) == feed.targets).sum()
    assert result.accuracy == result.correct / 101


def test_evaluate_draws_nothing_and_changes_no_parameter():
    network, feed = toy()
    before = network.theta.copy()
    evaluate(network, feed, SoftmaxCrossEntropy())
    assert network.draw == 0 and (network.theta == before).all()


def test_a_single_output_has_no_classes_to_choose_from():
    network, feed = toy(classes=1)
    result = evaluate(network, feed, SoftmaxCrossEntropy())
    assert math.isnan(result.accuracy) and result.loss == 0 and result.confusion.shape == (0, 0)


def test_a_loss_that_wants_one_hot_rows_leaves_the_labels_for_counting():
    network, feed = toy()
    other, one = evaluate(network, feed, MeanSquaredError()), evaluate(network, feed, SoftmaxCrossEntropy())
    np.testing.assert_array_equal(other.confusion, one.confusion)
    again = evaluate(network, feed.fitting(network, MeanSquaredError()), MeanSquaredError())
    np.testing.assert_array_equal(again.confusion, one.confusion)


@pytest.mark.parametrize("place", [0, 2])
def test_an_output_that_is_no_number_decides_nothing(place):
    z, classes = np.zeros((1, 3, LANES)), np.empty((1, LANES), np.int64)
    z[0, 1] = 5
    z[0, place, 4] = np.nan
    predicted_classes(z, classes)
    assert classes[0].tolist() == [1] * 4 + [-1] + [1] * 11


def test_a_tie_decides_nothing_and_counts_as_wrong():
    network, feed = toy()
    network.theta[:] = 0
    result = evaluate(network, feed, SoftmaxCrossEntropy())
    assert result.accuracy == 0 and not result.confusion.any()
    assert result.undecided.tolist() == np.bincount(feed.targets, minlength=4).tolist()
    assert [row["samples"] for row in result.per_class()] == result.undecided.tolist()


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_predicted_classes_are_the_largest_outputs(samples, K, dtype, ties):
    rng = np.random.default_rng(samples)
    z = (rng.integers(3, size=(samples, K)) if ties else rng.normal(size=(samples, K))).astype(dtype)
    lanes, classes = np.empty((blocks_for(samples), K, LANES), dtype), np.empty((blocks_for(samples), LANES), np.int64)
    pack(z, lanes)
    predicted_classes(lanes, classes)
    tied = (z == z.max(axis=1, keepdims=True)).sum(axis=1) > 1
    np.testing.assert_array_equal(classes.reshape(-1)[:samples], np.where(tied, -1, z.argmax(axis=1)))


@given(st.integers(1, 6), st.integers(0, 999))
def test_ratios_per_class(K, seed):
    confusion = np.random.default_rng(seed).integers(0, 4, size=(K, K))
    confusion[0, 0] += 1
    rows = Evaluation(int(confusion.sum()), 0.0, confusion).per_class()
    for k, row in enumerate(rows):
        true_positive = confusion[k, k]
        false_positive, false_negative = confusion[:, k].sum() - true_positive, confusion[k].sum() - true_positive
        assert row["samples"] == confusion[k].sum()
        for name, parts in (
            ("precision", (true_positive, true_positive + false_positive)),
            ("recall", (true_positive, true_positive + false_negative)),
            ("f_score", (2 * true_positive, 2 * true_positive + false_positive + false_negative)),
        ):
            expected = parts[0] / parts[1] if parts[1] else math.nan
            assert row[name] == pytest.approx(expected, nan_ok=True)


def test_patients_of_the_notes():
    """S3: 100 sick and found, 30 sick and missed, 70 well and alarmed, 900 well; 1,100 in all."""
    result = Evaluation(1100, 0.0, np.array([[900, 70], [30, 100]]))
    assert result.accuracy == pytest.approx(1000 / 1100)
    sick = result.per_class()[1]
    assert sick["precision"] == pytest.approx(100 / 170)
    assert sick["recall"] == pytest.approx(100 / 130)
    assert sick["f_score"] == pytest.approx(200 / 300)
