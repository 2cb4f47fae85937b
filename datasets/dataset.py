"""What a data set is in memory, and how a validation part is cut from the training part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..engine.checks import ConfigurationError, DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with their labels.

    Parameters
    ----------
    name : str
        Name on the command line, such as ``mnist``.
    images : ndarray
        C-contiguous. Pictures: uint8, (N, C, H, W), 0 is black and 255 is white; dividing by 255 is left to whoever
        feeds a network, so that a data set stays small. Toy data: float32, (N, F), used as they are.
    labels : ndarray
        int64, (N,), each in 0 ... K - 1.
    classes : tuple of str
        The K class names.
    source : str
        Where the samples came from: a folder, a package.

    Raises
    ------
    DataError
        When the arrays do not fit this description or each other.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str = ""

    def __post_init__(self):
        images, labels = self.images, self.labels
        what = f"data set '{self.name}'" + (f" from {self.source}" if self.source else "")
        kind = (images.dtype.name, images.ndim)
        if kind not in (("uint8", 4), ("float32", 2)) or not images.flags.c_contiguous:
            raise DataError(
                f"{what}: samples",
                got=f"{images.dtype} {images.shape}{'' if images.flags.c_contiguous else ', not C-contiguous'}",
                expected="C-contiguous uint8 (N, C, H, W) or float32 (N, features)",
            )
        if labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(f"{what}: labels", got=f"{labels.dtype} {labels.shape}", expected="int64 (N,)")
        if len(images) != len(labels):
            raise DataError(
                f"{what}: number of labels", got=str(len(labels)), expected=f"{len(images)}, the number of images"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.classes)))
        if len(wrong):
            raise DataError(
                f"{what}: label of sample {wrong[0]}",
                got=str(labels[wrong[0]]),
                expected=f"0 to {len(self.classes) - 1}",
                remedy="the labels are damaged or belong to another data set",
            )
        if images.dtype == np.float32 and not np.isfinite(images).all():
            raise DataError(f"{what}: samples", got="NaN or infinity", expected="finite numbers")

    def __len__(self) -> int:
        """Return N, the number of samples; an empty data set is false."""
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) or (F,)."""
        return self.images.shape[1:]

    def class_counts(self) -> np.ndarray:
        """Return the number of samples of each class.

        Returns
        -------
        ndarray
            int64, (K,).
        """
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(self, indices: np.ndarray) -> Dataset:
        """Return chosen samples as a data set of their own (a copy).

        Parameters
        ----------
        indices : ndarray
            Integers, (M,), each in 0 ... N - 1, in the order wanted.

        Returns
        -------
        Dataset
            M samples.
        """
        indices = np.asarray(indices, dtype=np.int64)
        return replace(self, images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set.

    Parameters
    ----------
    train : Dataset
        What the gradients see.
    validation : Dataset
        What decisions between epochs see; of length 0 when none was asked for.
    test : Dataset
        What is looked at once, at the end.
    source : str
        Where the samples came from.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    source: str


def split_validation(whole: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a validation part from a training set: disjoint, stratified, the same for the same seed.

    Parameters
    ----------
    whole : Dataset
        N samples.
    size : int
        Samples in the validation part, 0 ... N - 1.
    seed : int
        Not negative.

    Returns
    -------
    train, validation : Dataset
        N - `size` and `size` samples, each in their original order.

    Raises
    ------
    ConfigurationError
        When `size` or `seed` is out of its range.

    Notes
    -----
    Class k with n_k of the N samples gives floor(size n_k / N), and the classes with the largest remainders one
    more, until there are `size`. Within a class the samples with the smallest of N uniform random numbers are
    taken.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 0 <= size < max(1, len(whole)):
        raise ConfigurationError(
            f"validation part of '{whole.name}'", got=repr(size), expected=f"0 to {len(whole) - 1} samples"
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigurationError("seed", got=repr(seed), expected="an integer of at least 0")
    share, remainder = np.divmod(int(size) * whole.class_counts(), max(1, len(whole)))
    share[np.argsort(-remainder, kind="stable")[: size - share.sum()]] += 1
    draw = np.random.default_rng(int(seed)).random(len(whole))  # (N,)
    chosen = np.zeros(len(whole), dtype=bool)
    for k, count in enumerate(share):
        members = np.flatnonzero(whole.labels == k)
        chosen[members[np.argsort(draw[members], kind="stable")[:count]]] = True
    return whole.subset(np.flatnonzero(~chosen)), whole.subset(np.flatnonzero(chosen))
