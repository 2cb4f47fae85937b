"""How two views of the same gradient compare: the largest error, where it is, and the verdict.

Floor 4. Relative errors are relative to the largest gradient of the array, or to FLOOR times the largest gradient of
the whole network where that is more: the bias before a batch normalization has the gradient 0, and what rounding leaves
of it cannot be compared with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIFFERENCE_LIMIT = 1e-6  # central differences with h = 1e-6: rounding 1e-10 / h against gradients of about 0.01
LITERAL_LIMIT = 1e-10  # two orders of the same sums in float64
FLOOR = 1e-3  # a wrong gradient of 1e-13 times the network's largest is still seen by the literal code
SYMBOLIC_LIMIT = 1e-10  # sums in float64 against 30 digits


@dataclass(frozen=True)
class Comparison:
    """Kernel against one other view of the same array.

    Attributes
    ----------
    absolute, relative : float
        Largest absolute error, and the same divided by the scale of the array; NaN when nothing could be compared.
    index : tuple of int
        Where it occurs.
    """

    absolute: float
    relative: float
    index: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """One row of the table: one parameter, one input, or the value of the output.

    Attributes
    ----------
    name : str
        "conv1.W", the name of an input, or "value of conv1".
    shape : tuple of int
    largest : float
        Largest absolute value of the array.
    views : dict of str to Comparison
        "literal", and where they were asked for "difference" and "symbolic".
    checked, kinks : int
        Elements compared with finite differences, and elements left out because they lie on a kink.
    rounding : float
        What rounding can do to a difference quotient, 4 ε max(1, |L|, |z|) / h, divided by the scale of the array.
    surrogate : bool
        Whether a declared surrogate stands in the way of finite differences and exact derivatives.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    views: dict[str, Comparison]
    checked: int = 0
    kinks: int = 0
    rounding: float = 0.0
    surrogate: bool = False

    @property
    def verdict(self) -> str:
        """Return "ok", "FAIL", or why quotients say nothing: "kink" everywhere, "rounding", or a "surrogate"."""
        if not self.views["literal"].relative < LITERAL_LIMIT:
            return "FAIL"
        off = "symbolic" in self.views and not self.views["symbolic"].relative < SYMBOLIC_LIMIT
        if "difference" in self.views:
            if self.checked == 0:
                return "kink"
            error = self.views["difference"].relative
            if not error < DIFFERENCE_LIMIT + self.rounding:
                off = True
            elif not off and not error < DIFFERENCE_LIMIT:
                return "rounding"
        if off:
            return "surrogate" if self.surrogate else "FAIL"
        return "ok"


def largest(array: np.ndarray) -> float:
    """Return the largest absolute value."""
    return float(np.abs(array).max())


def compare(kernel: np.ndarray, other: np.ndarray, floor: float = 0.0) -> Comparison:
    """Return the largest error, relative to the largest number of both or to a floor; one NaN is the worst."""
    scale = max(largest(kernel), largest(other), floor, np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore"):
        off = np.where(kernel == other, 0.0, np.abs(kernel - other))
    place = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(off, nan=np.inf).argmax()), off.shape))
    return Comparison(float(off[place]), float(off[place] / scale), place)
