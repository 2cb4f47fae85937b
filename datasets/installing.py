"""Put published files into a data folder: `ensure` downloads them, `import_folder` takes those that the user has."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..engine.atomic import unwritable, whole_file
from ..engine.checks import DataError
from .download import Progress, fetch
from .idx import GZIP_MAGIC, unreadable
from .published import IdxFile, Published, data_cache, find, look_in
from .verifying import recognise, verify

PIECE = 2**20


@dataclass(frozen=True)
class Installed:
    """What `ensure` or `import_folder` did.

    Parameters
    ----------
    published : Published
        The data set.
    folder : pathlib.Path
        Where it lies now.
    written : tuple of str
        Names of the files that were written; empty when all were there before.
    """

    published: Published
    folder: Path
    written: tuple[str, ...]


def ensure(
    published: Published,
    known: Sequence[Published],
    folder: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Installed:
    """Make sure that a data set lies where loading looks for it, every file verified; download what is not.

    Parameters
    ----------
    published : Published
        The data set.
    known : sequence of Published
        All data sets.
    folder : str or path-like, optional
        Data folder to use instead of the cache; made when missing.
    progress : callable, optional
        See `download.fetch`.

    Returns
    -------
    Installed
        The folder and the files downloaded.

    Raises
    ------
    DataError
        When no mirror delivers, or a file of the user's, outside the cache, is in the way: only files in the cache
        are ever replaced.
    """
    base = data_cache() if folder is None else Path(folder).expanduser()
    found = find(published, known, folder)[0] if folder is None or base.exists() else None
    if found and found.place == "$HANDGRAD_DATA" and found.missing:
        found = look_in(published, known, base, "cache")
    checks = verify(found, known) if found else []
    if found and all(check.right for check in checks):
        return Installed(published, found.folder, ())
    for check in checks:
        if not check.right and check.path and found.place != "cache":
            raise DataError(
                f"{check.path} in {found.place} is in the way",
                got="other content" if check.state == "differs" else check.state,
                expected=f"{published.title}'s",
                remedy="move it away and fetch again",
            )
    target = found.folder if found else base / published.folders[0]
    needed = [file for file in published.files if file.name not in {c.file.name for c in checks if c.right}]
    fetch(needed, target, published.mirrors, progress)
    return Installed(published, target, tuple(file.name for file in needed))


def import_folder(
    folder: str | os.PathLike,
    known: Sequence[Published],
    name: str | None = None,
    target: str | os.PathLike | None = None,
) -> list[Installed]:
    """Copy the published files that a folder holds into the cache; which they are is seen from their checksums.

    Parameters
    ----------
    folder : str or path-like
        Searched, with the sub-folders that `Published.folders` names, for files with the published names or
        lengths. Compressed or plain, under any name of the right length.
    known : sequence of Published
        All data sets.
    name : str, optional
        Import this one only; otherwise every data set that is complete.
    target : str or path-like, optional
        Data folder to copy to instead of the cache.

    Returns
    -------
    list of Installed
        One per data set.

    Raises
    ------
    DataError
        When the folder does not hold all files of a data set, or a copy cannot be made. No file is then changed
        in the target folder.
    """
    source = Path(folder).expanduser()
    base = data_cache() if target is None else Path(target).expanduser()
    right, strange = _scan(source, known)
    wanted = [published for published in known if name in (None, published.name)]
    complete = [p for p in wanted if all((p.name, file.name) in right for file in p.files)]
    if not complete:
        raise _incomplete(source, wanted, known, right, strange)
    return [
        _copy(published, [(file, *right[published.name, file.name]) for file in published.files], base)
        for published in complete
    ]


def _scan(source: Path, known: Sequence[Published]) -> tuple[dict[tuple[str, str], tuple[Path, str]], list[str]]:
    """Return (path, SHA-256) by (data set, file name), and the names of files that only look like published ones."""
    files = [file for published in known for file in published.files]
    names = {name for file in files for name in (file.name, file.plain_name)}
    lengths = {length for file in files for length in (file.bytes, file.content_bytes)}
    right, strange = {}, []
    for sub in ("", *(sub for published in known for sub in published.folders)):
        try:
            with os.scandir(source / sub) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if sub:
                continue
            raise unreadable(source, error) from None
        for entry in entries:
            if entry.is_file() and (entry.name in names or entry.stat().st_size in lengths):
                sha256, match = recognise(Path(entry.path), known)
                if match:
                    right.setdefault((match[0].name, match[1].name), (Path(entry.path), sha256))
                elif entry.name in names:
                    strange.append(str(Path(sub, entry.name)))
    return right, strange


def _incomplete(
    source: Path,
    wanted: Sequence[Published],
    known: Sequence[Published],
    right: dict[tuple[str, str], tuple[Path, str]],
    strange: Sequence[str],
) -> DataError:
    got = []
    for published in known:
        count = sum((published.name, file.name) in right for file in published.files)
        if count:
            got.append(f"{count} of the {len(published.files)} files of {published.title}")
    if strange:
        got.append(f"other content in {', '.join(strange)}")
    return DataError(
        f"nothing imported from {source}",
        got=" and ".join(got) or "no file with a published name or length",
        expected=f"all files of {' or '.join(p.title for p in wanted)}: "
        + ", ".join(file.name for file in wanted[0].files),
    )


def _copy(published: Published, files: Sequence[tuple[IdxFile, Path, str]], base: Path) -> Installed:
    target, written, outdated = base / published.folders[0], [], []
    try:
        with contextlib.ExitStack() as stack:  # each copy takes its name when all of them are complete
            for file, path, sha256 in files:
                copy, other_form = target / file.name, target / file.plain_name
                if not _is_gzip(path):
                    copy, other_form = other_form, copy
                if not any(form.exists() and form.samefile(path) for form in (copy, other_form)):
                    _copy_checked(path, sha256, stack.enter_context(whole_file(copy)))
                    written.append(copy.name)
                    outdated.append(other_form)
        for path in outdated:  # reading would prefer the compressed form, whatever it holds
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(target, error) from None
    return Installed(published, target, tuple(written))


def _is_gzip(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(2) == GZIP_MAGIC
    except OSError as error:
        raise unreadable(path, error) from None


def _copy_checked(path: Path, sha256: str, copy: BinaryIO) -> None:
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise unreadable(path, error) from None
        while piece := stream.read(PIECE):
            digest.update(piece)
            copy.write(piece)
    if digest.hexdigest() != sha256:
        raise DataError(f"{path} changed while it was copied", remedy="try again")
