"""Mean squared error; equations in ``derivations/mean_squared_error.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import mean_squared_error as derivation
from ..backend import LANES, kernel
from ..cuda import WARP, cuda, cuda_kernel
from .loss import LossOfValues


@kernel
def mean_squared_error(p, target, samples, N, dL_dp, L):
    """Fill L with the sum over the samples of Σ (p - l)² / K, and dL/dp = 2 (p - l) / (N K); all (blocks, K, LANES)."""
    blocks, K, lanes = p.shape
    size = p.dtype.type(K)
    NK = p.dtype.type(N) * size
    two = p.dtype.type(2)
    loss = 0.0
    for n in range(blocks):
        for k in range(K):
            for v in range(lanes):
                if n * lanes + v < samples:
                    residual = p[n, k, v] - target[n, k, v]
                    loss += residual * residual / size  # (mean_squared_error.1)
                    dL_dp[n, k, v] = two * residual / NK  # (mean_squared_error.2)
                else:
                    dL_dp[n, k, v] = 0
    L[0] = loss


@cuda_kernel
def mean_squared_error_cuda(p, target, samples, N, size, dL_dp, losses):
    """Fill the loss of each sample and dL/dp, one thread for each sample.

    All but losses (blocks, K, WARP); size is K.
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    zero, two = p.dtype.type(0), p.dtype.type(2)
    NK = N * size
    loss = zero
    for k in range(p.shape[1]):
        if n * WARP + v < samples:
            residual = p[n, k, v] - target[n, k, v]
            loss += residual * residual / size  # (mean_squared_error.1)
            dL_dp[n, k, v] = two * residual / NK  # (mean_squared_error.2)
        else:
            dL_dp[n, k, v] = zero
    losses[n, v] = loss


class MeanSquaredError(LossOfValues):
    """Mean over all elements of the mini-batch of (p - l)².

    Notes
    -----
    Output and target (N, ...) of one shape; integer labels (N,) for an output (N, K) count as one-hot rows. The mean is
    taken over the N K elements, as in PyTorch, so the gradient of an element is 2 (p - l) / (N K).

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import MeanSquaredError
    >>> L, dL_dp = MeanSquaredError()(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    >>> L, dL_dp.tolist()
    (2.5, [[1.0, -2.0]])
    """

    kind = "mean_squared_error"
    derivation = derivation
    kernels_alone = True

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and its gradient."""
        flat = (len(z), -1, LANES)
        mean_squared_error(z.reshape(flat), target.reshape(flat), samples, N, dL_dz.reshape(flat), L)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and their gradient."""
        flat, number = (len(z), -1, WARP), z.dtype.type
        N, K = number(N), number(z.size // losses.size)
        mean_squared_error_cuda[losses.shape](
            z.reshape(flat), target.reshape(flat), samples, N, K, dL_dz.reshape(flat), losses
        )
