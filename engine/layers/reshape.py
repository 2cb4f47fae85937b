"""Reshape: the same values in another shape; equations in ``derivations/reshape.py``.

In lane layout the values of a sample lie one after another in row-major order, so nothing is copied.
"""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np

from ...derivations import reshape as derivation
from ..checks import ConfigurationError, ShapeError
from .layer import Layer, Shape, Share


class Reshape(Layer):
    """Give the values of a sample another shape, in row-major order.

    Parameters
    ----------
    shape : tuple of int
        Of one sample, without the mini-batch, such as (channels, rows, columns); one size may be -1, which stands for
        whatever is left. A single integer is a flat shape.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When a size is neither a positive integer nor the only -1.
    ShapeError
        When the input has another number of values.

    Notes
    -----
    Input (N, ...), output (N, *shape), as NumPy and PyTorch reshape. Rows and columns are not exchanged.

    Examples
    --------
    >>> from handgrad.engine import Input, Reshape
    >>> Reshape((1, 28, -1))(Input((784,))).shape
    (1, 28, 28)
    """

    kind = "reshape"
    derivation = derivation
    kernels_alone = True
    takes_one = True

    def __init__(self, shape: int | tuple[int, ...], *, name: str | None = None):
        super().__init__(name)
        sizes = (shape,) if isinstance(shape, Integral) else shape
        fits = isinstance(sizes, (tuple, list)) and len(sizes) > 0
        if (
            not fits
            or any(isinstance(D, bool) or not isinstance(D, Integral) or (D < 1 and D != -1) for D in sizes)
            or sum(D == -1 for D in sizes) > 1
        ):
            raise ConfigurationError(
                f"{self}: shape", got=repr(shape), expected="integers of at least 1, one of which may be -1"
            )
        self.shape = tuple(int(D) for D in sizes)

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return the target shape without -1."""
        size, known = math.prod(x_shape), math.prod(D for D in self.shape if D != -1)
        open_size = size // known  # (reshape.1)
        shape = tuple(open_size if D == -1 else D for D in self.shape)
        if math.prod(shape) != size:
            source = f" (from {' x '.join(map(str, x_shape))})" if len(x_shape) > 1 else ""
            target = " x ".join(map(str, self.shape))
            expected = f"a multiple of {known} for {target}" if -1 in self.shape else f"{known} for {target}"
            raise ShapeError(str(self), got=f"an input of {size} values{source}", expected=expected)
        return shape

    def view(self, z: np.ndarray, shape: Shape) -> np.ndarray:
        """Return the same memory in another shape: forward from x to z, backward from dL/dz to dL/dx."""
        return z.reshape(len(z), *shape, z.shape[-1])  # (reshape.2) (reshape.4)

    def forward(self, share: Share) -> None:
        """Do nothing: z is a view of x."""

    def backward(self, share: Share) -> None:
        """Do nothing: dL/dx is a view of dL/dz."""

    def forward_cuda(self, share: Share) -> None:
        """Do nothing: z is a view of x."""

    def backward_cuda(self, share: Share) -> None:
        """Do nothing: dL/dx is a view of dL/dz."""

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return the target shape as it was given."""
        return {"shape": self.shape}

    def settings(self) -> dict[str, object]:
        """Return the target shape as it was given."""
        return {"shape": self.shape}
