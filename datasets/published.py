"""A data set as it was published: four pinned IDX files, where they may lie, and how they are read.

`mnist.py` and `fashion.py` hold the tables; what they have in common is here. Their file names are the same, so every
search and every check is also told about the `known` other data sets, lest one is taken for the other.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..engine.checks import DataError
from ..engine.folders import cache_folder
from .dataset import Dataset
from .download import PinnedFile, Progress, fetch
from .idx import idx_header, read_idx

HEAD = 4096
REMEDY = "run `handgrad data fetch {name}` or `handgrad data import FOLDER`, or set HANDGRAD_DATA"


class DataNotFound(DataError):
    """A data set is neither on this machine nor can it be fetched; a damaged one is a plain `DataError`."""


@dataclass(frozen=True)
class IdxFile(PinnedFile):
    """A published, gzip-compressed IDX file of uint8.

    Parameters
    ----------
    name, bytes, sha256
        See `PinnedFile`; the name ends in ``.gz``.
    shape : tuple of int
        Sizes in the header.
    content_sha256 : str
        SHA-256 of the file when it is not compressed.
    head_crc32 : int
        CRC-32 of the header and the first 4,096 elements: tells data sets apart without reading everything.
    """

    shape: tuple[int, ...]
    content_sha256: str
    head_crc32: int

    @property
    def plain_name(self) -> str:
        """File name of the uncompressed form."""
        return self.name.removesuffix(".gz")

    @property
    def content_bytes(self) -> int:
        """Length of the uncompressed form."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True)
class Published:
    """A data set of training and test images with labels.

    Parameters
    ----------
    name : str
        Name on the command line.
    title : str
        Name in sentences.
    files : tuple of IdxFile
        Training images, training labels, test images, test labels.
    classes : tuple of str
        Class names.
    mirrors : tuple of str
        Addresses to which a file name is appended.
    folders : tuple of str
        Where in a data folder the files may lie; downloads go to the first.
    bare : bool
        Whether they may also lie in the data folder itself; otherwise only when it is named like one of `folders`.
    """

    name: str
    title: str
    files: tuple[IdxFile, ...]
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    bare: bool


