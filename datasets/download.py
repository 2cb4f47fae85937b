"""Download pinned files: any mirror will do, because every byte is checked before a file takes its name.

How long it can take: opening a mirror, name look-up and all addresses and redirections included, is given up after
`TIMEOUT` seconds; a body that pauses for as long or comes more slowly than `SLOWEST` is given up as well. When a
file fails on every mirror nothing more is tried, so that without a network two mirrors cost at most 10 seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..engine.atomic import unwritable, whole_file
from ..engine.checks import DataError

TIMEOUT = 5.0
"""Seconds that a mirror may be silent."""

SLOWEST = 8192
"""Bytes per second; a mirror that stays below it for two timeouts is given up."""

PIECE = 2**16
REMEDY = "fetch it elsewhere and run `handgrad data import FOLDER`, or set HANDGRAD_DATA, or use `--data mnist-5k`"

Progress = Callable[[str, int, int], None]
"""Called as ``progress(file name, bytes done, bytes in all)``."""


@dataclass(frozen=True)
class PinnedFile:
    """A published file whose every byte is known.

    Parameters
    ----------
    name : str
        File name, without folders.
    bytes : int
        Its length.
    sha256 : str
        64 hexadecimal digits.
    """

    name: str
    bytes: int
    sha256: str


class MirrorFailure(Exception):
    """One mirror did not deliver; the next one may. Never leaves this module."""


def fetch(
    files: Sequence[PinnedFile],
    folder: Path,
    mirrors: Sequence[str],
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Download files into a folder, replacing older ones of the same name.

    Parameters
    ----------
    files : sequence of PinnedFile
        What to download, in this order.
    folder : pathlib.Path
        Where to; made when missing. A file appears there only whole and checked.
    mirrors : sequence of str
        Addresses to which the file name is appended. The one that worked last is asked first.
    progress : callable, optional
        Called as ``progress(name, done, total)`` in bytes; `done` starts again at 0 on the next mirror.
    timeout : float
        Seconds that a mirror may be silent.

    Returns
    -------
    list of pathlib.Path
        The files written.

    Raises
    ------
    DataError
        When no mirror delivers a file, or the folder cannot be written.

    Notes
    -----
    Proxies are taken from the environment (``https_proxy`` and its kin), as urllib does.
    """
    order, written = list(mirrors), []
    for file in files:
        path, refusals = Path(folder) / file.name, []
        for mirror in tuple(order):
            try:
                _download(file, path, mirror + file.name, progress, timeout)
            except MirrorFailure as failure:
                refusals.append(f"'{failure}' from {urllib.parse.urlsplit(mirror).netloc or mirror}")
            except OSError as error:
                raise unwritable(path, error) from None
            else:
                order.remove(mirror)
                order.insert(0, mirror)
                written.append(path)
                break
        else:
            raise DataError(f"{file.name} cannot be downloaded", got=" and ".join(refusals), remedy=REMEDY)
    return written


def _download(file: PinnedFile, path: Path, address: str, progress: Progress | None, timeout: float) -> None:
    response = _open(address, timeout)
    with contextlib.closing(response), whole_file(path) as stream:
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) != file.bytes:
            raise MirrorFailure(f"a file of {int(announced)} bytes instead of {file.bytes}")
        digest, done = hashlib.sha256(), 0
        window_start, window_done = time.monotonic(), 0
        if progress:
            progress(file.name, 0, file.bytes)
        while piece := _read(response, min(PIECE, file.bytes + 1 - done), timeout):
            done += len(piece)
            if done > file.bytes:
                raise MirrorFailure(f"more than the file's {file.bytes} bytes")
            digest.update(piece)
            stream.write(piece)
            if progress:
                progress(file.name, done, file.bytes)
            elapsed = time.monotonic() - window_start
            if elapsed > 2 * timeout:
                if done - window_done < SLOWEST * elapsed:
                    raise MirrorFailure(f"less than {SLOWEST} bytes a second")
                window_start, window_done = time.monotonic(), done
        if done < file.bytes:
            raise MirrorFailure(f"the connection ended after {done} of {file.bytes} bytes")
        if digest.hexdigest() != file.sha256:
            raise MirrorFailure(f"other content, SHA-256 {digest.hexdigest()[:12]} instead of {file.sha256[:12]}")


def _open(address: str, timeout: float) -> http.client.HTTPResponse:
    """Open an address within `timeout` seconds of real time.

    urllib's own timeout holds for each address of a name and each redirection anew and not at all for the look-up
    of the name, so the opening runs in a daemon thread that is left to itself when it takes too long.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()
    abandoned = threading.Event()

    def work() -> None:
        request = urllib.request.Request(address, headers={"User-Agent": f"handgrad/{__version__}"})
        try:
            answers.put(urllib.request.urlopen(request, timeout=timeout))
        except Exception as error:
            answers.put(error)
        if abandoned.is_set():
            _close_all(answers)

    try:
        threading.Thread(target=work, name="handgrad-download", daemon=True).start()
        answer = answers.get(timeout=timeout)
    except BaseException as error:  # whichever side comes second sees the other's mark, so no answer stays open
        abandoned.set()
        _close_all(answers)
        if isinstance(error, queue.Empty):
            raise MirrorFailure(f"no answer within {timeout:g} s") from None
        raise
    if isinstance(answer, Exception):
        if isinstance(answer, urllib.error.HTTPError):
            answer.close()
        raise MirrorFailure(_reason(answer, timeout))
    return answer


def _close_all(answers: queue.SimpleQueue) -> None:
    with contextlib.suppress(queue.Empty):
        while answer := answers.get_nowait():
            if hasattr(answer, "close"):  # a response, or an HTTPError, which holds one
                answer.close()


def _read(response: http.client.HTTPResponse, most: int, timeout: float) -> bytes:
    try:
        return response.read1(most)  # read(most) would wait for all of it, with a new timeout for every packet
    except (OSError, http.client.HTTPException) as error:
        raise MirrorFailure(_reason(error, timeout)) from None


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
