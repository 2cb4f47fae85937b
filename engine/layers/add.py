"""Add: the sum of several branches of the graph, the skip connection of ResNet; equations in ``derivations/add.py``."""

from __future__ import annotations

from ...derivations import add as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import OfEqualInputs
from .layer import Share


@kernel
def add_forward(x, y, z):
    """z = x + y, on flat arrays; z may be x, so that more inputs can be added one after another."""
    for k in range(z.size):
        z[k] = x[k] + y[k]  # (add.1)


@kernel
def add_backward(dL_dz, dL_dx):
    """dL/dx = dL/dz for each of the inputs, on flat arrays."""
    for k in range(dL_dz.size):
        dL_dx[k] = dL_dz[k]  # (add.3)


@cuda_kernel
def add_forward_cuda(x, y, z):
    """z = x + y, one thread for each number; z may be x."""
    k = cuda.grid(1)
    if k < z.size:
        z[k] = x[k] + y[k]  # (add.1)


@cuda_kernel
def add_backward_cuda(dL_dz, dL_dx):
    """dL/dx = dL/dz for one of the inputs, one thread for each number."""
    k = cuda.grid(1)
    if k < dL_dz.size:
        dL_dx[k] = dL_dz[k]  # (add.3)


class Add(OfEqualInputs):
    """Element-wise sum of two or more inputs of equal shape, as in relu(f(x) + x).

    Examples
    --------
    >>> from handgrad.engine import Add, Dense, Input
    >>> x = Input((8,))
    >>> Add()(Dense(8)(x), x).shape
    (8,)
    """

    kind = "add"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def forward(self, share: Share) -> None:
        """Add the inputs from left to right."""
        first, second, *others = (x.reshape(-1) for x in share.x)
        z = share.z.reshape(-1)
        add_forward(first, second, z)
        for x in others:
            add_forward(z, x, z)

    def view_back(self, dL_dz, shape, position):
        """Return dL/dz for the first input, and copy it for the others: a layer may overwrite what it is sent."""
        return dL_dz if position == 0 else None  # (add.3)

    def backward(self, share: Share) -> None:
        """Hand the gradient to every other input unchanged."""
        for dL_dx in share.dL_dx:
            if dL_dx is not None and dL_dx is not share.dL_dz:
                add_backward(share.dL_dz.reshape(-1), dL_dx.reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Add the inputs from left to right."""
        first, second, *others = (x.reshape(-1) for x in share.x)
        z = share.z.reshape(-1)
        add_forward_cuda[flat(z.size)](first, second, z)
        for x in others:
            add_forward_cuda[flat(z.size)](z, x, z)

    def backward_cuda(self, share: Share) -> None:
        """Hand the gradient to every other input unchanged."""
        for dL_dx in share.dL_dx:
            if dL_dx is not None and dL_dx is not share.dL_dz:
                add_backward_cuda[flat(dL_dx.size)](share.dL_dz.reshape(-1), dL_dx.reshape(-1))
