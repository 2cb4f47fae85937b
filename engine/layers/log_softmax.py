"""Log-softmax: the logarithms of a softmax's probabilities; equations in ``derivations/log_softmax.py``.

``SoftmaxCrossEntropy`` on the values before this layer does the same and the loss in one pass.
"""

from __future__ import annotations

import math

from ...derivations import log_softmax as derivation
from ..backend import LANES, kernel, registers
from ..cuda import WARP, cuda, cuda_kernel
from .layer import Layer, Shape, Share, require_features


@kernel
def log_softmax_forward(z, y):
    """y[i] = z[i] - m - log Σ_k exp(z[k] - m) with m the largest z; both (blocks, K, LANES).

    z - m goes through memory: with m and the logarithm added up first, huge logits would swallow the logarithm.
    """
    blocks, K, _ = z.shape
    zero = z.dtype.type(0)
    largest, total = registers((LANES,), LANES, z), registers((LANES,), LANES, z)
    for n in range(blocks):
        for v in range(LANES):
            largest[v], total[v] = z[n, 0, v], zero
        for k in range(1, K):
            for v in range(LANES):
                largest[v] = max(largest[v], z[n, k, v])
        for k in range(K):
            for v in range(LANES):
                y[n, k, v] = z[n, k, v] - largest[v]
                total[v] += math.exp(y[n, k, v])
        for v in range(LANES):
            total[v] = math.log(total[v])
        for i in range(K):
            for v in range(LANES):
                y[n, i, v] = y[n, i, v] - total[v]  # (log_softmax.1)


@kernel
def log_softmax_backward(y, dL_dy, dL_dz):
    """dL/dz[k] = dL/dy[k] - p[k] Σ_i dL/dy[i]; all (blocks, K, LANES)."""
    blocks, K, _ = y.shape
    zero = y.dtype.type(0)
    total = registers((LANES,), LANES, y)
    for n in range(blocks):
        for v in range(LANES):
            total[v] = zero
        for i in range(K):
            for v in range(LANES):
                total[v] += dL_dy[n, i, v]
        for k in range(K):
            for v in range(LANES):
                p = math.exp(y[n, k, v])  # (log_softmax.2)
                dL_dz[n, k, v] = dL_dy[n, k, v] - p * total[v]  # (log_softmax.5)


@cuda_kernel
def log_softmax_forward_cuda(z, y):
    """y[i] = z[i] - m - log Σ_k exp(z[k] - m) with m the largest z, one thread for each sample."""
    n, v, K = cuda.blockIdx.x, cuda.threadIdx.x, z.shape[1]
    largest, total = z[n, 0, v], z.dtype.type(0)
    for k in range(1, K):
        largest = max(largest, z[n, k, v])
    for k in range(K):
        y[n, k, v] = z[n, k, v] - largest
        total += math.exp(y[n, k, v])
    logarithm = math.log(total)
    for i in range(K):
        y[n, i, v] = y[n, i, v] - logarithm  # (log_softmax.1)


@cuda_kernel
def log_softmax_backward_cuda(y, dL_dy, dL_dz):
    """dL/dz[k] = dL/dy[k] - p[k] Σ_i dL/dy[i], one thread for each sample."""
    n, v, K = cuda.blockIdx.x, cuda.threadIdx.x, y.shape[1]
    total = y.dtype.type(0)
    for i in range(K):
        total += dL_dy[n, i, v]
    for k in range(K):
        p = math.exp(y[n, k, v])  # (log_softmax.2)
        dL_dz[n, k, v] = dL_dy[n, k, v] - p * total  # (log_softmax.5)


class LogSoftmax(Layer):
    """Turn the K values of a sample into the logarithms of probabilities.

    Parameters
    ----------
    name : str, optional

    Notes
    -----
    Input and output (N, K). No probability is computed on the way, so none becomes 0 and no logarithm -∞, however far
    the values lie apart. The backward pass uses the full Jacobian dy_i/dz_k = [i=k] - p_k without storing it.

    Examples
    --------
    >>> from handgrad.engine import Input, LogSoftmax
    >>> LogSoftmax()(Input((10,))).shape
    (10,)
    """

    kind = "logsoftmax"
    derivation = derivation
    kernels_alone = True
    letter = "y"

    def output_shape(self, z_shape: Shape) -> Shape:
        """Return (K,)."""
        require_features(self, z_shape)
        return z_shape

    def forward(self, share: Share) -> None:
        """Compute y."""
        log_softmax_forward(share.x[0], share.z)

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/dy."""
        if share.dL_dx[0] is not None:
            log_softmax_backward(share.z, share.dL_dz, share.dL_dx[0])

    def forward_cuda(self, share: Share) -> None:
        """Compute y."""
        log_softmax_forward_cuda[share.z.shape[0], WARP](share.x[0], share.z)

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/dy."""
        if share.dL_dx[0] is not None:
            log_softmax_backward_cuda[share.z.shape[0], WARP](share.z, share.dL_dz, share.dL_dx[0])
