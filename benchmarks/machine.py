"""The machine: the peak of its multiply-adds, when its cores reach it, and how much of it others are using."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..engine.backend import TILE, kernel, registers
from ..engine.workers import Workers

ROWS = 10  # independent sums, enough to hide the latency of a multiply-add, and fitting 16 registers
WIDTH = 16 if TILE == 8 else 8  # floats in a register: of AVX-512, or of AVX2
PEAK_TILE = ROWS * WIDTH
PASSES = 2_000_000  # of the multiply-adds, some 3 ms
GLANCE, GLANCES = 500_000, 4  # passes of a short look at the cores, and how many good ones in a row are enough
APART = 0.85  # share of the peak; two threads on the two halves of one core reach little more than a half of it
SHORTEST, LONGEST = 0.02, 0.5  # seconds to wait for the cores; OpenMP's threads look for work for some 12 ms
NOISE = 0.08  # share of one core that others may use during a measurement
TRIES = 6
Value = TypeVar("Value")


def measured(function):
    """Compile a kernel that lies outside of the engine, kept in the cache under its own source.

    The cache's folder is named by the sources of the engine alone; without this, a changed kernel of the benchmarks
    would be measured as it was before.
    """
    source = Path(inspect.getsourcefile(function)).read_bytes()
    function.__qualname__ += hashlib.sha256(source).hexdigest()[:12]
    return kernel(function)


@measured
def _multiply_add(out, passes, x, y):
    """Ten registers, each a = a x + y as often as wanted."""
    acc = registers((ROWS, WIDTH), PEAK_TILE, out)
    for v in range(WIDTH):
        for t in range(ROWS):
            acc[t, v] = out[v]
    for _ in range(passes):
        for v in range(WIDTH):
            for t in range(ROWS):
                acc[t, v] = acc[t, v] * x + y
    for v in range(WIDTH):
        for t in range(ROWS):
            out[v] += acc[t, v]


class Cores:
    """The cores that threads compute on, and what these reach on them.

    Attributes
    ----------
    peak : float
        The most multiply-adds in registers that all threads together have reached, in GFLOP/s, two operations each.
    """

    def __init__(self, threads: int):
        self.peak, self._threads, self._workers = 0.0, threads, Workers(threads)
        self._outs = [np.ones(WIDTH, np.float32) for _ in range(threads)]
        self.gflops(10)  # compiles
        self.peak = 0.0

    def gflops(self, passes: int = PASSES) -> float:
        """Return what the multiply-adds reach now."""
        x, y = np.float32(0.999), np.float32(1e-3)
        start = time.perf_counter()
        self._workers.run(lambda rank: _multiply_add(self._outs[rank], passes, x, y))
        reached = 2 * PEAK_TILE * passes * self._threads / (time.perf_counter() - start) / 1e9
        self.peak = max(self.peak, reached)
        return reached

    def wait(self) -> None:
        """Keep all cores at work until each thread has a whole one, for LONGEST seconds at most.

        Where cores are virtual, they may be two halves of one for a second or so, mostly after one was at rest.
        """
        start, good = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < LONGEST and (good < GLANCES or spent < SHORTEST):
            good = good + 1 if self.gflops(GLANCE) >= APART * self.peak else 0


def peak_gflops(threads: int, passes: int = PASSES) -> float:
    """Return the multiply-adds that all threads together reach in registers, in GFLOP/s, two operations each."""
    cores = Cores(threads)
    return max(cores.gflops(passes) for _ in range(5))


def busy_seconds() -> float:
    """Return the seconds that all cores together have been busy since the machine started; 0 where nobody says so."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / 100


def runs_per_second(run: Callable[[], None], seconds: float) -> float:
    """Call a function again and again for about so long, at least once, and return how often it ran in a second."""
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        run()
        count += 1
    return count / (time.perf_counter() - start)


def quietly(measure: Callable[[], Value], prepare: Callable[[], None] = lambda: None) -> tuple[Value, int]:
    """Return a measurement during which nobody else used the machine, and how many were rejected before it.

    Each is prepared, whatever others do then. After TRIES attempts the one with the least noise is taken.
    """
    attempts = []
    for _ in range(TRIES):
        prepare()
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        value = measure()
        seconds = time.perf_counter() - start
        others = (busy_seconds() - busy - (time.process_time() - own)) / seconds if busy else 0.0
        attempts.append((others, value))
        if others < NOISE + 0.015 / seconds:  # the clock of the operating system ticks every 10 ms
            return value, len(attempts) - 1
        time.sleep(0.2)
    return min(attempts, key=lambda attempt: attempt[0])[1], TRIES
