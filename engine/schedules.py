"""How the learning rate changes while a network trains.

Floor 2. A schedule is a function of the share of the training that is done, from 0 to 1, and gives the factor by which
the base learning rate is multiplied.
"""

from __future__ import annotations

import math


def constant(progress: float) -> float:
    """Return 1: the learning rate stays."""
    return 1.0


def linear(progress: float) -> float:
    """Return 1 - progress: the learning rate falls evenly to 0."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Return (1 + cos(π progress)) / 2: slow at first and at the end, fast between.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))
