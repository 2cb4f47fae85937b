"""Multiply: the product of several branches of the graph, as in a gate; equations in ``derivations/multiply.py``."""

from __future__ import annotations

from ...derivations import multiply as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import OfEqualInputs
from .layer import Share


@kernel
def multiply_forward(x, y, z):
    """z = x y, on flat arrays; z may be x, so that more factors can follow one after another."""
    for k in range(z.size):
        z[k] = x[k] * y[k]  # (multiply.1)


@kernel
def multiply_backward(dL_dz, other, dL_dx):
    """dL/dx = dL/dz times one of the other factors, on flat arrays; dL_dz may be dL_dx, so that more can follow."""
    for k in range(dL_dx.size):
        dL_dx[k] = dL_dz[k] * other[k]  # (multiply.3)


@cuda_kernel
def multiply_forward_cuda(x, y, z):
    """z = x y, one thread for each number; z may be x."""
    k = cuda.grid(1)
    if k < z.size:
        z[k] = x[k] * y[k]  # (multiply.1)


@cuda_kernel
def multiply_backward_cuda(dL_dz, other, dL_dx):
    """dL/dx = dL/dz times one of the other factors, one thread for each number; dL_dz may be dL_dx."""
    k = cuda.grid(1)
    if k < dL_dx.size:
        dL_dx[k] = dL_dz[k] * other[k]  # (multiply.3)


class Multiply(OfEqualInputs):
    """Element-wise product of two or more inputs of equal shape, as in gate * x.

    Raises
    ------
    ShapeError
        When the inputs differ in shape.

    Notes
    -----
    Any input shape. The gradient of a factor is multiplied by all the others one by one, and never divided, so that
    factors of 0 do no harm. One node may be several factors: ``Multiply()(x, x)`` is x².

    References
    ----------
    R. K. Srivastava, K. Greff, J. Schmidhuber, "Highway Networks", 2015.

    Examples
    --------
    >>> from handgrad.engine import Dense, Input, Multiply, Sigmoid
    >>> x = Input((8,))
    >>> Multiply()(Sigmoid()(Dense(8)(x)), x).shape
    (8,)
    """

    kind = "multiply"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def forward(self, share: Share) -> None:
        """Multiply the inputs from left to right."""
        first, second, *others = (x.reshape(-1) for x in share.x)
        z = share.z.reshape(-1)
        multiply_forward(first, second, z)
        for x in others:
            multiply_forward(z, x, z)

    def backward(self, share: Share) -> None:
        """Multiply the gradient of each input by all the other inputs."""
        for m, dL_dx in enumerate(share.dL_dx):
            if dL_dx is None:
                continue
            product = share.dL_dz.reshape(-1)
            for i, x in enumerate(share.x):
                if i != m:
                    multiply_backward(product, x.reshape(-1), dL_dx.reshape(-1))
                    product = dL_dx.reshape(-1)

    def forward_cuda(self, share: Share) -> None:
        """Multiply the inputs from left to right."""
        first, second, *others = (x.reshape(-1) for x in share.x)
        z = share.z.reshape(-1)
        multiply_forward_cuda[flat(z.size)](first, second, z)
        for x in others:
            multiply_forward_cuda[flat(z.size)](z, x, z)

    def backward_cuda(self, share: Share) -> None:
        """Multiply the gradient of each input by all the other inputs."""
        for m, dL_dx in enumerate(share.dL_dx):
            if dL_dx is None:
                continue
            product = share.dL_dz.reshape(-1)
            for i, x in enumerate(share.x):
                if i != m:
                    multiply_backward_cuda[flat(dL_dx.size)](product, x.reshape(-1), dL_dx.reshape(-1))
                    product = dL_dx.reshape(-1)
