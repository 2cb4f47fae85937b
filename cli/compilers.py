"""Before a first training step: two processes compile its kernels, for Numba compiles one at a time in each of them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..engine.cores import available_cores
from . import losses, runs

PATIENCE = 30.0  # seconds for the other's last kernel; then this process compiles it when the step calls it


def get_ready() -> None:
    """Where nothing has been compiled yet, make the imports for it: part of a second, while other threads read."""
    from ..engine import backend

    if not any(backend.CACHE_DIRECTORY.glob("step-*")):
        backend.get_ready()


def is_compiled(config: runs.Config) -> bool:
    """Return whether such a training has begun before, with the same sources and versions.

    Parameters
    ----------
    config : runs.Config
    """
    return _stamp(config).exists()


def _stamp(config: runs.Config) -> Path:
    """Return the empty file that says so: looking at each kernel's would take a tenth of a second of every start."""
    from ..engine.backend import CACHE_DIRECTORY

    deciding = config.model, config.input_shape, config.classes, config.dtype, config.batch_size, config.loss
    deciding += config.optimizer, config.threads
    return CACHE_DIRECTORY / f"step-{hashlib.sha256(repr(deciding).encode()).hexdigest()[:16]}"


def compile_step(config: runs.Config, train) -> None:
    """Compile what a training step needs; return when all of it is in this process or in the cache.

    Parameters
    ----------
    config : runs.Config
    train : Dataset
        The samples of the training.
    """
    samples = train.subset(np.arange(min(config.batch_size, len(train))))
    kernels = kernels_of_a_step(config, samples)
    if available_cores() > 1:
        _compile_in_two_processes(kernels, config, samples, len(train) % config.batch_size)
    else:
        for kernel, types in kernels:
            kernel.compile(types)
    with suppress(OSError):  # as the kernels, whose cache may be read-only
        _stamp(config).touch()


def _compile_in_two_processes(kernels: list[tuple], config: runs.Config, samples, rest: int) -> None:
    """Take turns with a second process until no kernel is left and both have finished.

    Where the system can copy a running process, the second one begins with all that this one has imported.
    """
    import multiprocessing  # later starts have no need of it

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    turns = context.Value("i", 0)
    finished, end = context.Pipe(duplex=False)
    known = kernels if context.get_start_method() == "fork" else None
    second = context.Process(target=_be_second, args=(turns, end, known, config, samples, rest), daemon=True)
    with suppress(OSError):  # then this process compiles everything
        second.start()
    end.close()
    compile_in_turns(turns, kernels)
    finished.poll(PATIENCE)  # until the other closes its end, be it by coming to an untimely one
    finished.close()


def _be_second(turns, end, kernels: list[tuple] | None, config: runs.Config, samples, rest: int) -> None:
    """Compile in turns with the training, then what an epoch's last and smaller mini-batch needs besides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    compile_in_turns(turns, kernels_of_a_step(config, samples) if kernels is None else kernels)
    end.close()
    if rest:
        new_step(config, samples)(np.arange(rest))


def compile_in_turns(turns, kernels: list[tuple]) -> None:
    """Compile kernels whose turn nobody else has taken, as long as there are any.

    Parameters
    ----------
    turns : multiprocessing.Value of int
        How many have been taken.
    kernels : list of (Kernel, tuple of numba.types.Type)
        The same in all processes.
    """
    while True:
        with turns.get_lock():
            turn, turns.value = turns.value, turns.value + 1
        if turn >= len(kernels):
            return
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
    from ..engine.backend import kernel_calls, typeof
    from ..engine.workers import Workers, call_every_kernel

    class OneAfterTheOther(Workers):
        """The calling thread does everybody's part, and nobody waits."""

        def run(self, function):
            for rank in range(self.size):
                function(rank)

        def barrier(self, team=None):
            pass

    step = new_step(config, samples)
    step.network.workers = OneAfterTheOther(config.threads)
    step.pass_for(len(samples)).as_programs = False  # programs are made of compiled kernels
    with kernel_calls(run=False) as calls:
        step(np.arange(len(samples)))
        if config.threads > 1:
            call_every_kernel()
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
