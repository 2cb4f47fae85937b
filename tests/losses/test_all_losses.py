"""What holds for every loss: it trains a network alike on one thread and on two, and its mistakes end a training."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.engine import (
    SGD,
    BinaryCrossEntropy,
    CrossEntropy,
    Dense,
    Hinge,
    Input,
    MeanAbsoluteError,
    MeanSquaredError,
    Network,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
)
from handgrad.engine.checks import ConfigurationError
from handgrad.engine.feed import Feed
from handgrad.engine.metrics import evaluate
from handgrad.engine.training import TrainingStep

CASES = {
    "softmax cross entropy": (SoftmaxCrossEntropy(), 3, None),
    "cross entropy": (CrossEntropy(), 3, Softmax),
    "binary cross entropy": (BinaryCrossEntropy(), 3, Sigmoid),
    "binary cross entropy, one output": (BinaryCrossEntropy(), 1, Sigmoid),
    "binary cross entropy of logits": (BinaryCrossEntropy(logits=True), 3, None),
    "hinge": (Hinge(), 3, None),
    "hinge of one score": (Hinge(0.5), 1, None),
    "mean absolute error": (MeanAbsoluteError(), 3, None),
    "mean squared error": (MeanSquaredError(), 3, None),
}


def network_and_data(K, end, threads):
    """Return a network with K outputs, and 37 samples with labels: two blocks for one worker, one for the other."""
    rng, node = np.random.default_rng(0), Input((5,))
    output = Dense(K, name="fc")(node)
    network = Network(node, output if end is None else end()(output), dtype="float64", threads=threads, seed=0)
    labels = rng.integers(max(K, 2), size=37)
    return network, Feed(rng.normal(size=(37, 5)), labels, np.ones(5), np.zeros(5))


@pytest.mark.parametrize(("loss", "K", "end"), CASES.values(), ids=CASES.keys())
def test_two_threads_train_as_one_does(loss, K, end):
    results = []
    for threads in (1, 2):
        network, feed = network_and_data(K, end, threads)
        step = TrainingStep(network, loss, SGD(learning_rate=0.5), feed)
        losses = [step(np.arange(37))[0] for _ in range(3)]
        result = evaluate(network, feed, loss)
        assert result.confusion.shape == ((0, 0) if K == 1 else (K, K)) or step.feed.targets.ndim == 2
        results.append((*losses, result.loss, *network.theta))
        assert losses[2] < losses[0]
        L, _ = loss(network.forward(feed.images), feed.targets)
        assert result.loss == pytest.approx(L, rel=1e-12)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-12)  # the same sums in another order


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("loss", "K", "missing"), [(CrossEntropy(), 3, "Softmax"), (BinaryCrossEntropy(), 1, "Sigmoid")]
)
def test_a_forgotten_last_layer_ends_the_training_with_its_name(loss, K, missing, threads):
    network, feed = network_and_data(K, None, threads)
    step = TrainingStep(network, loss, SGD(learning_rate=0.5), feed)
    with pytest.raises(
        ConfigurationError, match=f"expected probabilities from 0 to 1; put a {missing} before this loss"
    ):
        step(np.arange(37))
