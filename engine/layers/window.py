"""Sizes, strides and paddings as users write them, checked once for every layer that slides a window.

Floor 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ...derivations.notation import windows, windows_over
from ..checks import ConfigurationError


def pair_of_integers(layer, name: str, value, minimum: int = 1) -> tuple[int, int]:
    """Return (rows, columns) from one integer or two.

    Parameters
    ----------
    layer : Layer
        Named in the error.
    name : str
        Name of the option.
    value : int or (int, int)
    minimum : int

    Raises
    ------
    ConfigurationError
        When it is anything else, or below the minimum.
    """
    pair = (value, value) if isinstance(value, Integral) else value
    fits = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not fits or any(isinstance(n, bool) or not isinstance(n, Integral) or n < minimum for n in pair):
        raise ConfigurationError(
            f"{layer}: {name}",
            got=repr(value),
            expected=f"an integer of at least {minimum}, or (rows, columns)",
        )
    return tuple(int(n) for n in pair)


def parse_padding(layer, padding, size, window, stride, dilation) -> tuple[int, int, int, int]:
    """Return padding as (top, bottom, left, right).

    Parameters
    ----------
    layer : Layer
        Named in the error.
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
    size, window, stride, dilation : (int, int)
        Of the image, the window and its steps, rows first; they matter for "same" alone.

    Raises
    ------
    ConfigurationError
        When the padding is none of these.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        sides: list[int] = []
        for n, f, s, d in zip(size, window, stride, dilation, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (f - 1) + 1 - n)
            sides += [total // 2, total - total // 2]
        return tuple(sides)
    sides = [padding] * 4 if isinstance(padding, Integral) and not isinstance(padding, bool) else padding
    if isinstance(sides, (tuple, list)) and len(sides) == 2:
        sides = [sides[0], sides[0], sides[1], sides[1]]
    fits = isinstance(sides, (tuple, list)) and len(sides) == 4
    if not fits or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 0 for n in sides):
        raise ConfigurationError(
            f"{layer}: padding",
            got=repr(padding),
            expected='"valid", "same", an integer from 0 up, (rows, columns) or (top, bottom, left, right)',
        )
    return tuple(map(int, sides))


def offset_steps(s: int, d: int) -> tuple[int, int]:
    """Return by how much the offset i grows, and the output position h falls, between two offsets that reach a pixel.

    s h + d i = a + p has whole solutions every s / gcd(s, d) offsets.
    """
    return s // math.gcd(s, d), d // math.gcd(s, d)


def pixel_offsets(channels: int, kernel: tuple[int, int], plane: tuple[int, int], steps: tuple[int, int]) -> np.ndarray:
    """Return how many pixels lie between the first value that a kernel reads and each of the others.

    Parameters
    ----------
    channels : int
        That one output reads.
    kernel : (rows, columns)
        Size of the kernel.
    plane : (int, int)
        Pixels from one channel to the next, and from one row to the next.
    steps : (rows, columns)
        Between neighbours of the kernel: the dilation.

    Returns
    -------
    numpy.ndarray of shape (channels * rows * columns,), int64
        In the order channel, row, column.

    Examples
    --------
    >>> pixel_offsets(2, (2, 2), (50, 5), (1, 1)).tolist()
    [0, 1, 5, 6, 50, 51, 55, 56]
    """
    c, i, j = np.indices((channels, *kernel))
    return (c * plane[0] + steps[0] * i * plane[1] + steps[1] * j).reshape(-1).astype(np.int64)


@dataclass(frozen=True)
class Line:
    """Rows (or columns) of an image under a sliding window: the loop bounds that kernels read from tables.

    Attributes
    ----------
    n : int
        Length of the image's side.
    P : int
        Number of window positions.
    f, s, p, d : int
        Window size, stride, padding before the first pixel, dilation.
    """

    n: int
    P: int
    f: int
    s: int
    p: int
    d: int

    def offsets_inside(self) -> np.ndarray:
        """Return (P, 3) int64: for each h the position s h - p, and from and to of the offsets i inside the image."""
        rows = []
        for h in range(self.P):
            inside = [i for i, _ in windows(h, self.n, self.f, self.s, self.p, self.d)]
            rows.append((self.s * h - self.p, *_range_of(inside)))
        return np.array(rows, dtype=np.int64)

    def offsets_that_reach(self) -> np.ndarray:
        """Return (n, 3) int64: for each pixel from and to of the offsets that reach it, and the h of the first."""
        rows = []
        for a in range(self.n):
            pairs = list(windows_over(a, self.P, self.f, self.s, self.p, self.d))
            rows.append((*_range_of([i for i, _ in pairs]), pairs[0][1] if pairs else 0))
        return np.array(rows, dtype=np.int64)

    def outputs_inside(self) -> np.ndarray:
        """Return (f, 3) int64: for each offset i the position d i - p, and from and to of the h inside the image."""
        rows = []
        for i in range(self.f):
            first = self.d * i - self.p
            inside = [h for h in range(self.P) if 0 <= self.s * h + first < self.n]
            rows.append((first, *_range_of(inside)))
        return np.array(rows, dtype=np.int64)


def _range_of(numbers: list[int]) -> tuple[int, int]:
    return (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
