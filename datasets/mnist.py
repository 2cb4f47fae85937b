"""MNIST: 70,000 handwritten digits, 28 x 28 pixels, white ink (255) on black (0).

The mirrors are Amazon's and Google's copies; the original address refuses downloads too often to be asked.

References
----------
Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", built from NIST Special Databases 1
and 3; commonly stated licence: Creative Commons Attribution-ShareAlike 3.0.
"""

from __future__ import annotations

import os

from .dataset import Dataset
from .download import Progress
from .published import IdxFile, Published, load_published

MNIST = Published(
    name="mnist",
    title="MNIST",
    files=(
        IdxFile(
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            shape=(60000, 28, 28),
            content_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            head_crc32=0xD4A02CCF,
        ),
        IdxFile(
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            shape=(60000,),
            content_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            head_crc32=0x6BAE75D4,
        ),
        IdxFile(
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            shape=(10000, 28, 28),
            content_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            head_crc32=0x8E81E9DE,
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            shape=(10000,),
            content_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            head_crc32=0x5DB6EF0C,
        ),
    ),
    classes=tuple("0123456789"),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    folders=("mnist", "MNIST/raw"),
    bare=True,
)


def load(
    folder: str | os.PathLike | None = None, *, download: bool = True, progress: Progress | None = None
) -> tuple[Dataset, Dataset]:
    """Load MNIST; where it is looked for is said in `published.load_published`.

    Parameters
    ----------
    folder : str or path-like, optional
        A data folder that is searched alone: for ``mnist/``, ``MNIST/raw/`` and the files themselves.
    download : bool
        Whether missing files may be downloaded into the cache.
    progress : callable, optional
        Called as ``progress(name, done, total)`` in bytes.

    Returns
    -------
    train, test : Dataset
        60,000 and 10,000 samples; images uint8 (N, 1, 28, 28), labels int64 (N,).

    Raises
    ------
    DataError
        When the files are missing and cannot be fetched, are damaged, or are not MNIST's.
    """
    from .fashion import FASHION  # here, because fashion.py imports this module

    return load_published(MNIST, (MNIST, FASHION), folder, download=download, progress=progress)
