"""How good a network is on samples it does not train on.

Floor 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .backend import kernel
from .cuda import cuda, cuda_kernel, device, flat
from .cuda_feed import Batches, FeedThere
from .feed import Feed
from .losses.loss import Loss
from .network import Network


@dataclass(frozen=True)
class Evaluation:
    """Result of one look at a data set.

    Attributes
    ----------
    samples : int
    loss : float
        Mean over the samples.
    confusion : numpy.ndarray of shape (K, K), int64
        ``confusion[true, predicted]``; (0, 0) where the targets are values, not labels.
    undecided : numpy.ndarray of shape (K,), int64
        Samples of each true class for which two outputs were largest; they count as wrong.
    """

    samples: int
    loss: float
    confusion: np.ndarray
    undecided: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def correct(self) -> int:
        """Number of samples whose largest output is that of the true class."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of correct samples, 0 to 1; NaN where there are no classes."""
        return self.correct / self.samples if self.confusion.size else float("nan")

    def per_class(self) -> list[dict[str, float]]:
        """Return precision, recall and F-score of each class, 0 to 1; NaN where a class never occurs."""
        rows = []
        for k in range(len(self.confusion)):
            hit = float(self.confusion[k, k])
            predicted, actual = float(self.confusion[:, k].sum()), float(self.confusion[k].sum())
            actual += float(self.undecided[k]) if self.undecided.size else 0.0
            precision = hit / predicted if predicted else float("nan")
            recall = hit / actual if actual else float("nan")
            f_score = 2 * hit / (predicted + actual) if predicted + actual else float("nan")
            rows.append({"precision": precision, "recall": recall, "f_score": f_score, "samples": int(actual)})
        return rows


@kernel
def predicted_classes(z, classes):
    """Fill the index of the largest of the K outputs of each sample, or -1 where two are largest or one is no number.

    z (blocks, K, LANES), classes (blocks, LANES).
    """
    blocks, K, lanes = z.shape
    for n in range(blocks):
        for v in range(lanes):
            best, ties, wrong = 0, False, z[n, 0, v] != z[n, 0, v]
            for k in range(1, K):
                wrong |= z[n, k, v] != z[n, k, v]
                if z[n, k, v] > z[n, best, v]:
                    best, ties = k, False
                elif z[n, k, v] == z[n, best, v]:
                    ties = True
            classes[n, v] = -1 if ties or wrong else best


@cuda_kernel
def predicted_classes_cuda(z, classes):
    """The same, one thread for each sample; z (blocks, K, WARP), classes (blocks, WARP)."""
    at = cuda.grid(1)
    if at < classes.size:
        n, v = at // z.shape[2], at % z.shape[2]
        best, ties, wrong = 0, False, z[n, 0, v] != z[n, 0, v]
        for k in range(1, z.shape[1]):
            wrong |= z[n, k, v] != z[n, k, v]
            if z[n, k, v] > z[n, best, v]:
                best, ties = k, False
            elif z[n, k, v] == z[n, best, v]:
                ties = True
        classes[n, v] = -1 if ties or wrong else best


def judge_cuda(batches: Batches, loss: Loss) -> None:
    """Fill the losses, dL/dz and the predicted classes of a mini-batch that has gone forward."""
    current, (part,) = batches.current, batches.current.active
    z = part.values[current.network.outputs[0].name]
    loss.on_cuda(z, batches.target, part.samples, current.samples, part.seeds[0], batches.losses)
    if batches.feed.has_classes:
        predicted_classes_cuda[flat(batches.lanes)](z, batches.predicted)


def evaluate(network: Network, feed: Feed, loss: Loss, batch_size: int = 256) -> Evaluation:
    """Run the network over a whole data set.

    Parameters
    ----------
    network : Network
        One input, one output of K classes.
    feed : Feed
        With integer labels, or with values for a regression.
    loss : Loss
    batch_size : int

    Returns
    -------
    Evaluation
    """
    feed = feed.fitting(network, loss)
    K = 0 if feed.labels is None else network.outputs[0].size
    confusion, undecided, total = np.zeros((K, K), dtype=np.int64), np.zeros(K, dtype=np.int64), 0.0
    look = _LookThere(network, feed) if network.machine.is_gpu else _look
    for start in range(0, len(feed), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(feed)))
        loss_sum, classes = look(network, feed, loss, chosen)
        total += loss_sum
        if K:
            true, decided = feed.labels[chosen], classes >= 0
            np.add.at(confusion, (true[decided], classes[decided]), 1)
            np.add.at(undecided, true[~decided], 1)
    return Evaluation(len(feed), float(total / len(feed)), confusion, undecided)


def _look(network: Network, feed: Feed, loss: Loss, chosen: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the summed loss and the predicted classes of one mini-batch."""
    current = network.pass_for(len(chosen), input_gradient=False, fused=True)
    current.prepare(training=False, draw=0)
    lanes = feed.choose(chosen)
    losses, classes = np.zeros(len(current.active)), np.zeros(len(lanes), dtype=np.int64)

    def work(part):
        mine = feed.load(current, part, lanes)
        current.forward(part)
        z = part.values[network.outputs[0].name]
        targets = loss.pack_target(feed.targets[mine], part.blocks, network.dtype)
        losses[current.active.index(part)] = loss.on_lanes(z, targets, part.samples, len(chosen), np.empty_like(z))
        if feed.labels is not None:
            predicted = np.empty((part.blocks, z.shape[-1]), dtype=np.int64)
            predicted_classes(z, predicted)
            classes[part.first_sample : part.first_sample + predicted.size] = predicted.reshape(-1)

    current.run(work)
    return losses.sum(), classes[: len(chosen)]


class _LookThere:
    """The same on a GPU, where the whole data set is."""

    def __init__(self, network: Network, feed: Feed):
        network.upload()
        self._feed, self._batches = FeedThere(feed, network.dtype), {}

    def __call__(self, network: Network, feed: Feed, loss: Loss, chosen: np.ndarray) -> tuple[float, np.ndarray]:
        current = network.pass_for(len(chosen), input_gradient=False, fused=True)
        if len(chosen) not in self._batches:
            current.allocate_gradients()
            self._batches[len(chosen)] = Batches(current, self._feed, 1)
        batches, (part,) = self._batches[len(chosen)], current.active
        current.prepare(training=False, draw=0)
        batches.choose([chosen])
        batches.load()
        current.forward(part)
        judge_cuda(batches, loss)
        losses, predicted = (device().get(array).reshape(-1) for array in (batches.losses, batches.predicted))
        return float(losses.sum(dtype=np.float64)), predicted[: len(chosen)]
