"""Workers: one thread per core runs the whole training step on its own part of the mini-batch.

Floor 1. Single program, multiple data, with four verbs: ``rank``, ``size``, ``barrier`` and ``all_reduce_sum``. A
program has ``meet`` for a barrier, which waits without Python: taking Python's lock in turns costs two workers more
than the waiting itself. For the same reason a worker that waits for the next run looks for it in a kernel, and, where
that run is a program, does it there. Whoever waits in a kernel lets other threads have a turn now and then, and whoever
wakes others keeps them off its own core: on one core each would wait for what the other does afterwards. All sums over
workers are taken in the order of their ranks, so that the same seed with the same number of workers gives the same
bits. Compiled kernels release Python's lock, so the threads run side by side.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from .backend import atomic_add, atomic_load, kernel, replay, yield_core
from .checks import require_positive_integers
from .cores import allow, available_cores, keep_apart
from .program import JOB, Program

SPINS = 20_000  # looks at a counter before a waiting thread goes back to Python: about 50 microseconds
LOOKS_A_TURN = 2_000  # of these; then another thread may have the core: whom it waits for may wait for this very one
PYTHON = -1  # in place of the number of calls: the run is no program
PATIENCE = 10 * SPINS  # of one with a core of its own that waits for the next run: Python has work between two steps
PAUSE = 0.0001  # seconds between two runs after which a third is expected: less than the others stay awake


class WorkerError(RuntimeError):
    """Another worker failed, so this one cannot reach its barrier."""


@kernel
def _add(counter, amount):
    """Add an amount and return what the counter was before."""
    return atomic_add(counter, amount)


@kernel
def _begin(started, asleep):
    """Begin the next run and return how many workers are asleep, or about to be."""
    atomic_add(started, 1)
    return atomic_load(asleep)


@kernel
def _wait(counter, target, spins):
    """Look at the counter until it reaches the target; False when it has not within that many looks."""
    for looks in range(1, spins + 1):
        if atomic_load(counter) >= target:
            return True
        if looks % LOOKS_A_TURN == 0:
            yield_core()
    return False


@kernel
def _work(started, runs, spins, job, done, failed, finished):
    """Wait for a run and, as long as runs are programs, do them; return the number of the first that is for Python.

    Returns
    -------
    int
        Below 0 when it has not begun within so many looks.
    """
    while True:
        if not _wait(started, runs, spins):
            return -runs
        if job[0] < 0:
            return runs
        done[0] = replay(job)
        if done[0] < job[0]:
            atomic_add(failed, 1)
        atomic_add(finished, 1)
        runs += 1


@kernel
def _meet(arrivals, failed, team):
    """Wait until a whole team has come here, without a look at Python; raise a WorkerError where one has failed."""
    if atomic_load(failed) != 0:  # also when asked once more why it failed
        raise WorkerError("another worker failed")
    before, looks = atomic_add(arrivals, 1), 0
    while atomic_load(arrivals) < (before // team + 1) * team:
        if atomic_load(failed) != 0:
            raise WorkerError("another worker failed")
        looks += 1
        if looks % LOOKS_A_TURN == 0:
            yield_core()


def call_every_kernel() -> None:
    """Call the kernels of this file once, on counters of their own: who notes calls down learns what workers need."""
    crew = _Crew(1)
    _work(crew.started, 1, 0, crew.jobs[0], crew.done[0], crew.failed, crew.finished)
    _begin(crew.started, crew.asleep)
    _add(crew.finished, 0)
    _wait(crew.finished, 0, 1)
    _meet(crew.arrivals[1], crew.failed, 1)


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
        self._last_end = 0.0

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

    def run_programs(self, programs: Sequence[Program]) -> None:
        """Run a program on every worker at once, without Python where they have no need of it; as ``run`` otherwise.

        Parameters
        ----------
        programs : sequence of Program
            One for each rank.
        """
        if self.size == 1 or any(program.job is None for program in programs):
            self.run(lambda rank: programs[rank].run())
            return
        self._renew_after_a_fork()
        with self._turn:
            self._run(lambda rank: programs[rank].run(), programs)

    def _renew_after_a_fork(self) -> None:
        if self._process != os.getpid():  # a fork copies the memory but not the threads
            self._turn = threading.Lock()
            self._set_up()

    def _run(self, function: Callable[[int], object], programs: Sequence[Program] = ()) -> None:
        if self._in_the_middle:  # Ctrl-C broke off the last dispatch, and the counters may be out of step
            self._give_up()
        self._in_the_middle = True
        if not self._threads:
            self._start()
        crew = self._crew
        crew.prepare(function, programs)
        cores: dict[int, set[int]] = {}
        if _begin(crew.started, crew.asleep):
            if self.can_meet:  # otherwise others wait for every core
                cores = keep_apart(thread.native_id for thread in self._threads)
            crew.wake_up()
        crew.call(0)
        crew.until(crew.finished, crew.runs * (self.size - 1), stop_on_failure=False)
        allow(cores)
        crew.explain_failures(programs)
        crew.function = None
        self._in_the_middle = False
        self._last_end = time.perf_counter()
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
            before = _add(arrivals, 1)
            crew.until(arrivals, (before // team + 1) * team, stop_on_failure=True)

    @property
    def can_meet(self) -> bool:
        """Whether every worker has a core of its own, so that waiting in ``meet`` takes none from the others."""
        return self.size <= available_cores()

    def run_alone(self, function: Callable[[], object]) -> bool:
        """Call a function that takes less time than the others need to wake up, if they are asleep.

        Returns
        -------
        bool
            Whether that has been done; not where they are awake, and not so soon after the last run that others will
            follow, for which it pays to wake them.
        """
        is_soon = time.perf_counter() - self._last_end < PAUSE
        if is_soon or self._in_the_middle or (self._threads and self._crew.asleep[0] == 0):
            return False
        function()
        self._last_end = time.perf_counter()
        return True

    def meet(self, team: int | None = None) -> None:
        """Wait as ``barrier`` does, in a single kernel call, which a ``Program`` can note down.

        A program that holds one belongs to these threads: see ``crew``. Whoever waits does not see Ctrl-C
        before the others have come or failed.

        Parameters
        ----------
        team : int, optional
            As in ``barrier``.
        """
        team = self.size if team is None else team
        if team > 1:
            crew = getattr(self._own, "crew", self._crew)
            _meet(crew.arrivals[team], crew.failed, team)

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
        crew.wake_up()
        self._set_up()

    def _start(self) -> None:
        self._threads = [
            threading.Thread(target=self._serve, args=(rank, self._crew), name=f"handgrad-worker-{rank}", daemon=True)
            for rank in range(1, self.size)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, rank: int, crew: _Crew) -> None:
        self._own.crew, runs = crew, 1
        patience = PATIENCE if self.can_meet else SPINS
        counters = crew.jobs[rank], crew.done[rank], crew.failed, crew.finished
        while True:
            found = _work(crew.started, runs, patience, *counters)
            runs = abs(found)
            if found < 0:
                crew.sleep(rank, runs)
            if crew.is_left_behind:
                return
            if found > 0:
                crew.call(rank)
                _add(crew.finished, 1)
                runs += 1


class _Crew:
    """What the threads of one set-up share; a dispatch that was broken off leaves its crew behind."""

    def __init__(self, size: int):
        self.arrivals = np.zeros((size + 1, 16), dtype=np.int64)  # for teams of every size, a cache line of its own
        self.started, self.finished = np.zeros(16, dtype=np.int64), np.zeros(16, dtype=np.int64)
        self.failed = np.zeros(16, dtype=np.int64)  # the first is not 0 when somebody has failed
        self.asleep = np.zeros(16, dtype=np.int64)  # how many are, or are about to be
        self.jobs, self.done = np.zeros((size, JOB), dtype=np.int64), np.zeros((size, 1), dtype=np.int64)
        self.runs, self.is_left_behind = 0, False
        self.function: Callable[[int], object] | None = None
        self.failures: list[BaseException] = []
        self.parts: list[np.ndarray | None] = [None] * size
        self.wake = [threading.Lock() for _ in range(size)]
        for lock in self.wake:
            lock.acquire()

    def prepare(self, function: Callable[[int], object], programs: Sequence[Program]) -> None:
        self.function = function
        self.failures.clear()
        self.arrivals[:], self.failed[:] = 0, 0
        self.runs += 1
        self.jobs[:, 0] = PYTHON
        for job, program in zip(self.jobs, programs, strict=False):
            job[:] = program.job

    def explain_failures(self, programs: Sequence[Program]) -> None:
        """Find out why programs of the other workers broke off."""
        for rank, program in list(enumerate(programs))[1:]:
            if self.done[rank, 0] < program.job[0]:
                try:
                    program.explain(self.done[rank, 0])
                except BaseException as failure:  # raised by run
                    self.failures.append(failure)

    def wake_up(self) -> None:
        for lock in self.wake[1:]:
            with suppress(RuntimeError):  # it is open already, and whoever comes to sleep looks around once more
                lock.release()

    def sleep(self, rank: int, runs: int) -> None:
        """Sleep until somebody calls ``wake_up``, who looks at ``asleep`` after the start of a run."""
        _add(self.asleep, 1)
        if not _wait(self.started, runs, 1):  # it may have begun before the starter could see that
            self.wake[rank].acquire()
        _add(self.asleep, -1)

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
