"""A data set on the GPU, and its samples as network inputs: no number of it crosses to the GPU twice.

Floor 3.
"""

from __future__ import annotations

import numpy as np

from . import cuda as gpu
from .arrays import blocks_for
from .cuda import WARP, cuda, cuda_kernel, features, flat, position
from .feed import Feed
from .passes import Pass

EMPTY = -2  # where a true class stands, for a lane without a sample: no predicted class is -2


@cuda_kernel
def gather_cuda(rows, chosen, step, scale, shift, x):
    """x = scale * rows[chosen] + shift, one thread for each number; 0 in lanes without a sample.

    Parameters
    ----------
    rows : array of shape (N, features), uint8 or float
    chosen : int32 array of shape (steps, blocks * WARP)
        For each step the index of the sample for each lane, -1 for none.
    step : int64 array of shape (1,)
    scale, shift : arrays of shape (features,), dtype of x
    x : array of shape (blocks, features, WARP)
    """
    n, _, _, k, v = position(1)
    if k < x.shape[1]:
        sample = chosen[step[0], n * x.shape[2] + v]
        x[n, k, v] = x.dtype.type(0)
        if sample >= 0:
            x[n, k, v] = scale[k] * x.dtype.type(rows[sample, k]) + shift[k]


@cuda_kernel
def gather_classes_cuda(all_classes, chosen, step, classes):
    """classes = all_classes[chosen], flat, one thread for each lane; EMPTY in lanes without a sample."""
    k = cuda.grid(1)
    if k < classes.size:
        sample = chosen[step[0], k]
        classes[k] = EMPTY
        if sample >= 0:
            classes[k] = all_classes[sample]


class FeedThere:
    """A data set on the GPU.

    Parameters
    ----------
    feed : Feed
        As ``Feed.fitting`` returns it.
    dtype : numpy.dtype
        Of the network.
    """

    def __init__(self, feed: Feed, dtype: np.dtype):
        put = gpu.device().put
        if "rows" not in feed.there:
            feed.there["rows"] = put(feed.rows)
        self.rows, self.scale, self.shift = (
            feed.there["rows"],
            put(feed.scale.astype(dtype)),
            put(feed.shift.astype(dtype)),
        )
        self.has_classes = feed.labels is not None
        self.has_labels = feed.targets.ndim == 1  # as the loss takes them; otherwise it takes values
        classes = feed.targets if self.has_labels else feed.labels
        self.classes = put(np.full(len(feed), EMPTY) if classes is None else classes.astype(np.int64))
        if not self.has_labels:
            targets = feed.targets.reshape(len(feed), -1).astype(dtype)
            self.targets, self.ones, self.zeros = (
                put(array) for array in (targets, np.ones_like(targets[0]), np.zeros_like(targets[0]))
            )


class Batches:
    """Which samples the next steps take, and what a step leaves behind, all on the GPU.

    Parameters
    ----------
    current : Pass
    feed : FeedThere
    steps : int
        At most.

    Attributes
    ----------
    step : int64 array of shape (1,)
        Number of the step, from 0.
    target : array
        Of the step's samples: labels, which are the classes, or values, of the output's shape.
    classes, predicted : int64 arrays of shape (blocks, WARP)
        True and predicted ones; EMPTY and -1 where there are none.
    losses : array of shape (blocks, WARP)
    """

    def __init__(self, current: Pass, feed: FeedThere, steps: int):
        device, dtype = gpu.device(), current.network.dtype
        self.current, self.feed, self.lanes = current, feed, blocks_for(current.samples, WARP) * WARP
        blocks = self.lanes // WARP
        self.chosen, self.step = device.zeros((steps, self.lanes), np.int32), device.zeros(1, np.int64)
        self.classes, self.predicted = device.zeros((blocks, WARP), np.int64), device.put(np.full((blocks, WARP), -1))
        self.target = self.classes
        if not feed.has_labels:
            self.target = device.zeros((blocks, *current.network.outputs[0].shape, WARP), dtype)
        self.losses = device.zeros((blocks, WARP), dtype)

    def choose(self, batches: list[np.ndarray]) -> None:
        """Set the samples of the next steps, and begin again with step 0."""
        table = np.full(self.chosen.shape, -1, dtype=np.int32)
        for row, chosen in zip(table, batches):
            row[: len(chosen)] = chosen
        gpu.device().write(self.chosen, table)
        gpu.device().write(self.step, np.zeros(1, np.int64))

    def load(self) -> None:
        """Fill the network's input and the targets for the current step, by kernels."""
        feed, (part,) = self.feed, self.current.active
        x = part.values[self.current.network.inputs[0].name]
        x = x.reshape(len(x), -1, WARP)
        chosen = self.chosen, self.step
        gather_cuda[features(x)](feed.rows, *chosen, feed.scale, feed.shift, x)
        gather_classes_cuda[flat(self.lanes)](feed.classes, *chosen, self.classes.reshape(-1))
        if not feed.has_labels:
            target = self.target.reshape(len(x), -1, WARP)
            gather_cuda[features(target)](feed.targets, *chosen, feed.ones, feed.zeros, target)
