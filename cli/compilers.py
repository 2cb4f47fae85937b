"""Two processes that compile what a training step needs: Numba compiles one kernel at a time in each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

JOBS = 1000  # more kernels than a step has; their numbers are 2,000 bytes, which fit into a pipe that nobody reads yet
DIGITS = 2  # bytes of a number


class Request(NamedTuple):
    """A training step, by what decides its kernels."""

    model: str
    input_shape: tuple[int, ...]
    optimizer: str
    dtype: str
    batch_size: int
    loss: str | None

    @classmethod
    def parse(cls, text: str) -> Request:
        """Read what ``str`` wrote."""
        values = json.loads(text)
        return cls(values[0], tuple(values[1]), *values[2:])

    def __str__(self) -> str:
        return json.dumps(self)


class SecondCompiler:
    """A second process that takes turns with this one, so that both have finished when no kernel is left.

    Both make the same list of kernels. The numbers 0, 1, 2, ... lie in a pipe: whoever takes one out compiles that
    kernel. What the other has compiled comes from the cache.

    Parameters
    ----------
    request : Request
    """

    def __init__(self, request: Request):
        self._request = request
        self._turns, numbers = os.pipe()
        with open(numbers, "wb") as file:
            file.write(b"".join(number.to_bytes(DIGITS, "little") for number in range(JOBS)))
        command = [sys.executable, "-m", "handgrad", "warmup", "--beside", str(request)]
        streams = {"stdin": self._turns, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = None
        with suppress(OSError):  # then this process compiles everything
            self._process = subprocess.Popen(command, start_new_session=True, **streams)
            threading.Thread(target=self._process.wait, daemon=True).start()

    def compile(self) -> None:
        """Compile, and return when neither process has anything left to do."""
        compile_in_turns(self._turns, kernels_of_a_step(self._request))
        os.close(self._turns)
        if self._process is not None:
            with self._process.stdout as finished:
                finished.read(1)  # nothing, where it came to an end before; then kernels are compiled when needed


def compile_beside(request: Request) -> None:
    """Be the second process; at last compile what a step on a single sample, an epoch's last mini-batch, may need.

    Parameters
    ----------
    request : Request
    """
    compile_in_turns(sys.stdin.fileno(), kernels_of_a_step(request))
    with suppress(OSError):
        os.write(sys.stdout.fileno(), b".")
    new_step(request, threads=2)(np.arange(1))


def compile_in_turns(turns: int, kernels: Sequence[tuple]) -> None:
    """Compile the kernels whose numbers come out of a pipe, as long as there are any.

    Parameters
    ----------
    turns : int
        File descriptor.
    kernels : sequence of (Kernel, tuple of numba.types.Type)
    """
    while number := os.read(turns, DIGITS):
        place = int.from_bytes(number, "little")
        if place >= len(kernels):
            return
        kernel, types = kernels[place]
        kernel.compile(types)


def kernels_of_a_step(request: Request) -> list[tuple]:
    """Return what a training step compiles, long kernels first: the last ones decide who waits for whom.

    Returns
    -------
    list of (Kernel, tuple of numba.types.Type)
    """
    from ..engine.backend import kernel_calls, typeof
    from ..engine.workers import Workers, call_every_kernel

    class OneAfterTheOther(Workers):
        """The calling thread does everybody's part, and nobody waits."""

        def run(self, function):
            for rank in range(self.size):
                function(rank)

        def barrier(self, team=None):
            pass

    step = new_step(request, threads=2)
    step.network.workers = OneAfterTheOther(2)
    step.pass_for(request.batch_size).as_programs = False  # programs are made of compiled kernels
    with kernel_calls(run=False) as calls:
        call_every_kernel()
        step(np.arange(request.batch_size))
    kernels = dict.fromkeys((kernel, tuple(map(typeof, args))) for kernel, args in calls)
    return sorted(kernels, key=lambda item: -len(item[0].py_func.__code__.co_code))


def new_step(request: Request, threads: int):
    """Return a training step on blank samples.

    Parameters
    ----------
    request : Request
    threads : int
    """
    from ..engine.feed import Feed
    from ..engine.models.build import build
    from ..engine.training import TrainingStep
    from .losses import choose, make
    from .session import make_optimizer

    blank, one = np.zeros((request.batch_size, *request.input_shape), np.uint8), np.ones(1)
    feed = Feed(blank, np.zeros(request.batch_size, np.int64), one, 0 * one)
    network = build(request.model, request.input_shape, dtype=request.dtype, threads=threads)
    return TrainingStep(
        network, make(choose(request.loss, network), network), make_optimizer(request.optimizer, {}), feed
    )
