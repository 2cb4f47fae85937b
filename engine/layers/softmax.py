"""Softmax: numbers as probabilities that sum to 1; equations in ``derivations/softmax.py``.

For training, ``SoftmaxCrossEntropy`` on the values before the softmax is both faster and more accurate.
"""

from __future__ import annotations

import math

from ...derivations import softmax as derivation
from ..backend import kernel
from ..cuda import WARP, cuda, cuda_kernel
from .layer import Layer, Shape, Share, require_features


@kernel
def softmax_forward(z, p):
    """p[i] = exp(z[i] - m) / Σ_k exp(z[k] - m) with m the largest z; both (blocks, K, LANES)."""
    blocks, K, lanes = z.shape
    for n in range(blocks):
        for v in range(lanes):
            largest = z[n, 0, v]
            for k in range(1, K):
                largest = max(largest, z[n, k, v])
            total = z.dtype.type(0)
            for k in range(K):
                p[n, k, v] = math.exp(z[n, k, v] - largest)
                total += p[n, k, v]
            for k in range(K):
                p[n, k, v] = p[n, k, v] / total  # (softmax.1)


@kernel
def softmax_backward(p, dL_dp, dL_dz):
    """dL/dz[k] = p[k] (dL/dp[k] - Σ_i dL/dp[i] p[i])."""
    blocks, K, lanes = p.shape
    for n in range(blocks):
        for v in range(lanes):
            mean = p.dtype.type(0)
            for i in range(K):
                mean += dL_dp[n, i, v] * p[n, i, v]
            for k in range(K):
                dL_dz[n, k, v] = p[n, k, v] * (dL_dp[n, k, v] - mean)  # (softmax.4)


@cuda_kernel
def softmax_forward_cuda(z, p):
    """p[i] = exp(z[i] - m) / Σ_k exp(z[k] - m) with m the largest z, one thread for each sample."""
    n, v, K = cuda.blockIdx.x, cuda.threadIdx.x, z.shape[1]
    largest = z[n, 0, v]
    for k in range(1, K):
        largest = max(largest, z[n, k, v])
    total = z.dtype.type(0)
    for k in range(K):
        p[n, k, v] = math.exp(z[n, k, v] - largest)
        total += p[n, k, v]
    for k in range(K):
        p[n, k, v] = p[n, k, v] / total  # (softmax.1)


@cuda_kernel
def softmax_backward_cuda(p, dL_dp, dL_dz):
    """dL/dz[k] = p[k] (dL/dp[k] - Σ_i dL/dp[i] p[i]), one thread for each sample."""
    n, v, K = cuda.blockIdx.x, cuda.threadIdx.x, p.shape[1]
    mean = p.dtype.type(0)
    for i in range(K):
        mean += dL_dp[n, i, v] * p[n, i, v]
    for k in range(K):
        dL_dz[n, k, v] = p[n, k, v] * (dL_dp[n, k, v] - mean)  # (softmax.4)


class Softmax(Layer):
    """Turn the K values of a sample into probabilities.

    Notes
    -----
    Input and output (N, K). The backward pass uses the full Jacobian dp_i/dz_k = p_i ([i=k] - p_k) without storing it.

    Examples
    --------
    >>> from handgrad.engine import Input, Softmax
    >>> Softmax()(Input((10,))).shape
    (10,)
    """

    kind = "softmax"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    letter = "p"

    def output_shape(self, z_shape: Shape) -> Shape:
        """Return (K,)."""
        require_features(self, z_shape)
        return z_shape

    def forward(self, share: Share) -> None:
        """Compute p."""
        softmax_forward(share.x[0], share.z)

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/dp."""
        if share.dL_dx[0] is not None:
            softmax_backward(share.z, share.dL_dz, share.dL_dx[0])

    def forward_cuda(self, share: Share) -> None:
        """Compute p."""
        softmax_forward_cuda[share.z.shape[0], WARP](share.x[0], share.z)

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/dp."""
        if share.dL_dx[0] is not None:
            softmax_backward_cuda[share.z.shape[0], WARP](share.z, share.dL_dz, share.dL_dx[0])
