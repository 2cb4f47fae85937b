"""What every loss promises: one number for a mini-batch, and its gradient with respect to the network's output.

Floor 2. Losses average over the samples, so a learning rate does not depend on the size of the mini-batch.
"""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import numpy as np

from ..arrays import blocks_for, pack, unpack
from ..backend import LANES
from ..checks import ShapeError


class Loss:
    """Base of all losses.

    Attributes
    ----------
    derivation : module
        The module of ``handgrad.derivations`` whose equations the loss computes.
    """

    kind: ClassVar[str]
    derivation: ClassVar[ModuleType]

    def __call__(self, z: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss of a mini-batch and its gradient.

        Parameters
        ----------
        z : numpy.ndarray of shape (N, ...)
            The network's output, float32 or float64.
        target : numpy.ndarray
            What the loss compares with; see the class.

        Returns
        -------
        L : float
        dL_dz : numpy.ndarray of the shape and dtype of z

        Raises
        ------
        ShapeError
            When the shapes do not belong together, or a label is out of range.
        """
        z = np.asarray(z)
        if z.dtype not in (np.float32, np.float64):
            z = z.astype(np.float64)
        if z.ndim < 2 or len(z) == 0:
            raise ShapeError(
                f"{type(self).__name__}", got=f"an output of shape {z.shape}", expected="(N, ...) with N > 0"
            )
        N, blocks = len(z), blocks_for(len(z))
        lanes = np.empty((blocks, *z.shape[1:], LANES), z.dtype)
        pack(z, lanes)
        targets = self.pack_target(self.check_target(target, z.shape), blocks, z.dtype)
        dL_dz = np.empty_like(lanes)
        return self.on_lanes(lanes, targets, N, N, dL_dz) / N, unpack(dL_dz, N)

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return the target in the form that ``pack_target`` takes, or raise a ShapeError."""
        raise NotImplementedError

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return a checked target in lane layout."""
        raise NotImplementedError

    def on_lanes(self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray) -> float:
        """Fill dL/dz for the first ``samples`` lanes, zeros behind them, and return the sum of their losses.

        Parameters
        ----------
        z, dL_dz : numpy.ndarray of shape (blocks, ..., LANES)
        target : numpy.ndarray
            In lane layout.
        samples : int
            Lanes of this share that hold samples.
        N : int
            Samples of the whole mini-batch, over which the loss averages.
        """
        raise NotImplementedError


def pack_labels(labels: np.ndarray, blocks: int) -> np.ndarray:
    """Return integer labels as (blocks, LANES) int64, zeros behind the last."""
    lanes = np.zeros(blocks * LANES, dtype=np.int64)
    lanes[: len(labels)] = labels
    return lanes.reshape(blocks, LANES)
