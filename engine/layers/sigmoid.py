"""Sigmoid, the logistic function; equations in ``derivations/sigmoid.py``."""

from __future__ import annotations

import math

from ...derivations import sigmoid as derivation
from ..backend import kernel, scalar
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import Elementwise
from .layer import Share


@scalar
def sigmoid(z, zero, one):
    """Return 1 / (1 + exp(-z)), by the exponential of a negative number, which cannot overflow."""
    e = math.exp(-abs(z))
    return (one if z >= zero else e) / (one + e)  # (sigmoid.1)


@scalar
def sigmoid_gradient(a, dL_da, zero, one):
    """Return dL/dz."""
    return dL_da * a * (one - a)  # (sigmoid.4)


@kernel
def sigmoid_forward(z, a):
    """Fill a from z, on flat arrays."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for k in range(z.size):
        a[k] = sigmoid(z[k], zero, one)


@kernel
def sigmoid_backward(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for k in range(dL_da.size):
        dL_dz[k] = sigmoid_gradient(a[k], dL_da[k], zero, one)


@cuda_kernel
def sigmoid_forward_cuda(z, a):
    """Fill a from z, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = sigmoid(z[k], z.dtype.type(0), z.dtype.type(1))


@cuda_kernel
def sigmoid_backward_cuda(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, one thread for each number."""
    k = cuda.grid(1)
    if k < a.size:
        dL_dz[k] = sigmoid_gradient(a[k], dL_da[k], a.dtype.type(0), a.dtype.type(1))


class Sigmoid(Elementwise):
    """Squash every value to a probability between 0 and 1: a = 1 / (1 + exp(-z)).

    Notes
    -----
    Any input shape. The derivative is a (1 - a), at most 1/4.
    """

    kind = "sigmoid"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    formulas = (sigmoid, sigmoid_gradient)

    def forward(self, share: Share) -> None:
        """Compute a."""
        sigmoid_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            sigmoid_backward(share.z.reshape(-1), share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        sigmoid_forward_cuda[flat(share.z.size)](share.x[0].reshape(-1), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            a, dL_da, dL_dz = (array.reshape(-1) for array in (share.z, share.dL_dz, share.dL_dx[0]))
            sigmoid_backward_cuda[flat(a.size)](a, dL_da, dL_dz)
