"""Fashion-MNIST: 70,000 pictures of clothing in the shape of MNIST, file names included.

References
----------
H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747; licence MIT, copyright (c) 2017 Zalando SE.
"""

from __future__ import annotations

import os

from .dataset import Dataset
from .download import Progress
from .mnist import MNIST
from .published import IdxFile, Published, load_published

FASHION = Published(
    name="fashion",
    title="Fashion-MNIST",
    files=(
        IdxFile(
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            shape=(60000, 28, 28),
            content_sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            head_crc32=0xC88B1816,
        ),
        IdxFile(
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            shape=(60000,),
            content_sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            head_crc32=0xF32B6B18,
        ),
        IdxFile(
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            shape=(10000, 28, 28),
            content_sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            head_crc32=0x425A6033,
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            shape=(10000,),
            content_sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            head_crc32=0x6E4BA60E,
        ),
    ),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    folders=("fashion-mnist", "FashionMNIST/raw"),
    bare=False,
)


def load(
    folder: str | os.PathLike | None = None, *, download: bool = True, progress: Progress | None = None
) -> tuple[Dataset, Dataset]:
    """Load Fashion-MNIST; where it is looked for is said in `published.load_published`.

    Parameters
    ----------
    folder : str or path-like, optional
        A data folder that is searched alone: for ``fashion-mnist/`` and ``FashionMNIST/raw/``, and for the files
        themselves only when it is named like one of these, because MNIST's files have the same names.
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
        When the files are missing and cannot be fetched, are damaged, or are not Fashion-MNIST's.
    """
    return load_published(FASHION, (MNIST, FASHION), folder, download=download, progress=progress)
