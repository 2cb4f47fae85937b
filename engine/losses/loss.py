"""What every loss promises: one number for a mini-batch, and its gradient with respect to the network's output.

Floor 2. Losses average over the samples, so a learning rate does not depend on the size of the mini-batch.
"""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import numpy as np

from .. import cuda
from ..arrays import blocks_for, pack, unpack
from ..backend import LANES
from ..checks import ConfigurationError, ShapeError
from ..cuda import WARP


class Loss:
    """Base of all losses.

    Attributes
    ----------
    derivation : module
        The module of ``handgrad.derivations`` whose equations the loss computes.
    kernels_alone : bool
        Whether ``compute`` does nothing but call kernels, always with the same numbers: see ``Program``. Every class
        has to state it itself, because a derived one may do more.
    """

    kind: ClassVar[str]
    derivation: ClassVar[ModuleType]
    kernels_alone: ClassVar[bool] = False

    def literal_options(self) -> dict[str, object]:
        """Return the hyper-parameters as the keyword arguments of the derivation's literal code."""
        return {}

    def unused_equations(self, z_shape: tuple[int, ...]) -> set[str]:
        """Return the tags of computed equations that the options, or the output's shape, leave out."""
        return set()

    def decisions(self, z: np.ndarray, target: np.ndarray) -> np.ndarray | None:
        """Return which branch of a piecewise formula each value took; a change of it is a kink.

        Parameters
        ----------
        z : numpy.ndarray of shape (N, ...)
        target : numpy.ndarray
            As ``check_target`` returned it.
        """
        return None

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

    def call_cuda(self, z: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what a call returns, computed on a GPU; the target has been checked."""
        N, blocks, device = len(z), blocks_for(len(z), WARP), cuda.device()
        lanes = np.empty((blocks, *z.shape[1:], WARP), z.dtype)
        pack(z, lanes)
        if target.ndim == 1:
            packed = np.zeros((blocks, WARP), np.int64)
            packed.reshape(-1)[:N] = target
        else:
            packed = np.empty_like(lanes)
            pack(target, packed)
        dL_dz, losses = device.zeros(lanes.shape, z.dtype), device.zeros((blocks, WARP), z.dtype)
        self.on_cuda(device.put(lanes), device.put(packed), N, N, dL_dz, losses)
        return float(device.get(losses).sum(dtype=np.float64)) / N, unpack(device.get(dL_dz), N)

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return the target in the form that ``pack_target`` takes, or raise a ShapeError."""
        raise NotImplementedError

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return a checked target in lane layout."""
        raise NotImplementedError

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Fill dL/dz for the first ``samples`` lanes, zeros behind them, and L with the sum of their losses.

        Parameters
        ----------
        z, dL_dz : numpy.ndarray of shape (blocks, ..., LANES)
        target : numpy.ndarray
            In lane layout.
        samples : int
            Lanes of this share that hold samples.
        N : int
            Samples of the whole mini-batch, over which the loss averages.
        L : numpy.ndarray of shape (1,), float64
        """
        raise NotImplementedError

    def on_lanes(self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray) -> float:
        """Fill dL/dz and return the sum of the losses; parameters as of ``compute``."""
        L = np.zeros(1)
        self.compute(z, target, samples, N, dL_dz, L)
        return float(L[0])

    def check_output(self, z: np.ndarray) -> None:
        """Raise a ConfigurationError where an output (N, ...) is none for this loss; its kernels do not check."""

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Fill dL/dz and the loss of each of the first ``samples`` lanes by CUDA kernels, zeros behind them.

        Parameters
        ----------
        z, dL_dz : device arrays of shape (blocks, ..., WARP)
        target : device array
            Integer labels (blocks, WARP), or values of the shape and dtype of z.
        samples, N : int
            As in ``compute``.
        losses : device array of shape (blocks, WARP), dtype of z
            Before the mean over the samples.
        """
        raise NotImplementedError


def check_labels(loss: Loss, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
    """Return integer labels (N,) for an output (N, K), from labels or one-hot rows.

    Raises
    ------
    ShapeError
        When they are neither, or a label is not a class.
    """
    target, name = np.asarray(target), type(loss).__name__
    if len(z_shape) != 2:
        raise ShapeError(name, got=f"an output of shape {z_shape}", expected="(N, K), one value per class")
    N, K = z_shape
    if target.shape == (N, K):
        if not (((target == 0) | (target == 1)).all() and (target.sum(axis=1) == 1).all()):
            raise ShapeError(f"{name}: target", got="rows that are not one-hot", expected="one 1 and otherwise 0")
        return target.argmax(axis=1)
    if target.shape != (N,):
        raise ShapeError(f"{name}: target", got=f"shape {target.shape}", expected=f"({N},) or one-hot ({N}, {K})")
    right = (target >= 0) & (target < K) & (target == np.floor(target))
    if not right.all():
        raise ShapeError(f"{name}: labels", got=str(target[~right][0]), expected=f"integers from 0 to {K - 1}")
    return target.astype(np.int64)


def check_values(loss: Loss, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
    """Return a target of the output's shape; integer labels (N,) for an output (N, K), K > 1, become one-hot rows.

    Raises
    ------
    ShapeError
        When the target has another shape, or a label is not a class.
    """
    target = np.asarray(target)
    if target.ndim == 1 and len(z_shape) == 2 and z_shape[1] > 1 and np.issubdtype(target.dtype, np.integer):
        return np.eye(z_shape[1])[check_labels(loss, target, z_shape)]
    if target.shape != tuple(z_shape):
        raise ShapeError(f"{type(loss).__name__}: target", got=f"shape {target.shape}", expected=str(tuple(z_shape)))
    return target


def check_binary(loss: Loss, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
    """Return a target (N, 1) of zeros and ones for an output (N, 1), from labels (N,) or (N, 1).

    Raises
    ------
    ShapeError
        When the target has another shape, or a label is neither 0 nor 1.
    """
    target, name, N = np.asarray(target), type(loss).__name__, z_shape[0]
    if target.shape not in ((N,), (N, 1)):
        raise ShapeError(f"{name}: target", got=f"shape {target.shape}", expected=f"({N},) or ({N}, 1)")
    right = (target == 0) | (target == 1)
    if not right.all():
        raise ShapeError(f"{name}: labels", got=str(target[~right][0]), expected="0 or 1")
    return target.reshape(N, 1).astype(np.float64)


def check_probabilities(loss: Loss, p: np.ndarray, remedy: str) -> None:
    """Raise a ConfigurationError when an output of the network is below 0 or above 1; NaN is neither."""
    p = np.asarray(p)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ConfigurationError(
            f"{type(loss).__name__}: output",
            got=f"{p[outside][0]:g}",
            expected="probabilities from 0 to 1",
            remedy=remedy,
        )


def pack_values(target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
    """Return a target (N, ...) as (blocks, ..., LANES), zeros behind the last sample."""
    lanes = np.empty((blocks, *target.shape[1:], LANES), dtype)
    pack(target, lanes)
    return lanes


def pack_labels(labels: np.ndarray, blocks: int) -> np.ndarray:
    """Return integer labels as (blocks, LANES) int64, zeros behind the last."""
    lanes = np.zeros(blocks * LANES, dtype=np.int64)
    lanes[: len(labels)] = labels
    return lanes.reshape(blocks, LANES)


class LossOfValues(Loss):
    """Base of the losses whose target has the shape of the output."""

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return the target, of the output's shape; integer labels become one-hot rows."""
        return check_values(self, target, z_shape)

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return the target as (blocks, ..., LANES)."""
        return pack_values(target, blocks, dtype)
