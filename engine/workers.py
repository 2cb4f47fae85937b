"""Workers: one thread per core runs the whole training step on its own part of the mini-batch.

Floor 1. Single program, multiple data, with four verbs: ``rank``, ``size``, ``barrier`` and ``all_reduce_sum``. A
program has ``meet`` for a barrier, which waits without Python: taking Python's lock in turns costs two workers more
than the waiting itself. All sums over workers are taken in the order of their ranks, so that the same seed with the
same number of workers gives the same bits. Compiled kernels release Python's lock, so the threads run side by side.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from .backend import atomic_add, atomic_load, kernel
from .checks import require_positive_integers

SPINS = 20_000  # looks at a counter before a waiting thread gives its core away: about 50 microseconds


class WorkerError(RuntimeError):
    """Another worker failed, so this one cannot reach its barrier."""


@kernel
def _arrive(counter):
    """Add one and return the number of those who came before."""
    return atomic_add(counter, 1)


@kernel
def _wait(counter, target, spins):
    """Look at the counter until it reaches the target; False when it has not within that many looks."""
    for _ in range(spins):
        if atomic_load(counter) >= target:
            return True
    return False


@kernel
def _meet(arrivals, failed, team):
    """Wait until a whole team has come here, without a look at Python; raise a WorkerError where one has failed."""
    if atomic_load(failed) != 0:  # also when asked once more why it failed
        raise WorkerError("another worker failed")
    before = atomic_add(arrivals, 1)
    while atomic_load(arrivals) < (before // team + 1) * team:
        if atomic_load(failed) != 0:
            raise WorkerError("another worker failed")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared_workers(size: int | None = None) -> Workers:
    """Return the workers that all networks of this process with so many threads share.

    Parameters
    ----------
    size : int, optional
        By default the number of cores that the process may use.
    """
    size = available_cores() if size is None else size
    require_positive_integers("workers", threads=size)
    return _shared_workers(size)


@functools.cache
def _shared_workers(size: int) -> Workers:
    return Workers(size)


class Workers:
    """A fixed number of threads that run the same function at the same time.

    The calling thread is the worker of rank 0; the others wait in the background and end with the process. Calls from
    several threads take turns.

    Parameters
    ----------
    size : int, optional
        How many; by default the number of cores that the process may use.

    Examples
    --------
    >>> workers = Workers(2)
    >>> ranks = []
    >>> workers.run(ranks.append)
    >>> sorted(ranks)
    [0, 1]
    """

    def __init__(self, size: int | None = None):
        size = available_cores() if size is None else size
        require_positive_integers("workers", threads=size)
        self.size = size
        self._turn = threading.Lock()
        self._own = threading.local()  # a thread that was left behind goes on with its own crew's counters
        self._set_up()

    def _set_up(self) -> None:
        self._process = os.getpid()
        self._crew = _Crew(self.size)
        self._threads: list[threading.Thread] = []
        self._in_the_middle = False

    def run(self, function: Callable[[int], object]) -> None:
        """Call ``function(rank)`` on every worker at once and return when all have finished.

        Raises
        ------
        BaseException
            The first exception that any worker raised; the others are stopped at their next barrier.
        """
        if self.size == 1:
            function(0)
            return
        self._renew_after_a_fork()
        with self._turn:
            self._run(function)

    def _renew_after_a_fork(self) -> None:
        if self._process != os.getpid():  # a fork copies the memory but not the threads
            self._turn = threading.Lock()
            self._set_up()

    def _run(self, function: Callable[[int], object]) -> None:
        if self._in_the_middle:  # Ctrl-C broke off the last dispatch, and the counters may be out of step
            self._give_up()
        self._in_the_middle = True
        if not self._threads:
            self._start()
        crew = self._crew
        crew.function = function
        crew.failures.clear()
        crew.arrivals[:], crew.failed[:] = 0, 0
        crew.runs += 1
        for lock in crew.wake[1:]:
            lock.release()
        _arrive(crew.started)
        crew.call(0)
        crew.until(crew.finished, crew.runs * (self.size - 1), stop_on_failure=False)
        crew.function = None
        self._in_the_middle = False
        if crew.failures:
            raise next((f for f in crew.failures if not isinstance(f, WorkerError)), crew.failures[0])

    def barrier(self, team: int | None = None) -> None:
        """Wait until every worker has come here; to be called by all of them inside ``run``.

        Parameters
        ----------
        team : int, optional
            Wait for the workers of the ranks below this number alone; only they call it.
        """
        team = self.size if team is None else team
        if team > 1:
            crew = getattr(self._own, "crew", self._crew)
            arrivals = crew.arrivals[team]
            before = _arrive(arrivals)
            crew.until(arrivals, (before // team + 1) * team, stop_on_failure=True)

    @property
    def can_meet(self) -> bool:
        """Whether every worker has a core of its own, so that waiting in ``meet`` takes none from the others."""
        return self.size <= available_cores()

    def meet(self) -> None:
        """Wait as ``barrier`` does, in a single kernel call, which a ``Program`` can note down.

        A program that holds one belongs to these threads: see ``crew``. Whoever waits keeps its core, and does not see
        Ctrl-C before the others have come or failed.
        """
        if self.size > 1:
            crew = getattr(self._own, "crew", self._crew)
            _meet(crew.arrivals[self.size], crew.failed, self.size)

    @property
    def crew(self) -> object:
        """The threads and counters of the next run; others take their place after Ctrl-C and in a forked process."""
        self._renew_after_a_fork()
        with self._turn:
            if self._in_the_middle:
                self._give_up()
        return self._crew

    def all_reduce_sum(self, rank: int, array: np.ndarray, team: int | None = None) -> None:
        """Replace the workers' arrays, of one shape, by their sum, added in the order of the ranks.

        Parameters
        ----------
        rank : int
            Of the caller.
        array : numpy.ndarray
            The caller's part; overwritten by the sum.
        team : int, optional
            As in ``barrier``.
        """
        team = self.size if team is None else team
        if team == 1:
            return
        parts = getattr(self._own, "crew", self._crew).parts
        parts[rank] = array.copy()
        self.barrier(team)
        array[...] = parts[0]
        for part in parts[1:team]:
            array += part
        self.barrier(team)  # nobody may replace its part before all have read it

    def _give_up(self) -> None:
        """Leave the threads behind, after a tenth of a second to finish what they are at, and begin with others."""
        crew = self._crew
        crew.fail(WorkerError("interrupted"))  # whoever waits at a barrier goes home
        for _ in range(10):
            if _wait(crew.finished, crew.runs * (self.size - 1), SPINS):
                break
            time.sleep(0.01)
        crew.is_left_behind = True
        for lock in crew.wake[1:]:
            with suppress(RuntimeError):  # it is open already
                lock.release()
        self._set_up()

    def _start(self) -> None:
        self._threads = [
            threading.Thread(target=self._serve, args=(rank, self._crew), name=f"handgrad-worker-{rank}", daemon=True)
            for rank in range(1, self.size)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, rank: int, crew: _Crew) -> None:
        self._own.crew, runs = crew, 0
        while True:
            runs += 1
            _wait(crew.started, runs, SPINS)  # the next step usually follows at once
            crew.wake[rank].acquire()
            if crew.is_left_behind:
                return
            crew.call(rank)
            _arrive(crew.finished)


class _Crew:
    """What the threads of one set-up share; a dispatch that was broken off leaves its crew behind."""

    def __init__(self, size: int):
        self.arrivals = np.zeros((size + 1, 16), dtype=np.int64)  # for teams of every size, a cache line of its own
        self.started, self.finished = np.zeros(16, dtype=np.int64), np.zeros(16, dtype=np.int64)
        self.failed = np.zeros(16, dtype=np.int64)  # the first is not 0 when somebody has failed
        self.runs, self.is_left_behind = 0, False
        self.function: Callable[[int], object] | None = None
        self.failures: list[BaseException] = []
        self.parts: list[np.ndarray | None] = [None] * size
        self.wake = [threading.Lock() for _ in range(size)]
        for lock in self.wake:
            lock.acquire()

    def call(self, rank: int) -> None:
        try:
            self.function(rank)
        except BaseException as failure:  # handed to the caller of run
            self.fail(failure)

    def fail(self, failure: BaseException) -> None:
        self.failures.append(failure)
        self.failed[0] = 1

    def until(self, counter: np.ndarray, target: int, *, stop_on_failure: bool) -> None:
        while not _wait(counter, target, SPINS):
            if stop_on_failure and self.failures:
                raise WorkerError("another worker failed")
            time.sleep(0)
