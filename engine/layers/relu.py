"""Rectified linear unit; equations in ``derivations/relu.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import relu as derivation
from ..backend import kernel
from .elementwise import Elementwise
from .layer import Share


@kernel
def relu_forward(z, a):
    """Fill a from z, on flat arrays."""
    zero = z.dtype.type(0)
    for k in range(z.size):
        a[k] = zero if z[k] < zero else z[k]  # (relu.1)


@kernel
def relu_backward(z, dL_da, dL_dz):
    """Fill dL/dz from dL/da, on flat arrays."""
    zero = z.dtype.type(0)
    for k in range(dL_da.size):
        dL_dz[k] = zero if z[k] <= zero else dL_da[k]  # (relu.3)


class ReLU(Elementwise):
    """Pass what is positive, set the rest to 0: a = max(0, z).

    Notes
    -----
    Any input shape. At the kink z = 0 the derivative is taken as 0, as in PyTorch. NaN stays NaN.
    """

    kind = "relu"
    derivation = derivation

    def forward(self, share: Share) -> None:
        """Compute a."""
        relu_forward(share.x[0].reshape(-1), share.z.reshape(-1))

    def backward(self, share: Share) -> None:
        """Compute dL/dz from dL/da."""
        if share.dL_dx[0] is not None:
            relu_backward(share.x[0].reshape(-1), share.dL_dz.reshape(-1), share.dL_dx[0].reshape(-1))

    def decisions(self, share: Share) -> np.ndarray:
        """Return where z is positive."""
        return share.x[0] > 0
