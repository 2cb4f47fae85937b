"""Mean absolute error; equations in ``derivations/mean_absolute_error.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import mean_absolute_error as derivation
from ..backend import LANES, kernel, scalar
from ..cuda import WARP, cuda, cuda_kernel
from .loss import LossOfValues


@scalar
def sign(residual, one):
    """1 above 0 and -1 below; 0 and NaN are returned as they are. one has the type of the residual."""
    if residual > 0:
        return one
    return -one if residual < 0 else residual


@kernel
def mean_absolute_error(p, target, samples, N, dL_dp, L):
    """Fill L with the sum over the samples of Σ |p - t| / K, and dL/dp = sign(p - t) / (N K).

    All (blocks, K, LANES).
    """
    blocks, K, lanes = p.shape
    size, one = p.dtype.type(K), p.dtype.type(1)
    NK = p.dtype.type(N) * size
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(lanes):
                if n * lanes + v < samples:
                    residual = p[n, k, v] - target[n, k, v]
                    loss += abs(residual) / size  # (mean_absolute_error.1)
                    dL_dp[n, k, v] = sign(residual, one) / NK  # (mean_absolute_error.3)
                else:
                    dL_dp[n, k, v] = 0
    L[0] = loss


@cuda_kernel
def mean_absolute_error_cuda(p, target, samples, N, size, dL_dp, losses):
    """Fill the loss of each sample and dL/dp, one thread for each sample.

    All but losses (blocks, K, WARP); size is K.
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, one = p.dtype.type(0), p.dtype.type(1)
    NK = N * size
    loss = zero
    for k in range(p.shape[1]):
        if n * WARP + v < samples:
            residual = p[n, k, v] - target[n, k, v]
            loss += abs(residual) / size  # (mean_absolute_error.1)
            dL_dp[n, k, v] = sign(residual, one) / NK  # (mean_absolute_error.3)
        else:
            dL_dp[n, k, v] = zero
    losses[n, v] = loss


class MeanAbsoluteError(LossOfValues):
    """Mean over all elements of the mini-batch of |p - t|.

    Notes
    -----
    Output and target (N, ...) of one shape; integer labels (N,) for an output (N, K) count as one-hot rows. The mean is
    taken over the N K elements, as in PyTorch's ``L1Loss``, so the gradient of an element is 1 / (N K) where the
    prediction is too large and -1 / (N K) where it is too small. At the kink p = t it is 0, as in PyTorch. NaN stays
    NaN.

    Every deviation pulls with the same force, however large it is: one wrong target does not spoil a fit, as it may
    with the mean squared error, but the gradient does not shrink near the goal either, so the learning rate must.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import MeanAbsoluteError
    >>> L, dL_dp = MeanAbsoluteError()(np.array([[1.0, 2.0]]), np.array([[0.0, 5.0]]))
    >>> L, dL_dp.tolist()
    (2.0, [[0.5, -0.5]])
    """

    kind = "mean_absolute_error"
    derivation = derivation
    kernels_alone = True

    def decisions(self, z: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return where the prediction is above its target."""
        return z > target

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        flat = (len(z), -1, LANES)
        mean_absolute_error(z.reshape(flat), target.reshape(flat), samples, N, dL_dz.reshape(flat), L)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient."""
        flat, number = (len(z), -1, WARP), z.dtype.type
        N, K = number(N), number(z.size // losses.size)
        mean_absolute_error_cuda[losses.shape](
            z.reshape(flat), target.reshape(flat), samples, N, K, dL_dz.reshape(flat), losses
        )
