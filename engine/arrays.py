"""The lane layout: 16 samples lie side by side in the last axis, ``x[block, c, i, j, lane]``.

Floor 0. A kernel is then the formula for one sample with the lane as its innermost loop, which the compiler turns
into vector instructions. Users never see lanes: this file converts between them and (N, C, H, W) or (N, features).
A mini-batch that is not a multiple of 16 is filled up with lanes of zeros. A single sample in inference may go without
lanes, (1, c, i, j, 1): the vectors are then filled by its own neighbouring numbers.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import LANES, SQUARE, copy_lanes, index, kernel, registers, transpose


def aligned_zeros(shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return zeros that begin on a cache line of 64 bytes.

    NumPy aligns to 16 bytes; then every second vector of 32 bytes lies across two cache lines, and kernels that wait
    for memory lose up to two fifths of their speed.
    """
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    memory = np.zeros(size * np.dtype(dtype).itemsize + 64, dtype=np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins on a cache line."""
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


class Buffers:
    """Arrays that are handed out and, where that is wanted, given back and handed out again in another shape.

    Parameters
    ----------
    dtype : numpy.dtype
    machine : Cpu or Cuda
        Where the memory is.
    reuse : bool

    Examples
    --------
    >>> from handgrad.engine.machines import Cpu
    >>> buffers = Buffers(np.dtype("float32"), Cpu, reuse=True)
    >>> first = buffers.take((2, 3, 16))
    >>> buffers.give_back(first.reshape(6, 16))
    >>> np.shares_memory(first, buffers.take((5, 16)))
    True
    """

    def __init__(self, dtype: np.dtype, machine, *, reuse: bool):
        self._dtype, self._machine, self._reuse = dtype, machine, reuse
        self._memory: dict[int, np.ndarray] = {}  # by address, which is also that of every view from the beginning
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array that nobody else has: the smallest that is free and large enough, or a new one."""
        size = math.prod(shape)
        fitting = [k for k, memory in enumerate(self._free) if memory.size >= size]
        if fitting:
            memory = self._free.pop(min(fitting, key=lambda k: self._free[k].size))
        else:
            memory = self._machine.zeros(size, self._dtype)
            self._memory[self._machine.address(memory)] = memory
        return memory[:size].reshape(shape)

    def give_back(self, array: np.ndarray) -> None:
        """Let others have the memory of an array or of a view of all of it; what came from elsewhere is left alone."""
        memory = self._memory.get(self._machine.address(array))
        if self._reuse and memory is not None:
            self._free.append(memory)


def blocks_for(samples: int, lanes: int = LANES) -> int:
    """Return how many blocks of so many lanes hold this many samples."""
    return -(-samples // lanes)


def pack(values: np.ndarray, lanes: np.ndarray) -> None:
    """Copy samples into lane layout and fill the lanes that are left over with zeros.

    Parameters
    ----------
    values : numpy.ndarray of shape (N, ...)
        Samples in user layout; converted to the dtype of ``lanes``.
    lanes : numpy.ndarray of shape (blocks, ..., width)
        Overwritten; holds at least N samples. The width is LANES on the CPU.
    """
    width = lanes.shape[-1]
    whole, rest = divmod(len(values), width)
    if whole:
        grouped = values[: whole * width].reshape(whole, width, *values.shape[1:])
        lanes[:whole] = np.moveaxis(grouped, 1, -1)  # (blocks, ..., LANES)
    if whole < len(lanes):
        lanes[whole:] = 0
    if rest:
        lanes[whole, ..., :rest] = np.moveaxis(values[whole * width :], 0, -1)


def unpack(lanes: np.ndarray, samples: int) -> np.ndarray:
    """Return the first ``samples`` samples of an array in lane layout as a new array in user layout.

    Parameters
    ----------
    lanes : numpy.ndarray of shape (blocks, ..., width)
    samples : int
        At most ``blocks * width``.

    Returns
    -------
    numpy.ndarray of shape (samples, ...)
    """
    together = np.moveaxis(lanes, -1, 1)  # (blocks, LANES, ...)
    return together.reshape(-1, *together.shape[2:])[:samples].copy()


STRETCH = 128  # features of 16 samples that stay in the nearest cache until samples and features change places
NEAR = LANES * STRETCH  # numbers


@kernel
def gather(images, chosen, scale, shift, x):
    """Copy the chosen samples into lane layout, scaled: x = scale * pixel + shift.

    Parameters
    ----------
    images : array of shape (N, features), uint8 or float
    chosen : int64 array of shape (blocks * LANES,)
        Index of the sample for each lane, -1 for a lane that stays zero.
    scale, shift : arrays of shape (features,), dtype of x
    x : array of shape (blocks, features, LANES)
    """
    blocks, features, _ = x.shape
    near, square = registers((LANES, STRETCH), NEAR, x), registers((LANES, LANES), SQUARE, x)
    for n in range(blocks):
        for first in range(0, features, STRETCH):
            count = min(STRETCH, features - first)
            for v in range(LANES):
                sample = chosen[n * LANES + v]
                if sample < 0:
                    for k in range(count):
                        near[v, k] = 0
                else:
                    for k in range(count):
                        at = index(first + k)
                        near[v, k] = scale[at] * images[sample, at] + shift[at]
            whole = count - count % LANES
            for k in range(0, whole, LANES):
                for v in range(LANES):
                    copy_lanes(square[v], near[v, k:])
                transpose(square)
                for m in range(LANES):
                    copy_lanes(x[n, index(first + k + m)], square[m])
            for k in range(whole, count):
                for v in range(LANES):
                    x[n, index(first + k), v] = near[v, k]


@kernel
def clear(array):
    """Set every element of a flat array to 0."""
    zero = array.dtype.type(0)
    for k in range(array.size):
        array[k] = zero


@kernel
def copy_into(target, source):
    """target = source, element by element, on flat arrays."""
    for k in range(target.size):
        target[k] = source[k]


@kernel
def add_into(total, part):
    """total = total + part, element by element, on flat arrays."""
    for k in range(total.size):
        total[k] += part[k]


class Workspace:
    """Memory for what layers need only while their kernels run: layers take turns with it.

    Parameters
    ----------
    machine : Cpu, OneSample or Cuda
    """

    def __init__(self, machine):
        self._machine = machine
        self._waiting: list[tuple[dict[str, np.ndarray], str, str]] = []

    def put(self, scratch: dict[str, np.ndarray], passing: dict[str, str]) -> dict[str, np.ndarray]:
        """Return a layer's arrays where the machine wants them.

        Parameters
        ----------
        scratch : dict of str to numpy.ndarray
        passing : dict of str to str
            Which of them lie in the workspace, from ``divide`` on, and under which name: arrays of one name share
            their memory, within the layer and with others. What they hold is lost.
        """
        placed = {key: array if key in passing else self._machine.put(array) for key, array in scratch.items()}
        self._waiting += [(placed, key, name) for key, name in passing.items() if key in scratch]
        return placed

    def divide(self) -> None:
        """Give all arrays that are waiting their place."""
        sizes: dict[tuple[str, np.dtype], int] = {}
        for placed, key, name in self._waiting:
            kind = name, placed[key].dtype
            sizes[kind] = max(sizes.get(kind, 0), placed[key].size)
        shared = {kind: self._machine.zeros((size,), kind[1]) for kind, size in sizes.items()}
        for placed, key, name in self._waiting:
            array = placed[key]
            placed[key] = shared[name, array.dtype][: array.size].reshape(array.shape)
