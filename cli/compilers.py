"""Before a first training step: several processes compile its kernels, for Numba compiles one at a time in each."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from contextlib import suppress

import numpy as np

from ..engine.cores import available_cores
from . import losses, runs

PROCESSES = 4  # at most, and one for each core: a step has some thirty kernels, of which the longest is a tenth
PATIENCE = 30.0  # seconds for the last kernels of the others; then this process compiles them when the step calls them


def get_ready() -> None:
    """Where nothing has been compiled yet, make the imports for it: part of a second, while other threads read."""
    from ..engine import backend

    if not any(backend.CACHE_DIRECTORY.glob("*.bin")):
        backend.get_ready()


class Preparation:
    """What is to be done before the first step of a training.

    Parameters
    ----------
    config : runs.Config
    train : Dataset
        The samples of the training.

    Attributes
    ----------
    missing : list of int
        Places in ``kernels_of_a_step`` of the kernels that no process has compiled yet; empty on a GPU.
    """

    def __init__(self, config: runs.Config, train):
        from ..engine.backend import CACHE_DIRECTORY

        N, self._rest = min(config.batch_size, len(train)), len(train) % config.batch_size
        deciding = config.model, config.input_shape, config.classes, config.dtype, config.loss, config.optimizer
        deciding += config.threads, N, self._rest
        # says that nothing is missing: to find that out takes a tenth of a second
        self._stamp = CACHE_DIRECTORY / f"step-{hashlib.sha256(repr(deciding).encode()).hexdigest()[:16]}"
        self._config, self._samples = config, train.subset(np.arange(N))
        self._kernels: list[tuple] = []
        self.missing: list[int] = []
        if config.device == "cpu" and not self._stamp.exists():
            self._kernels = kernels_of_a_step(config, self._samples)
            self.missing = [k for k, (kernel, types) in enumerate(self._kernels) if not kernel.is_cached(types)]

    def compile(self) -> None:
        """Compile what is missing, in several processes; return when it is in this process or in the cache."""
        processes = min(available_cores(), PROCESSES, len(self.missing))
        if processes > 1:
            self._compile_together(processes)
        else:
            for k in self.missing:
                kernel, types = self._kernels[k]
                kernel.compile(types)
        if self._kernels and all(kernel.is_cached(types) for kernel, types in self._kernels):
            with suppress(OSError):  # as the kernels, whose cache may be read-only
                self._stamp.parent.mkdir(parents=True, exist_ok=True)
                self._stamp.touch()

    def _compile_together(self, processes: int) -> None:
        """Take turns with other processes until nothing is missing and all have finished.

        Where the system can copy a running process, the others begin with all that this one has imported.
        """
        from multiprocessing import connection, get_context  # later starts have no need of them

        context = get_context("fork" if sys.platform == "linux" else "spawn")
        kernels = [self._kernels[k] for k in self.missing]
        known = kernels if context.get_start_method() == "fork" else None
        finished, end = context.Pipe(duplex=False)
        with finished:
            turns = None
            with end, suppress(OSError, ImportError):  # where nothing can be shared, the step compiles what it calls
                turns = context.Value("i", 0)
                for rank in range(1, processes):
                    rest = self._rest if rank == 1 else 0
                    work = turns, end, known, self.missing, self._config, self._samples, rest
                    context.Process(target=_help, args=work, daemon=True).start()
            if turns is not None and compile_in_turns(turns, kernels) < len(kernels):
                # until the last of the others closes its end, be it by coming to an untimely one
                connection.wait([finished], PATIENCE)


def _help(turns, end, kernels: list[tuple] | None, missing: list[int], config: runs.Config, samples, rest: int) -> None:
    """Compile in turns with the training, then what an epoch's last and smaller mini-batch needs besides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    if kernels is None:
        everything = kernels_of_a_step(config, samples)
        kernels = [everything[k] for k in missing]
    compile_in_turns(turns, kernels)
    end.close()
    if rest:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not all(kernel.is_cached(types) for kernel, types in kernels):
            time.sleep(0.05)
        new_step(config, samples)(np.arange(rest))


def compile_in_turns(turns, kernels: list[tuple]) -> int:
    """Compile kernels whose turn nobody else has taken, as long as there are any; return how many.

    Parameters
    ----------
    turns : multiprocessing.Value of int
        How many have been taken.
    kernels : list of (Kernel, tuple of numba.types.Type)
        The same in all processes.
    """
    compiled = 0
    while True:
        with turns.get_lock():
            turn, turns.value = turns.value, turns.value + 1
        if turn >= len(kernels):
            return compiled
        compiled += 1
        kernel, types = kernels[turn]
        kernel.compile(types)


def kernels_of_a_step(config: runs.Config, samples) -> list[tuple]:
    """Return what a training step calls, long kernels first: the last ones decide who waits for whom.

    Parameters
    ----------
    config : runs.Config
    samples : Dataset
        A mini-batch.

    Returns
    -------
    list of (Kernel, tuple of numba.types.Type)
    """
    from ..engine.backend import kernel_calls, replay, typeof
    from ..engine.program import JOB
    from ..engine.workers import Workers, call_every_kernel

    class OneAfterTheOther(Workers):
        """The calling thread does everybody's part, and nobody waits."""

        def run(self, function):
            for rank in range(self.size):
                function(rank)

        def barrier(self, team=None):
            pass

        def all_reduce_sum(self, rank, array, team=None):
            pass

    step = new_step(config, samples)
    step.network.workers = OneAfterTheOther(config.threads)
    step.pass_for(len(samples)).as_programs = False  # programs are made of compiled kernels
    with kernel_calls(run=False) as calls:  # so that Python in between sees zeros, and None where a kernel returns
        step(np.arange(len(samples)))
        if config.threads > 1:
            call_every_kernel()
        else:
            replay(np.zeros(JOB, dtype=np.int64))
    kernels = dict.fromkeys((kernel, tuple(map(typeof, args))) for kernel, args in calls)
    return sorted(kernels, key=lambda item: -len(item[0].py_func.__code__.co_code))


def new_step(config: runs.Config, samples):
    """Return a step of such a training whose network is not that of the training.

    Parameters
    ----------
    config : runs.Config
    samples : Dataset
    """
    from ..engine.models.build import build
    from ..engine.training import TrainingStep
    from .session import make_optimizer

    kinds = {"dtype": config.dtype, "threads": config.threads}
    network = build(config.model, tuple(config.input_shape), config.classes, **kinds)
    loss, optimizer = losses.make(config.loss, network), make_optimizer(config.optimizer, config.optimizer_settings)
    return TrainingStep(network, loss, optimizer, runs.feed(config, samples))
