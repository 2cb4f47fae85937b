"""Hyperbolic tangent; equations in ``derivations/tanh.py``."""

from __future__ import annotations

import math

from ...derivations import tanh as derivation
from ..backend import kernel, scalar
from ..cuda import cuda, cuda_kernel, flat
from ..scalar import tanh
from .elementwise import Elementwise
from .layer import Share


@scalar
def tanh_value(z, zero, one):
    """Return tanh z."""
    return tanh(z)  # (tanh.1)


@scalar
def tanh_gradient(a, dL_da, zero, one):
    """Return dL/dz."""
    return dL_da * (one - a * a)  # (tanh.4)


@kernel
def tanh_forward(z, a):
    """Fill a from z, on flat arrays."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(z.size):
        a[k] = tanh_value(z[k], zero, one)


@kernel
def tanh_backward(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for k in range(dL_da.size):
        dL_dz[k] = tanh_gradient(a[k], dL_da[k], zero, one)


@cuda_kernel
def tanh_forward_cuda(z, a):
    """Fill a from z, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = math.tanh(z[k])  # (tanh.1)


@cuda_kernel
def tanh_backward_cuda(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, one thread for each number."""
    k = cuda.grid(1)
    if k < a.size:
        dL_dz[k] = tanh_gradient(a[k], dL_da[k], a.dtype.type(0), a.dtype.type(1))


class Tanh(Elementwise):
    """Squash every value to between -1 and 1: a = tanh(z).

    Notes
    -----
    Any input shape. In float32 the value is a quotient of polynomials, right to 3e-7 (see
    handgrad.engine.scalar); in float64, and on a GPU, it is the standard library's. The derivative is 1 - a².
    """

    kind = "tanh"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    formulas = (tanh_value, tanh_gradient)

    def forward(self, share: Share) -> None:
        """Compute a."""
        tanh_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            tanh_backward(share.z.reshape(-1), share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        tanh_forward_cuda[flat(share.z.size)](share.x[0].reshape(-1), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            a, dL_da, dL_dz = (array.reshape(-1) for array in (share.z, share.dL_dz, share.dL_dx[0]))
            tanh_backward_cuda[flat(a.size)](a, dL_da, dL_dz)
