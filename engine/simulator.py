"""CUDA kernels without a GPU: the threads of a block run one after another, in an order that can be chosen.

Floor 0. A kernel is called as the Python function that it is, once for every thread. Threads that share memory are
greenlets that hand over at each barrier, so a run is repeatable, and a barrier that is missing shows: with the threads
in reversed order, somebody reads what nobody has written yet. Memory on the chip starts as NaN, as a reminder that on a
GPU it starts as anything; an index below zero, which NumPy would count from the end and a GPU might read from another
array, is an error. Warps do not exist here: code that relies on 32 threads being in step is wrong here as well.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np

from .checks import DeviceError

ORDERS = ("forward", "reversed")


class Guarded(np.ndarray):
    """An array in which an index below zero is an error."""

    def _check(self, key) -> None:
        for part in key if isinstance(key, tuple) else (key,):
            if not isinstance(part, slice) and part < 0:
                raise IndexError(f"index {key} of an array of shape {self.shape}: negative in a CUDA kernel")

    def __getitem__(self, key):
        self._check(key)
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        self._check(key)
        super().__setitem__(key, value)


class Simulator:
    """The part of ``numba.cuda`` that kernels use, for one thread at a time.

    Parameters
    ----------
    order : {"forward", "reversed"}
        In which the threads of a block take their turns.
    is_guarded : bool
        Whether indices are checked; it takes twice the time.
    """

    def __init__(self, order: str = "forward", is_guarded: bool = False):
        self.order, self.is_guarded = order, is_guarded
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=self._local_array)
        self.threadIdx = self.blockIdx = self.blockDim = self.gridDim = None
        self._turn: _Turn | None = None
        self._arrays: list[np.ndarray] = []

    def launch(self, function, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple, has_barriers: bool):
        """Run a function once for every thread of a grid.

        Parameters
        ----------
        function : callable
        grid, block : tuple of int
            Blocks of the grid and threads of a block, up to three axes.
        arguments : tuple
            Arrays, which are NumPy's here, and numbers.
        has_barriers : bool
            Whether threads have to wait for each other.
        """
        if self.is_guarded:
            arguments = tuple(a.view(Guarded) if isinstance(a, np.ndarray) else a for a in arguments)
        self.gridDim, self.blockDim = _triple(grid), _triple(block)
        threads = [_point(*at[::-1]) for at in itertools.product(*map(range, _sizes(block)[::-1]))]
        if self.order == "reversed":
            threads.reverse()
        run = self._run_together if has_barriers else self._run_alone
        with np.errstate(all="ignore"):
            for at in itertools.product(*map(range, _sizes(grid)[::-1])):
                self.blockIdx = _point(*at[::-1])
                run(function, threads, arguments)

    def _run_alone(self, function, threads, arguments) -> None:
        for self.threadIdx in threads:
            function(*arguments)

    def _run_together(self, function, threads, arguments) -> None:
        try:
            from greenlet import getcurrent, greenlet
        except ImportError as error:
            raise DeviceError("the CUDA simulator needs greenlet", remedy="pip install greenlet") from error
        self._arrays = []
        turns = [_Turn(index, greenlet(function), getcurrent()) for index in threads]
        starting = True
        while turns:
            for turn in turns:
                self._turn, self.threadIdx = turn, turn.index
                if starting:
                    turn.greenlet.switch(*arguments)
                else:
                    turn.greenlet.switch()
            starting, waiting = False, [turn for turn in turns if not turn.greenlet.dead]
            if waiting and len(waiting) < len(turns):
                raise DeviceError(
                    f"kernel {function.__name__}: {len(waiting)} of {len(turns)} threads wait at a barrier that the "
                    "others never reach"
                )
            turns = waiting

    def grid(self, axes: int) -> int:
        """Return the number of this thread in the whole grid, along one axis."""
        assert axes == 1, "kernels of this project ask for one axis"
        return self.blockIdx.x * self.blockDim.x + self.threadIdx.x

    def syncthreads(self) -> None:
        """Wait until every thread of the block is here."""
        self._turn.hub.switch()

    def _shared_array(self, shape, dtype, alignment: int = 0) -> np.ndarray:
        """Return the same array to every thread of a block: the first call of each gives the first, and so on."""
        turn = self._turn
        turn.shared_arrays += 1
        if turn.shared_arrays > len(self._arrays):
            self._arrays.append(self._local_array(shape, dtype))
        return self._arrays[turn.shared_arrays - 1]

    def _local_array(self, shape, dtype, alignment: int = 0) -> np.ndarray:
        dtype = np.dtype(getattr(dtype, "name", dtype))
        array = np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype)
        return array.view(Guarded) if self.is_guarded else array


class _Turn:
    """A thread that can be left at a barrier and taken up again."""

    def __init__(self, index, greenlet, hub):
        self.index, self.greenlet, self.hub, self.shared_arrays = index, greenlet, hub, 0


# The functions of ``math`` on single numbers, which on a GPU give infinity and NaN where Python raises an error
MATH = SimpleNamespace(
    exp=np.exp, log=np.log, log1p=np.log1p, sqrt=np.sqrt, tanh=np.tanh, isinf=np.isinf, isnan=np.isnan, inf=math.inf
)


def _sizes(triple: tuple[int, ...]) -> tuple[int, ...]:
    return (*triple, *(1,) * (3 - len(triple)))


def _point(x: int, y: int, z: int) -> SimpleNamespace:
    return SimpleNamespace(x=x, y=y, z=z)


def _triple(sizes: tuple[int, ...]) -> SimpleNamespace:
    return _point(*_sizes(sizes))
