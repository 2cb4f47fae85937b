"""What max and average pooling share: a window that slides over each channel by itself.

Floor 2.
"""

from __future__ import annotations

import numpy as np

from ...derivations.notation import output_size, windows_over
from ..arrays import clear
from ..backend import scalar
from ..checks import ConfigurationError, ShapeError
from .layer import Layer, Shape, Share, require_image
from .window import Line, pair_of_integers, parse_padding


@scalar
def passed_on(a, dL_da, zero, one):
    """Return dL/da: the gradient of what stands in front, where that is no activation."""
    return dL_da


def gradient_before(share: Share):
    """Return the formula with which a backward pass goes back through the activation in front, where it has to."""
    return passed_on if share.before is None else share.before.formulas[1]


class Pool2D(Layer):
    """Base of the pooling layers.

    Parameters
    ----------
    size : int or (rows, columns)
        Of the window.
    stride : int or (rows, columns), optional
        By default the size, so that the windows do not overlap.
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
    name : str, optional
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        padding: str | int | tuple[int, ...] = 0,
        name: str | None = None,
    ):
        super().__init__(name)
        self.size = pair_of_integers(self, "size", size)
        self.stride = self.size if stride is None else pair_of_integers(self, "stride", stride)
        self.padding = padding
        self._sides = parse_padding(self, padding, (1, 1), (1, 1), (1, 1), (1, 1))  # checked here, used when built

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (C, P, Q)."""
        C, H, B = require_image(self, x_shape)
        (fh, fw), (sh, sw) = self.size, self.stride
        sides = parse_padding(self, self.padding, (H, B), self.size, self.stride, (1, 1))
        P, Q = output_size(H, fh, sh, sides[0], sides[1]), output_size(B, fw, sw, sides[2], sides[3])
        if P < 1 or Q < 1:
            raise ShapeError(
                str(self),
                got=f"an image of {H} x {B} with padding {sides}",
                expected=f"at least {fh} x {fw} for its window",
                remedy="use a smaller window or more padding",
            )
        if max(sides[:2]) >= fh or max(sides[2:]) >= fw:
            raise ConfigurationError(
                f"{self}: padding",
                got=str(sides),
                expected=f"less than its window of {fh} x {fw}, so that every window holds a pixel",
            )
        return C, P, Q

    def settle(self, x_shape: Shape) -> None:
        """Fix the padding of every side."""
        self._sides = parse_padding(self, self.padding, x_shape[1:], self.size, self.stride, (1, 1))

    @property
    def is_padded(self) -> bool:
        """Whether a window can leave the image."""
        return any(self._sides)

    def windows_are_apart(self, dL_dz: np.ndarray, dL_dx: np.ndarray) -> bool:
        """Return whether no two windows share a pixel; if so, set the gradients of pixels outside of all windows to 0.

        A window can then write the gradients of its pixels, where otherwise it has to add to those of others.
        """
        (fh, fw), (sh, sw) = self.size, self.stride
        if self.is_padded or sh < fh or sw < fw:
            return False
        if dL_dx.shape[2:4] != (dL_dz.shape[2] * fh, dL_dz.shape[3] * fw):
            clear(dL_dx.reshape(-1))
        return True

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the bounds of the kernels' loops."""
        return {name: line.offsets_inside() for name, line in self._lines(*x_shapes).items()}

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return the bounds of the kernels' loops."""
        return Pool2D.scratch(self, x_shapes, 1, dtype)

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the bounds of the kernels' loops, forward for each window and backward for each pixel.

        They have 32 bits, because a thread has registers of 32 bits, and not many.
        """
        lines = self._lines(*x_shapes)
        tables = {name: line.offsets_inside() for name, line in lines.items()}
        tables |= {f"{name}_back": windows_that_hold(line) for name, line in lines.items()}
        return {name: table.astype(np.int32) for name, table in tables.items()}

    def _lines(self, x_shape: Shape) -> dict[str, Line]:
        (_, H, B), (_, P, Q) = x_shape, self.output_shape(x_shape)
        return {
            "rows": Line(H, P, self.size[0], self.stride[0], self._sides[0], 1),
            "columns": Line(B, Q, self.size[1], self.stride[1], self._sides[2], 1),
        }

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return size, stride and padding."""
        return {"size": self.size, "stride": self.stride, "padding": self._sides}

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters, the padding as (top, bottom, left, right)."""
        return self.literal_options()


def windows_that_hold(line: Line) -> np.ndarray:
    """Return (n, 2) int64: for each pixel from and to of the windows that hold it."""
    table = np.zeros((line.n, 2), np.int64)
    for a in range(line.n):
        held = [h for _, h in windows_over(a, line.P, line.f, line.s, line.p)]
        if held:
            table[a] = min(held), max(held) + 1
    return table
