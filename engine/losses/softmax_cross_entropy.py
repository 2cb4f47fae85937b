"""Softmax and cross entropy in one; equations in ``derivations/softmax_cross_entropy.py``."""

from __future__ import annotations

import math

import numpy as np

from ...derivations import softmax_cross_entropy as derivation
from ..backend import kernel
from ..cuda import WARP, cuda, cuda_kernel
from .loss import Loss, check_labels, pack_labels


@kernel
def softmax_cross_entropy(z, label, samples, N, dL_dz, L):
    """Fill L with Σ over the samples of log Σ_k exp(z[k] - m) + m - z[label], m the largest z, and dL/dz = (p - t) / N.

    z and dL_dz (blocks, K, LANES), label (blocks, LANES).
    """
    blocks, K, lanes = z.shape
    zero, one, number = z.dtype.type(0), z.dtype.type(1), z.dtype.type(N)
    loss = 0.0
    for n in range(blocks):
        for v in range(lanes):
            if n * lanes + v >= samples:
                for k in range(K):
                    dL_dz[n, k, v] = 0
                continue
            largest = z[n, 0, v]
            for k in range(1, K):
                largest = max(largest, z[n, k, v])
            for k in range(K):
                dL_dz[n, k, v] = z[n, k, v] - largest
            below = dL_dz[n, label[n, v], v]  # the logarithm must not be added to numbers of the size of z
            total = zero
            for k in range(K):
                dL_dz[n, k, v] = math.exp(dL_dz[n, k, v])
                total += dL_dz[n, k, v]
            loss += math.log(total) - below  # (softmax_cross_entropy.1)
            for k in range(K):
                t = one if k == label[n, v] else zero
                dL_dz[n, k, v] = (dL_dz[n, k, v] / total - t) / number  # (softmax_cross_entropy.5)
    L[0] = loss


@cuda_kernel
def softmax_cross_entropy_cuda(z, label, samples, N, dL_dz, losses):
    """Fill the loss of each sample and dL/dz, one thread for each sample.

    z and dL_dz (blocks, K, WARP), label and losses (blocks, WARP).
    """
    n, v = cuda.blockIdx.x, cuda.threadIdx.x
    K = z.shape[1]
    zero, one = z.dtype.type(0), z.dtype.type(1)
    if n * WARP + v >= samples:
        for k in range(K):
            dL_dz[n, k, v] = zero
        losses[n, v] = zero
        return
    largest = z[n, 0, v]
    for k in range(1, K):
        largest = max(largest, z[n, k, v])
    total = zero
    for k in range(K):
        e = math.exp(z[n, k, v] - largest)
        dL_dz[n, k, v] = e
        total += e
    below = z[n, label[n, v], v] - largest
    losses[n, v] = math.log(total) - below  # (softmax_cross_entropy.1)
    for k in range(K):
        t = one if k == label[n, v] else zero
        dL_dz[n, k, v] = (dL_dz[n, k, v] / total - t) / N  # (softmax_cross_entropy.5)


class SoftmaxCrossEntropy(Loss):
    """Mean over the mini-batch of -log p[label], where p is the softmax of the network's output.

    Notes
    -----
    Output (N, K); target: N integer labels from 0 to K - 1, or one-hot rows (N, K). The loss is computed from the
    logits with the largest one subtracted, so it neither overflows nor takes the logarithm of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine import SoftmaxCrossEntropy
    >>> L, dL_dz = SoftmaxCrossEntropy()(np.zeros((1, 2)), np.array([0]))
    >>> round(L, 4), dL_dz.tolist()
    (0.6931, [[-0.5, 0.5]])
    """

    kind = "softmax_cross_entropy"
    derivation = derivation
    kernels_alone = True

    def check_target(self, target: np.ndarray, z_shape: tuple[int, ...]) -> np.ndarray:
        """Return integer labels (N,) from labels or one-hot rows."""
        return check_labels(self, target, z_shape)

    def pack_target(self, target: np.ndarray, blocks: int, dtype: np.dtype) -> np.ndarray:
        """Return labels as (blocks, LANES)."""
        return pack_labels(target, blocks)

    def compute(
        self, z: np.ndarray, target: np.ndarray, samples: int, N: int, dL_dz: np.ndarray, L: np.ndarray
    ) -> None:
        """Compute the summed loss and (p - t) / N."""
        softmax_cross_entropy(z, target, samples, N, dL_dz, L)

    def on_cuda(self, z, target, samples: int, N: int, dL_dz, losses) -> None:
        """Compute the losses and (p - t) / N."""
        softmax_cross_entropy_cuda[losses.shape](z, target, samples, z.dtype.type(N), dL_dz, losses)
