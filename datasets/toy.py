"""Data sets so small that every number can be followed by hand."""

from __future__ import annotations

import numpy as np

from ..engine.checks import require_positive_integers
from .dataset import Dataset


def xor(repeats: int = 1) -> Dataset:
    """Return the four points of exclusive or, which no single straight line separates.

    There are only these four points, so training, validation and test part cannot differ: all three hold the same
    four, the training part several times over so that an epoch is more than one step. Accuracy on them says that
    the function was learned, never that it generalises.

    Parameters
    ----------
    repeats : int
        How often the four points follow each other.

    Returns
    -------
    Dataset
        N = 4 `repeats`; samples float32 (N, 2), labels 0 and 1.

    Raises
    ------
    ConfigurationError
        When `repeats` is not an integer of at least 1.

    Examples
    --------
    >>> [(x.tolist(), int(t)) for x, t in zip(xor().images, xor().labels)]
    [([0.0, 0.0], 0), ([0.0, 1.0], 1), ([1.0, 0.0], 1), ([1.0, 1.0], 0)]
    """
    require_positive_integers("toy:xor", repeats=repeats)
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)  # (4, 2)
    t = np.array([0, 1, 1, 0], dtype=np.int64)
    return Dataset("toy:xor", np.tile(x, (repeats, 1)), np.tile(t, repeats), ("0", "1"), source="computed")
