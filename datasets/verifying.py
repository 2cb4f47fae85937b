"""What a file on disk really is: its SHA-256, and that of its content, against those of the published files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .idx import content_sha256, unreadable
from .published import Found, IdxFile, Published


@dataclass(frozen=True)
class FileCheck:
    """What a file turned out to be.

    Parameters
    ----------
    file : IdxFile
        What it should be.
    path : pathlib.Path or None
        Where it lies.
    state : str
        ``ok``, ``ok, other compression``, ``missing``, ``differs``, or the name of what it is instead.
    sha256 : str
        Of the file as it lies there; empty when it is missing.
    """

    file: IdxFile
    path: Path | None
    state: str
    sha256: str = ""

    @property
    def right(self) -> bool:
        """Whether the content is the published one."""
        return self.state.startswith("ok")


def verify(found: Found, known: Sequence[Published]) -> list[FileCheck]:
    """Compare every file of a data set with its pinned SHA-256.

    Parameters
    ----------
    found : Found
        Where the files lie, all or some.
    known : sequence of Published
        All data sets: a file that belongs to another one is named.

    Returns
    -------
    list of FileCheck
        One per published file, in their order.

    Raises
    ------
    DataError
        When a file cannot be read.
    """
    checks = []
    for file in found.published.files:
        path = found.paths.get(file.name)
        checks.append(identify(path, file, known) if path else FileCheck(file, None, "missing"))
    return checks


def identify(path: Path, file: IdxFile, known: Sequence[Published]) -> FileCheck:
    """Say whether a file is the one expected, and if not, which other published file it is.

    Parameters
    ----------
    path : pathlib.Path
        The file, gzip-compressed or plain.
    file : IdxFile
        What it should be.
    known : sequence of Published
        All data sets.

    Returns
    -------
    FileCheck
        The verdict.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    sha256, match = recognise(path, known)
    if match is None:
        return FileCheck(file, path, "differs", sha256)
    owner, actual = match
    if actual.content_sha256 != file.content_sha256:
        return FileCheck(file, path, f"{actual.name} of {owner.title}", sha256)
    as_published = sha256 in (file.sha256, file.content_sha256)
    return FileCheck(file, path, "ok" if as_published else "ok, other compression", sha256)


def recognise(path: Path, known: Sequence[Published]) -> tuple[str, tuple[Published, IdxFile] | None]:
    """Find out from its content which published file a file is.

    Parameters
    ----------
    path : pathlib.Path
        The file, gzip-compressed by whatever program, or plain.
    known : sequence of Published
        All data sets.

    Returns
    -------
    sha256 : str
        Of the file as it lies there.
    match : (Published, IdxFile) or None
        Which one it is.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None
    all_files = [(published, file) for published in known for file in published.files]
    for published, file in all_files:
        if sha256 == file.sha256:
            return sha256, (published, file)
    content = content_sha256(path, max(file.content_bytes for _, file in all_files))
    for published, file in all_files:
        if content == file.content_sha256:
            return sha256, (published, file)
    return sha256, None
