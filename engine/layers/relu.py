"""Rectified linear unit; equations in ``derivations/relu.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import relu as derivation
from ..backend import kernel, scalar
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import Elementwise
from .layer import Share


@scalar
def relu(z, zero, one):
    """Return max(0, z); NaN stays NaN."""
    return zero if z < zero else z  # (relu.1)


@scalar
def relu_gradient(a, dL_da, zero, one):
    """Return dL/dz; a is positive where z is."""
    return zero if a <= zero else dL_da  # (relu.3)


@kernel
def relu_forward(z, a):
    """Fill a from z, on flat arrays."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(z.size):
        a[k] = relu(z[k], zero, one)


@kernel
def relu_backward(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for k in range(dL_da.size):
        dL_dz[k] = relu_gradient(a[k], dL_da[k], zero, one)


@cuda_kernel
def relu_forward_cuda(z, a):
    """Fill a from z, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = relu(z[k], z.dtype.type(0), z.dtype.type(1))


@cuda_kernel
def relu_backward_cuda(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, one thread for each number."""
    k = cuda.grid(1)
    if k < a.size:
        dL_dz[k] = relu_gradient(a[k], dL_da[k], a.dtype.type(0), a.dtype.type(1))


class ReLU(Elementwise):
    """Pass what is positive, set the rest to 0: a = max(0, z).

    Notes
    -----
    Any input shape. At the kink z = 0 the derivative is taken as 0, as in PyTorch. NaN stays NaN.
    """

    kind = "relu"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    formulas = (relu, relu_gradient)

    def forward(self, share: Share) -> None:
        """Compute a."""
        relu_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            relu_backward(share.z.reshape(-1), share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        relu_forward_cuda[flat(share.z.size)](share.x[0].reshape(-1), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            a, dL_da, dL_dz = (array.reshape(-1) for array in (share.z, share.dL_dz, share.dL_dx[0]))
            relu_backward_cuda[flat(a.size)](a, dL_da, dL_dz)

    def decisions(self, share: Share) -> np.ndarray:
        """Return where z is positive."""
        return share.x[0] > 0
