"""Hinge loss, as a linear support vector machine has it; equations in ``derivations/hinge.py``."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ...derivations import hinge as derivation
from ..backend import kernel
from ..checks import ConfigurationError
from ..cuda import WARP, cuda, cuda_kernel
from .loss import Loss, check_binary, check_labels, pack_labels, pack_values


@kernel
def hinge(z, label, samples, N, margin, dL_dz):
    """Return the sum over the samples of Σ max(0, violation) / K over the wrong classes; fill dL/dz.

    z and dL_dz (blocks, K, LANES), label (blocks, LANES). A violation that is no number counts.
    """
    blocks, K, lanes = z.shape
    zero, one, size = z.dtype.type(0), z.dtype.type(1), z.dtype.type(K)
    NK = N * size
    loss = 0.0
    for n in range(blocks):
        for v in range(lanes):
            if n * lanes + v >= samples:
                for k in range(K):
                    dL_dz[n, k, v] = zero
                continue
            total, count = zero, zero
            for k in range(K):
                violation = margin - z[n, label[n, v], v] + z[n, k, v]  # (hinge.1)
                if k == label[n, v] or violation <= zero:
                    dL_dz[n, k, v] = zero
                else:
                    total += violation
                    count += one
                    dL_dz[n, k, v] = one / NK  # (hinge.5)
            loss += total / size  # (hinge.2)
            dL_dz[n, label[n, v], v] = -count / NK  # (hinge.6)
    return loss


@kernel
def hinge_of_one_score(z, target, samples, N, margin, dL_dz):
    """Return the sum over the samples of max(0, margin - y z), y = 2 t - 1; fill dL/dz; all (blocks, 1, LANES)."""
    blocks, _, lanes = z.shape
    zero, one, two = z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    loss = 0.0
    for n in range(blocks):
        for v in range(lanes):
            if n * lanes + v < samples:
                y = two * target[n, 0, v] - one
                violation = margin - y * z[n, 0, v]
                loss += zero if violation <= zero else violation  # (hinge.8)
                dL_dz[n, 0, v] = zero if violation <= zero else -y / N  # (hinge.9)
            else:
                dL_dz[n, 0, v] = zero
    return loss


@cuda_kernel
def hinge_cuda(z, label, samples, N, size, margin, dL_dz, losses):
    """Fill the loss of each sample and dL/dz for several classes, one thread for each sample.

    z and dL_dz (blocks, K, WARP), label and losses (blocks, WARP); size is K.
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one = z.dtype.type(0), z.dtype.type(1)
    NK = N * size
    if n * WARP + v >= samples:
        for k in range(z.shape[1]):
            dL_dz[n, k, v] = zero
        losses[n, v] = zero
        return
    total, count = zero, zero
    for k in range(z.shape[1]):
        violation = margin - z[n, label[n, v], v] + z[n, k, v]  # (hinge.1)
        if k == label[n, v] or violation <= zero:
            dL_dz[n, k, v] = zero
        else:
            total += violation
            count += one
            dL_dz[n, k, v] = one / NK  # (hinge.5)
    losses[n, v] = total / size  # (hinge.2)
    dL_dz[n, label[n, v], v] = -count / NK  # (hinge.6)


@cuda_kernel
def hinge_of_one_score_cuda(z, target, samples, N, size, margin, dL_dz, losses):
    """Fill the loss of each sample and dL/dz for a single score, one thread for each sample; size is 1."""
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one, two = z.dtype.type(0), z.dtype.type(1), z.dtype.type(2)
    loss, slope = zero, zero
    if n * WARP + v < samples:
        y = two * target[n, 0, v] - one
        violation = margin - y * z[n, 0, v]
        loss = zero if violation <= zero else violation  # (hinge.8)
        slope = zero if violation <= zero else -y / N  # (hinge.9)
    losses[n, v], dL_dz[n, 0, v] = loss, slope


class Hinge(Loss):
    """Demand that the score of the true class leads by a margin: the loss of a linear support vector machine.

    Parameters
    ----------
    margin : float
        By how much, above 0.

    Notes
    -----
    Several classes: output (N, K), scores of any size, no softmax; target: N integer labels from 0 to K - 1, or one-hot
    rows (N, K). The loss is the mean over the N K elements of max(0, margin - z[label] + z[k]), k ≠ label, PyTorch's
    ``MultiMarginLoss``. Some books do not divide by K; there loss and gradient are K times as large.

    Two classes with one score: output (N, 1), labels 0 and 1 as (N,) or (N, 1). The loss is the mean over the N samples
    of max(0, margin - y z) with y = 2 t - 1, which is -1 for the label 0 and 1 for the label 1.

    A sample whose margin is kept has no gradient at all. At the kink, a margin that is kept exactly, it is 0, as in
    PyTorch. A support vector machine also has a penalty on the squared weights, which is not part of this loss.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import Hinge
    >>> L, dL_dz = Hinge()(np.array([[2.5, 3.0, 1.0, 6.0]]), np.array([1]))
    >>> L, dL_dz.tolist()
    (1.125, [[0.25, -0.5, 0.0, 0.25]])
    >>> L, dL_dz = Hinge()(np.array([[0.5], [-2.0]]), np.array([1, 0]))
    >>> L, dL_dz.tolist()
    (0.25, [[-0.5], [0.0]])
    """

    kind = "hinge"
    derivation = derivation

    def __init__(self, margin: float = 1.0):
        if isinstance(margin, bool) or not isinstance(margin, Real) or not 0 < margin < math.inf:
            raise ConfigurationError("Hinge: margin", got=repr(margin), expected="a number above 0")
        self.margin = float(margin)

    def literal_options(self) -> dict[str, object]:
        """Return the margin."""
        return {"margin": self.margin}

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return integer labels (N,), or for an output (N, 1) zeros and ones (N, 1)."""
        if len(z_shape) == 2 and z_shape[1] == 1:
            return check_binary(self, target, z_shape)
        return check_labels(self, target, z_shape)

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return labels as (blocks, LANES), or zeros and ones as (blocks, 1, LANES)."""
        return pack_labels(target, blocks) if target.ndim == 1 else pack_values(target, blocks, dtype)

    def unused_equations(self, z_shape: tuple[int, ...]) -> set[str]:
        """Return those of several classes, or of one score."""
        return {f"hinge.{number}" for number in ((1, 2, 5, 6) if z_shape[1] == 1 else (8, 9))}

    def decisions(self, z: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return where a margin is violated, (N, K)."""
        if z.shape[1] == 1:
            return self.margin - (2 * target - 1) * z > 0
        right = z[np.arange(len(z)), target][:, None]
        return (self.margin - right + z > 0) & (np.arange(z.shape[1]) != target[:, None])

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        function = hinge_of_one_score if z.shape[1] == 1 else hinge
        L[0] = function(z, target, samples, z.dtype.type(N), z.dtype.type(self.margin), dL_dz)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient."""
        K, number = z.shape[1], z.dtype.type
        function = hinge_of_one_score_cuda if K == 1 else hinge_cuda
        function[losses.shape](z, target, samples, number(N), number(K), number(self.margin), dL_dz, losses)
