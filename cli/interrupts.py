"""Ctrl-C as a request that is answered at the next safe moment."""

from __future__ import annotations

import signal
from contextlib import contextmanager


@contextmanager
def catch_signals():
    """Collect SIGINT and SIGTERM in a list instead of dying; a second one dies at once."""
    caught: list[int] = []

    def remember(number, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