@dataclass(frozen=True)
class Found:
    """Files of a data set in one folder.

    Parameters
    ----------
    published : Published
        The data set.
    place : str
        ``--data-dir``, ``$HANDGRAD_DATA`` or ``cache``.
    folder : pathlib.Path
        Where they lie.
    paths : dict of str to pathlib.Path
        By published file name; the path may be that of the uncompressed form.
    """

    published: Published
    place: str
    folder: Path
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Names of the files that are not there."""
        return [file.name for file in self.published.files if file.name not in self.paths]


def data_cache() -> Path:
    """Return the folder that downloads go to; it is not created here."""
    return cache_folder() / "data"


def look_in(published: Published, known: Sequence[Published], base: Path, place: str) -> Found | None:
    """Look for the files of a data set in a data folder.

    Parameters
    ----------
    published : Published
        The data set.
    known : sequence of Published
        All data sets; a folder named like another one's is not searched.
    base : pathlib.Path
        The data folder.
    place : str
        What `base` is, for messages.

    Returns
    -------
    Found or None
        The first folder with all files, otherwise the one with the most, None when there are none at all.
    """
    base = Path(os.path.abspath(base))

    def is_named_like(other: Published) -> bool:
        return any(base.parts[-len(parts) :] == parts for parts in (Path(f).parts for f in other.folders))

    folders = [base / folder for folder in published.folders]
    others = [other for other in known if other.name != published.name]
    if is_named_like(published) or (published.bare and not any(is_named_like(other) for other in others)):
        folders.append(base)
    best = None
    for folder in folders:
        paths = {}
        for file in published.files:
            for name in (file.name, file.plain_name):
                if os.path.isfile(folder / name):  # False, not an exception, where permission is lacking
                    paths[file.name] = folder / name
                    break
        if paths and (best is None or len(paths) > len(best.paths)):
            best = Found(published, place, folder, paths)
    return best


def find(
    published: Published, known: Sequence[Published], folder: str | os.PathLike | None = None
) -> tuple[Found | None, list[str]]:
    """Search the folder that the user named; without one, ``$HANDGRAD_DATA`` and then the cache.

    Parameters
    ----------
    published : Published
        The data set.
    known : sequence of Published
        All data sets.
    folder : str or path-like, optional
        The data folder that the user named.

    Returns
    -------
    found : Found or None
        The first complete set of files; otherwise the last incomplete one.
    notes : list of str
        One clause for each folder that does not hold a complete one.

    Raises
    ------
    DataError
        When `folder` does not exist.
    """
    if folder is not None:
        places = [("--data-dir", Path(folder).expanduser())]
        if not places[0][1].is_dir():
            kind = "a file" if places[0][1].exists() else "nothing there"
            raise DataError(f"data folder {folder}", got=kind, expected=f"a folder with {published.title}")
    else:
        chosen = os.environ.get("HANDGRAD_DATA")
        places = [("$HANDGRAD_DATA", Path(chosen).expanduser())] if chosen else []
        places.append(("cache", data_cache()))
    found, notes = None, []
    for place, base in places:
        here = look_in(published, known, base, place)
        if here and not here.missing:
            return here, notes
        if here:
            found = here
            notes.append(f"{place} {here.folder} without {', '.join(here.missing)}")
        else:
            state = f"no {published.title} files" if base.is_dir() else "no such folder"
            notes.append(f"{place} {base}: {state}")
    return found, notes


def load_published(
    published: Published,
    known: Sequence[Published],
    folder: str | os.PathLike | None = None,
    *,
    download: bool = True,
    progress: Progress | None = None,
) -> tuple[Dataset, Dataset]:
    """Find a data set, download what is missing, and read it.

    Parameters
    ----------
    published : Published
        The data set.
    known : sequence of Published
        All data sets.
    folder : str or path-like, optional
        Searched alone when given, and never written to; otherwise ``$HANDGRAD_DATA``, then the cache.
    download : bool
        Whether missing files may be downloaded into the cache.
    progress : callable, optional
        See `download.fetch`.

    Returns
    -------
    train, test : Dataset
        Images uint8 (N, 1, H, W), labels int64 (N,). Structure and shapes are checked; the checksums of the whole
        files are left to `verify`.

    Raises
    ------
    DataNotFound
        When files are missing and cannot be fetched.
    DataError
        When files are damaged or belong to another data set.
    """
    found, notes = find(published, known, folder)
    if found is None or found.missing:
        if folder is not None or not download:
            raise DataNotFound(
                f"{published.title} is not there",
                got="; ".join(notes),
                expected=", ".join(file.name for file in published.files),
                remedy=REMEDY.format(name=published.name),
            )
        target = data_cache() / published.folders[0]
        kept = look_in(published, known, data_cache(), "cache")
        kept = kept.paths if kept and kept.folder == target else {}
        try:
            fetch([file for file in published.files if file.name not in kept], target, published.mirrors, progress)
        except DataError as error:
            before = [note for note in notes if note.startswith("$HANDGRAD_DATA")]
            got = " and ".join([error.got, *before])
            raise DataNotFound(f"{published.title}: {error.what}", got=got, remedy=error.remedy) from None
        found, _ = find(published, known)
    return read(found, known)


def read(found: Found, known: Sequence[Published]) -> tuple[Dataset, Dataset]:
    """Read the four files of a complete data set.

    Parameters
    ----------
    found : Found
        Where they lie.
    known : sequence of Published
        All data sets.

    Returns
    -------
    train, test : Dataset
        Images uint8 (N, 1, H, W), labels int64 (N,).

    Raises
    ------
    DataError
        When a file is damaged, has another shape, or belongs to another data set.
    """
    published, parts = found.published, []
    for file in published.files:
        path = found.paths[file.name]
        values = read_idx(path, dimensions=len(file.shape), shape=file.shape)
        head = zlib.crc32(values.reshape(-1)[:HEAD].tobytes(), zlib.crc32(idx_header(file.shape)))
        for other in known:
            if other.name != published.name and any(head == theirs.head_crc32 for theirs in other.files):
                raise DataError(
                    f"{path}",
                    got=f"a file of {other.title}",
                    expected=f"one of {published.title}",
                    remedy=f"keep them apart in folders named {other.folders[0]} and {published.folders[0]}",
                )
        parts.append(values)
    source = str(found.folder)
    return tuple(
        Dataset(published.name, images[:, np.newaxis], labels.astype(np.int64), published.classes, source)
        for images, labels in (parts[:2], parts[2:])
    )
