"""Data sets: found on this machine or downloaded, checked, and cut into training, validation and test part.

Depends on NumPy and the standard library alone.
"""

from __future__ import annotations

import difflib
import os

from ..engine.checks import ConfigurationError
from . import fashion, mnist, mnist5k, toy
from .dataset import Dataset, Splits, split_validation
from .download import Progress
from .published import DataNotFound

__all__ = ["NAMES", "PUBLISHED", "DataNotFound", "Dataset", "Splits", "load", "split_validation"]

NAMES = ("mnist", "fashion", "mnist-5k", "toy:xor")
"""The data sets that `load` knows."""

PUBLISHED = (mnist.MNIST, fashion.FASHION)
"""Those of them that consist of files to be found, fetched, verified and imported."""

XOR_REPEATS = 250


def load(
    name: str,
    *,
    folder: str | os.PathLike | None = None,
    validation: int | None = None,
    seed: int = 0,
    download: bool = True,
    progress: Progress | None = None,
) -> Splits:
    """Load a data set by its name on the command line.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    folder : str or path-like, optional
        Data folder to search instead of ``$HANDGRAD_DATA`` and the cache; only for ``mnist`` and ``fashion``.
    validation : int, optional
        Number of samples cut from the training part; 5,000 for ``mnist`` and ``fashion`` and 500 for ``mnist-5k``
        when left out. ``toy:xor`` validates on its four points and takes no number.
    seed : int
        Chooses the samples of the validation part; not negative.
    download : bool
        Whether missing files may be downloaded into the cache.
    progress : callable, optional
        Called as ``progress(file name, bytes done, bytes in all)`` while downloading.

    Returns
    -------
    Splits
        The three parts; the test part is the published one, untouched.

    Raises
    ------
    ConfigurationError
        When there is no such data set, or `validation` or `seed` is out of range.
    DataNotFound
        When ``mnist`` or ``fashion`` is neither on this machine nor can be fetched.
    DataError
        When the data set is damaged, or ``mnist-5k`` lacks its package.

    Examples
    --------
    >>> splits = load("toy:xor")
    >>> len(splits.train), len(splits.validation), len(splits.test)
    (1000, 4, 4)
    """
    if name == "mnist":
        train, test = mnist.load(folder, download=download, progress=progress)
    elif name == "fashion":
        train, test = fashion.load(folder, download=download, progress=progress)
    elif name == "mnist-5k":
        train, test = mnist5k.load()
    elif name == "toy:xor":
        if validation is not None:
            raise ConfigurationError("toy:xor", got=f"validation={validation!r}", expected="none: it has four points")
        points = toy.xor()
        return Splits(toy.xor(XOR_REPEATS), points, points, points.source)
    else:
        near = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.5)
        raise ConfigurationError(
            "data set",
            got=repr(name),
            expected=f"one of {', '.join(NAMES)}",
            remedy=f"did you mean '{near[0]}'?" if near else "",
        )
    size = validation if validation is not None else (500 if name == "mnist-5k" else 5000)
    kept, held_out = split_validation(train, size, seed)
    return Splits(kept, held_out, test, train.source)
