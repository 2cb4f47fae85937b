"""From stored images to lanes: choose, scale, pack; the only work on data between two training steps.

Floor 3.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np

from .arrays import blocks_for, gather
from .backend import LANES
from .checks import ShapeError
from .passes import Part, Pass

if TYPE_CHECKING:
    from .losses.loss import Loss
    from .network import Network


class Feed:
    """A data set as one contiguous array, and how its values become network inputs.

    Parameters
    ----------
    images : numpy.ndarray of shape (N, ...)
        uint8 pixels or floating-point features.
    targets : numpy.ndarray
        (N,) labels, or (N, ...) values; whatever the loss takes.
    scale, shift : numpy.ndarray of shape (C,)
        Input = scale * stored value + shift, for each channel (or feature).

    Attributes
    ----------
    labels : numpy.ndarray of shape (N,), int64, or None
        The true classes, for counting, where ``fitting`` found that there are any; a loss may want other targets.

    there : dict of str to array
        The rows on a GPU, once a pass has needed them there.

    Notes
    -----
    Nothing is copied or converted ahead of time: an epoch over uint8 pixels touches a quarter of the memory.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, scale: np.ndarray, shift: np.ndarray):
        self.images, self.targets = images, targets
        self.there: dict[str, object] = {}
        self.labels: np.ndarray | None = None
        self.rows = np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:]))
        repeats, rest = divmod(self.rows.shape[1], len(scale))
        if rest or len(scale) != len(shift):
            raise ShapeError(
                "Feed: scale and shift",
                got=f"{len(scale)} and {len(shift)} numbers",
                expected=f"as many, one per channel, for samples of {self.rows.shape[1]} values",
            )
        self.scale, self.shift = np.repeat(scale, repeats), np.repeat(shift, repeats)

    def fitting(self, network: Network, loss: Loss) -> Feed:
        """Return this data with checked targets: kernels trust that every label is a class, and every size the input's.

        Raises
        ------
        ShapeError
            When the samples or the targets do not fit the network and the loss.
        """
        if self.rows.shape[1] != network.inputs[0].size:
            raise ShapeError(
                "Feed: samples",
                got=f"{self.rows.shape[1]} values",
                expected=f"{network.inputs[0].size}, as the network's input '{network.inputs[0].name}'",
            )
        shape = (len(self), *network.outputs[0].shape)
        feed = copy.copy(self)
        feed.targets = loss.check_target(self.targets, shape)
        if self.labels is None and len(shape) == 2 and shape[1] > 1:  # a single output has no classes to choose from
            given = feed.targets if feed.targets.ndim == 1 else np.asarray(self.targets)
            if given.ndim == 1 and np.issubdtype(given.dtype, np.integer):
                feed.labels = given.astype(np.int64)
        return feed

    def __len__(self) -> int:
        return len(self.rows)

    def choose(self, chosen: np.ndarray) -> np.ndarray:
        """Return indices filled up with -1 to whole blocks of lanes, (blocks * LANES,) int64."""
        lanes = np.full(blocks_for(len(chosen)) * LANES, -1, dtype=np.int64)
        lanes[: len(chosen)] = chosen
        return lanes

    def load(self, current: Pass, part: Part, lanes: np.ndarray) -> np.ndarray:
        """Fill the network's input for one worker and return the indices of its samples.

        Parameters
        ----------
        current : Pass
        part : Part
            Of the calling worker.
        lanes : numpy.ndarray
            From ``choose``, for the whole mini-batch.
        """
        network = current.network
        mine = lanes[part.first_sample : part.first_sample + part.blocks * LANES]
        x = part.values[network.inputs[0].name].reshape(part.blocks, -1, LANES)
        gather(self.rows, mine, self.scale.astype(x.dtype), self.shift.astype(x.dtype), x)
        return mine[: part.samples]

    def inputs(self, chosen: np.ndarray, dtype: np.dtype = np.float64) -> np.ndarray:
        """Return some samples as a user would pass them to ``Network.forward``, (N, ...)."""
        rows = self.scale.astype(dtype) * self.rows[chosen] + self.shift.astype(dtype)
        return rows.reshape(len(chosen), *self.images.shape[1:]).astype(dtype)


def standardize(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, shift) per channel that give these samples mean 0 and standard deviation 1.

    Parameters
    ----------
    images : numpy.ndarray of shape (N, C, H, W) or (N, features)
        The training part alone; validation and test samples are scaled with its statistics.

    Returns
    -------
    scale, shift : numpy.ndarray of shape (C,), float64
        A channel that is constant is only shifted.
    """
    axes = (0, *range(2, images.ndim))
    if images.dtype == np.uint8:  # whole numbers: sums of squares below 2^53 are exact in float64, in any order
        moments = [_mean_and_deviation(images[:, c]) for c in range(images.shape[1])]
        mean, deviation = np.array(moments).T
    else:
        mean, deviation = images.mean(axis=axes, dtype=np.float64), images.std(axis=axes, dtype=np.float64)
    varies = images.max(axis=axes) > images.min(axis=axes)  # rounding gives a constant channel a deviation above 0
    scale = 1 / np.where(varies, deviation, 1)
    return scale, -mean * scale


def _mean_and_deviation(pixels: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of uint8 pixels (N, ...), from exact sums, without a large copy."""
    total = squares = 0
    for start in range(0, len(pixels), 128):
        x = pixels[start : start + 128].astype(np.float64).reshape(-1)
        total += int(x.sum())
        squares += int(np.einsum("i,i->", x, x))  # x @ x would wake a thread for each core, where others have work
    return total / pixels.size, math.sqrt(pixels.size * squares - total**2) / pixels.size
