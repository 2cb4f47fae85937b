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
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
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


def keep_apart(threads: Iterable[int]) -> set[int]:
    """Keep sleeping threads off the caller's core, where there are others, before it wakes them.

    Linux likes to put a thread behind the one that wakes it, although that one goes on and other cores are idle; until
    it looks again, 4 to 16 milliseconds pass.

    Parameters
    ----------
    threads : iterable of int
        Their native numbers.

    Returns
    -------
    set of int
        The cores that they may use again afterwards, see ``allow``; empty where nothing has been done.
    """
    current_core = _current_core()
    if current_core is None:
        return set()
    cores = os.sched_getaffinity(0)
    others = cores - {current_core()}
    if not others:
        return set()
    allow(threads, others)
    return cores


def allow(threads: Iterable[int], cores: set[int]) -> None:
    """Let threads run on these cores alone; one that has ended, or a core that has been taken away, does not matter."""
    for thread in threads:
        with suppress(OSError):
            os.sched_setaffinity(thread, cores)
