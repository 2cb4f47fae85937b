"""The error of a difference quotient over its step h: truncation on the right, rounding on the left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.checks import ConfigurationError
from . import figures

STEPS = tuple(float(f"1e{k / 2:g}") if k % 2 == 0 else 10.0 ** (k / 2) for k in range(-24, 1))  # two per decade
ELEMENTS = 20
STYLES = {"float32": ("#c8553d", "o"), "float64": ("#2a6f97", "s")}


@dataclass(frozen=True)
class Curve:
    """Errors of one parameter in one precision.

    Attributes
    ----------
    name : str
        Of the parameter or input.
    points : list of (float, float)
        h, and the largest error of the compared elements, divided by the largest gradient.
    """

    name: str
    points: list[tuple[float, float]]


def sweep(checks: list, parameter: str | None, seed: int) -> dict[str, Curve]:
    """Return the curve of each precision.

    Parameters
    ----------
    checks : list of GradientCheck
        Of the same numbers in different precisions.
    parameter : str or None
        None: the first one.
    seed : int
        Of the choice of at most ELEMENTS elements.

    Raises
    ------
    ConfigurationError
        When there is no such parameter, or its gradient is 0 everywhere.
    """
    curves = {}
    for check in checks:
        name = next(iter(check.kernel)) if parameter is None else parameter
        if name not in check.kernel:
            raise ConfigurationError(f"--parameter {name}", expected=f"one of {', '.join(check.kernel)}")
        if check.meets_surrogate(name):
            raise ConfigurationError(
                f"--parameter {name}", got="a declared surrogate before the loss", expected="a true derivative"
            )
        gradient = check.kernel[name]
        scale, rng = np.abs(gradient).max(), np.random.default_rng(seed)
        if scale == 0:
            raise ConfigurationError(f"--parameter {name}", got="a gradient that is 0 everywhere", expected="another")
        chosen = rng.choice(gradient.size, min(ELEMENTS, gradient.size), replace=False)
        places = [tuple(int(i) for i in np.unravel_index(k, gradient.shape)) for k in np.sort(chosen)]
        points = []
        for h in STEPS:
            check.h = h
            quotients = [(check.difference(name, place), gradient[place]) for place in places]
            errors = [abs(quotient - exact) / scale for quotient, exact in quotients if quotient is not None]
            if errors:  # otherwise every element lies on a kink for so large an h
                points.append((h, float(max(errors))))
        curves[str(check.network.dtype)] = Curve(name, points)
    return curves


def draw(curves: dict[str, Curve], subject: str, path: Path) -> None:
    """Draw the curves on logarithmic axes into a file."""
    figures.write(lambda: _figure(curves, subject), path)


def _figure(curves: dict[str, Curve], subject: str):
    made = figures.new_figure(7.5, 5)
    axes = made.add_axes((0.11, 0.12, 0.86, 0.78))
    for dtype, curve in curves.items():
        color, marker = STYLES[dtype]
        h, error = np.array([(h, e) for h, e in curve.points if e > 0]).reshape(-1, 2).T
        axes.loglog(h, error, color=color, marker=marker, markersize=4, label=f"{dtype}: measured")
        eps = float(np.finfo(dtype).eps)
        axes.loglog(
            STEPS, [eps / step for step in STEPS], color=color, linestyle=":", label=f"{dtype}: rounding, ε / h"
        )
    axes.loglog(STEPS, [step**2 for step in STEPS], color="#777777", linestyle="--", label="truncation, h²")
    axes.set_ylim(1e-14, 1e4)
    axes.set_xlabel("h")
    axes.set_ylabel("largest error / largest gradient")
    name = next(iter(curves.values())).name
    axes.set_title(f"{subject}: (L(θ + h) - L(θ - h)) / 2h against the kernel's gradient of {name}", fontsize=10)
    axes.grid(True, which="major", color="#dddddd")
    axes.legend(fontsize=8)
    return made
