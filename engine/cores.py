"""How many cores there are to compute on, and which threads run on which.

Floor 0: standard library only.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable
from contextlib import suppress


def available_cores() -> int:
    """Return the number of cores that this process may use, which is to say, its first thread."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(os.getpid()))
    return os.cpu_count() or 1


@functools.cache
def yield_function() -> object:
    """Return the operating system's function, without arguments, that lets a thread run that waits for this core."""
    return ctypes.windll.kernel32.SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield


@functools.cache
def _current_core() -> object | None:
    """Return the operating system's function that says on which core a thread runs, or None."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


def keep_apart(threads: Iterable[int]) -> dict[int, set[int]]:
    """Keep threads off the caller's core, where they may use others, before it wakes them.

    Linux likes to put a thread behind the one that wakes it, although that one goes on and other cores are idle; until
    it looks again, 4 to 16 milliseconds pass.

    Parameters
    ----------
    threads : iterable of int
        Their native numbers.

    Returns
    -------
    dict of int to set of int
        The cores that each of them could use before, to be given back by ``allow``.
    """
    current_core, before = _current_core(), {}
    if current_core is not None:
        here = {current_core()}
        for thread in threads:
            with suppress(OSError):  # it has ended, or this is forbidden here
                cores = os.sched_getaffinity(thread)
                if cores - here:
                    os.sched_setaffinity(thread, cores - here)
                    before[thread] = cores
    return before


def allow(cores: dict[int, set[int]]) -> None:
    """Let threads use these cores."""
    for thread, own in cores.items():
        with suppress(OSError):
            os.sched_setaffinity(thread, own)
