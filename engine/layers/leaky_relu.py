"""Leaky rectified linear unit; equations in ``derivations/leaky_relu.py``."""

from __future__ import annotations

from numbers import Real

import numpy as np

from ...derivations import leaky_relu as derivation
from ..backend import kernel, scalar
from ..checks import ConfigurationError
from ..cuda import cuda, cuda_kernel, flat
from .elementwise import Elementwise
from .layer import Share


@scalar
def leaky_relu(z, slope, zero):
    """Return z where it is positive, and elsewhere slope z."""
    return z if z > zero else slope * z  # (leaky_relu.1)


@scalar
def leaky_relu_gradient(z, dL_da, slope, zero):
    """Return dL/dz."""
    return dL_da if z > zero else slope * dL_da  # (leaky_relu.3)


@kernel
def leaky_relu_forward(z, slope, a):
    """Fill a from z, on flat arrays; slope has the type of z."""
    zero = z.dtype.type(0)
    for k in range(z.size):
        a[k] = leaky_relu(z[k], slope, zero)


@kernel
def leaky_relu_backward(z, slope, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    zero = z.dtype.type(0)
    for k in range(dL_da.size):
        dL_dz[k] = leaky_relu_gradient(z[k], dL_da[k], slope, zero)


@cuda_kernel
def leaky_relu_forward_cuda(z, slope, a):
    """Fill a from z, one thread for each number; slope has the type of z."""
    k = cuda.grid(1)
    if k < z.size:
        a[k] = leaky_relu(z[k], slope, z.dtype.type(0))


@cuda_kernel
def leaky_relu_backward_cuda(z, slope, dL_da, dL_dz):
    """Fill dL/dz from dL/da, one thread for each number."""
    k = cuda.grid(1)
    if k < z.size:
        dL_dz[k] = leaky_relu_gradient(z[k], dL_da[k], slope, z.dtype.type(0))


class LeakyReLU(Elementwise):
    """Pass what is positive, and a small part of the rest: a = max(slope z, z).

    Parameters
    ----------
    slope : float
        Of the line for negative z, from 0 up to but not including 1.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When the slope is no such number.

    Notes
    -----
    Any input shape. At the kink z = 0 the derivative is taken as the slope, as in PyTorch. NaN stays NaN.

    References
    ----------
    A. L. Maas, A. Y. Hannun, A. Y. Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.

    Examples
    --------
    >>> from handgrad.engine import Input, LeakyReLU
    >>> LeakyReLU(0.1)(Input((6, 28, 28))).shape
    (6, 28, 28)
    """

    kind = "leakyrelu"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def __init__(self, slope: float = 0.01, *, name: str | None = None):
        super().__init__(name)
        if isinstance(slope, bool) or not isinstance(slope, Real) or not 0 <= slope < 1:
            raise ConfigurationError(f"{self}: slope", got=repr(slope), expected="a number from 0 up to below 1")
        self.slope = float(slope)

    def forward(self, share: Share) -> None:
        """Compute a."""
        (z,) = share.x
        leaky_relu_forward(z.reshape(-1), z.dtype.type(self.slope), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        (z,), (dL_dz,) = share.x, share.dL_dx
        if dL_dz is not None:
            slope = z.dtype.type(self.slope)
            leaky_relu_backward(z.reshape(-1), slope, share.dL_dz.reshape(-1), dL_dz.reshape(-1))

    def forward_cuda(self, share: Share) -> None:
        """Compute a."""
        (z,) = share.x
        leaky_relu_forward_cuda[flat(z.size)](z.reshape(-1), z.dtype.type(self.slope), share.z.reshape(-1))

    def backward_cuda(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        (z,), (dL_dz,) = share.x, share.dL_dx
        if dL_dz is not None:
            slope, grid = z.dtype.type(self.slope), flat(z.size)
            leaky_relu_backward_cuda[grid](z.reshape(-1), slope, share.dL_dz.reshape(-1), dL_dz.reshape(-1))

    def decisions(self, share: Share) -> np.ndarray:
        """Return where z is positive."""
        return share.x[0] > 0

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the slope."""
        return {"slope": self.slope}

    def settings(self) -> dict[str, object]:
        """Return the slope."""
        return {"slope": self.slope}
