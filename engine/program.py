"""Programs: a training step, or a pass, whose kernels follow one another without Python in between.

Floor 1. In a mini-batch of LeNet-5 forty kernels run for some 30 microseconds each. Called from Python, each of them
takes and gives back Python's lock, and with two workers one of them often sleeps until the other has let go of it.
Buffers never move, so a step calls the same kernels with the same arguments as the one before: the first time they are
noted down, afterwards all are made in one go by ``backend.replay``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .backend import SLOTS, kernel_calls, replay

JOB = 5  # numbers that ``replay`` takes
Piece = tuple[bool, Callable[[], object]]  # whether it only calls kernels, always the same; and what to do


def states(thing: object, what: str):
    """Return what this very class says of itself, False where it says nothing: one that is derived may do otherwise."""
    return vars(type(thing)).get(what, False)


class Program:
    """Work that is done again and again on the same arrays, in the order in which it was added.

    Examples
    --------
    >>> import numpy as np
    >>> from handgrad.engine.arrays import add_into
    >>> total, part = np.zeros(4), np.ones(4)
    >>> program = Program()
    >>> program.add_kernels(lambda: add_into(total, part))
    >>> program.run()
    >>> total.tolist()
    [2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self):
        self._steps: list[Callable[[], object]] = []
        self._last: _Calls | None = None

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Program:
        """Do some pieces of work, one after the other, and return the program that does them again."""
        program = cls()
        for calls_kernels_alone, work in pieces:
            (program.add_kernels if calls_kernels_alone else program.add_python)(work)
        return program

    def add_kernels(self, work: Callable[[], object]) -> None:
        """Do something that consists of nothing but calls of kernels, and note them down.

        Parameters
        ----------
        work : callable
            Passes the same arrays and numbers to the same kernels every time.
        """
        with kernel_calls() as calls:
            work()
        for kernel, args in calls:
            found = kernel.machine_call(args)
            if found is None:
                self._add(lambda kernel=kernel, args=args: kernel(*args))
                continue
            if self._last is None:
                self._last = _Calls()
                self._steps.append(self._last)
            self._last.append(kernel, args, *found)

    def add_python(self, work: Callable[[], object]) -> None:
        """Do something that is to be done in Python every time."""
        work()
        self._add(work)

    def _add(self, work: Callable[[], object]) -> None:
        self._steps.append(work)
        self._last = None

    def run(self) -> None:
        """Do all of it again."""
        for step in self._steps:
            step()

    @property
    def job(self) -> np.ndarray | None:
        """What ``replay`` does, where that is all there is to do; None where Python has to do something."""
        if not self._steps:
            return np.zeros(JOB, dtype=np.int64)
        return self._steps[0].job if len(self._steps) == 1 and isinstance(self._steps[0], _Calls) else None

    def explain(self, done: int) -> None:
        """Raise what the call raises that came after so many good ones of ``job``."""
        self._steps[0].explain(done)


class _Calls:
    """Calls of kernels in a row."""

    def __init__(self):
        self._calls: list[tuple] = []  # keeps the arrays alive
        self._addresses = self._firsts = np.zeros(0, dtype=np.int64)
        self._numbers = np.zeros(SLOTS, dtype=np.int64)
        self._results = np.zeros(2, dtype=np.int64)
        self.job = np.zeros(JOB, dtype=np.int64)

    def append(self, kernel, args: tuple, address: int, numbers: list[int]) -> None:
        self._calls.append((kernel, args))
        self._addresses = np.append(self._addresses, address)
        self._firsts = np.append(self._firsts, self._numbers.size - SLOTS)
        self._numbers = np.concatenate([self._numbers[:-SLOTS], np.array(numbers + [0] * SLOTS, dtype=np.int64)])
        read = self._addresses, self._firsts, self._numbers, self._results
        self.job[:] = len(self._calls), *(array.ctypes.data for array in read)

    def __call__(self) -> None:
        done = replay(self.job)
        if done < len(self._calls):
            self.explain(done)

    def explain(self, done: int) -> None:
        kernel, args = self._calls[done]  # it says why it failed when Python calls it
        kernel(*args)
        raise RuntimeError(f"{kernel.py_func.__qualname__} failed in a program, and then it did not")
