"""Files that are there whole or not at all: written under a temporary name, flushed to disk, then renamed.

Floor 0.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .checks import DataError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file that takes its name only when the block ends without an exception.

    The temporary file lies in the same folder, so that the rename is atomic, and has a name of its own, so that
    two processes that write the same file do not disturb each other. Whatever ends the block early, Ctrl-C
    included, removes it and leaves an older file of that name as it was.

    Parameters
    ----------
    path : pathlib.Path
        The file to make or to replace; missing folders above it are made.

    Yields
    ------
    BinaryIO
        The stream to write to.

    Raises
    ------
    OSError
        When the folder cannot be made or the file cannot be written or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def unwritable(path: Path, error: OSError) -> DataError:
    """Return the one-line error for a file that could not be written.

    Parameters
    ----------
    path : pathlib.Path
        The file that was to be written.
    error : OSError
        What the operating system said.

    Returns
    -------
    DataError
        To be raised by the caller.
    """
    return DataError(
        f"{path} cannot be written",
        got=error.strerror or str(error),
        remedy="make room or set HANDGRAD_CACHE to a folder that can be written",
    )
