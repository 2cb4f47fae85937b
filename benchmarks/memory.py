"""Memory of a training step: every array that this engine holds, and what PyTorch's allocator has given out at most."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np

PACKAGE = __name__.partition(".")[0]


def held_bytes(*roots: object, without: Iterable[object] = ()) -> int:
    """Return the bytes of all arrays that objects of this package hold, each memory counted once.

    Parameters
    ----------
    *roots : object
        Where to begin: attributes, items of lists, tuples and dicts are followed, into objects of this package alone.
    without : iterable of object
        Not followed: the data set, which is no part of a step.
    """
    seen, arrays, waiting = {id(left_out) for left_out in without}, {}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            while isinstance(one.base, np.ndarray):
                one = one.base
            arrays[id(one)] = one.nbytes
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple, set)):
            waiting += one
        elif type(one).__module__.partition(".")[0] == PACKAGE and hasattr(one, "__dict__"):
            waiting += vars(one).values()
    return sum(arrays.values())


def temporary_bytes(step: Callable[[], None]) -> int:
    """Return the most bytes that a step allocates beside what was there before it; NumPy reports its own."""
    step()  # what is made once is made now
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def torch_peak_bytes(step: Callable[[], None]) -> int:
    """Return the most bytes that PyTorch's allocator has given out at one moment of a step, beside those before it.

    What oneDNN takes for itself inside a kernel is not seen, so the true number may be larger.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
