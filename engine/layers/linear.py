"""Linear activation: the value itself; equations in ``derivations/linear.py``."""

from __future__ import annotations

from ...derivations import linear as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import Elementwise
from .layer import Share


@kernel
def linear_forward(z, a):
    """Fill a from z, on flat arrays."""
    for k in range(z.size):
        a[k] = z[k]  # (linear.1)


@kernel
def linear_backward(a, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    for k in range(dL_da.size):
        dL_dz[k] = dL_da[k]  # (linear.2)


@cuda_kernel
def linear_forward_cuda(z, a):
    """Fill a from z, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = z[k]  # (linear.1)


@cuda_kernel
def linear_backward_cuda(dL_da, dL_dz):
    """Fill dL/dz from dL/da, one thread for each number."""
    k = cuda.grid(1)
    if k < dL_da.size:
        dL_dz[k] = dL_da[k]  # (linear.2)


class Linear(Elementwise):
    """The identity a = z: what an output node of a regression uses.

    Notes
    -----
    Any input shape. A layer of its own so that a trace shows it.
    """

    kind = "linear"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def forward(self, share: Share) -> None:
        """Compute a."""
        linear_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            linear_backward(share.z.reshape(-1), share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        linear_forward_cuda[flat(share.z.size)](share.x[0].reshape(-1), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            linear_backward_cuda[flat(share.dL_dz.size)](share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))
