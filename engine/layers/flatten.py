"""Flatten: an image as one column of numbers; equations in ``derivations/flatten.py``.

In lane layout the channels, rows and columns of a sample already lie one after another, so nothing is copied.
"""

from __future__ import annotations

import math

import numpy as np

from ...derivations import flatten as derivation
from .layer import Layer, Shape, Share


class Flatten(Layer):
    """Number the values of an image in row-major order.

    Notes
    -----
    Input (N, C, H, W) or (N, features), output (N, C H W).

    Examples
    --------
    >>> from handgrad.engine import Flatten, Input
    >>> Flatten()(Input((16, 5, 5))).shape
    (400,)
    """

    kind = "flatten"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (C H W,)."""
        return (math.prod(x_shape),)

    def view(self, z: np.ndarray, shape: Shape) -> np.ndarray:
        """Return the same memory in another shape: forward from x to z, backward from dL/dz to dL/dx."""
        return z.reshape(len(z), *shape, z.shape[-1])  # (flatten.1) (flatten.2)

    def forward(self, share: Share) -> None:
        """Do nothing: z is a view of x."""

    def backward(self, share: Share) -> None:
        """Do nothing: dL/dx is a view of dL/dz."""

    def forward_cuda(self, share: Share) -> None:
        """Do nothing: z is a view of x."""

    def backward_cuda(self, share: Share) -> None:
        """Do nothing: dL/dx is a view of dL/dz."""
