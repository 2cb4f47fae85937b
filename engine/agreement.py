"""How two views of the same gradient compare: the largest error, where it is, and the verdict.

Floor 4. Relative errors are relative to the largest gradient of the array, or to FLOOR times the largest gradient of
the whole network where that is more: the bias before a batch normalization has the gradient 0, and what rounding leaves
of it cannot be compared with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIFFERENCE_LIMIT = 1e-6  # central differences with h = 1e-6: rounding 1e-16 / h against gradients of about 0.01
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
        "literal", and where they were asked for "cuda", which is the CUDA kernels against the literal code,
        "difference" and "symbolic".
    checked, kinks : int
        Elements compared with finite differences, and elements left out because they lie on a kink.
    rounding : float
        What rounding can do to a difference quotient, 4 ε max(1, |L|, |z|) / h, divided by the scale of the array.
    vanishes : bool
        Whether all of the array is less than FLOOR times the network's largest gradient: then rounding is all that a
        difference quotient can be expected to see.
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
    vanishes: bool = False
    surrogate: bool = False

    @property
    def agrees(self) -> bool:
        """Return whether all views agree, but for those that a declared surrogate excuses."""
        return self.verdict in ("ok", "surrogate")

    @property
    def verdict(self) -> str:
        """Return "ok", "FAIL", or why quotients say nothing: "kink" everywhere, "rounding", or a "surrogate"."""
        if any(not self.views[view].relative < LITERAL_LIMIT for view in ("literal", "cuda") if view in self.views):
            return "FAIL"
        off = "symbolic" in self.views and not self.views["symbolic"].relative < SYMBOLIC_LIMIT
        error = self.views["difference"].relative if self.checked else 0.0
        if off or not error < DIFFERENCE_LIMIT + self.rounding:
            return "surrogate" if self.surrogate else "FAIL"
        if "difference" in self.views and self.checked == 0:
            return "kink"
        return "ok" if error < DIFFERENCE_LIMIT or self.vanishes else "rounding"


def largest(array: np.ndarray) -> float:
    """Return the largest absolute value."""
    return float(np.abs(array).max())


def compare(kernel: np.ndarray, other: np.ndarray, floor: float = 0.0) -> Comparison:
    """Return the largest error, relative to the largest number of both or to a floor; NaN where one is not finite."""
    scale = np.max([largest(kernel), largest(other), floor, np.finfo(np.float64).tiny])  # NaN if one of them is
    if not np.isfinite(scale):  # what is infinite or no number agrees with nothing
        return Comparison(float("nan"), float("nan"), _first_not_finite(kernel, other))
    off = np.abs(kernel - other)
    place = tuple(int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
    return Comparison(float(off[place]), float(off[place] / scale), place)


def _first_not_finite(*arrays: np.ndarray) -> tuple[int, ...]:
    wrong = ~np.isfinite(arrays[0]) | ~np.isfinite(arrays[1])
    return tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
