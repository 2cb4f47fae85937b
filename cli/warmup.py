"""``handgrad warmup``: compile all kernels now, so that nothing compiles later."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import click
import numpy as np

from .console import json_option, print_json
from .options import parse_shape

SAMPLES = 64  # tiles of a layer may depend on how many blocks of samples there are: as many as in a training


@click.command(short_help="Compile all kernels now.")
@click.option("--dtype", type=click.Choice(["float32", "float64", "both"]), default="float32", show_default=True)
@click.option("--behind", metavar="MODEL", hidden=True, help="Compile what a training step of MODEL needs, last first.")
@click.option("--input-shape", default="1x28x28", hidden=True)
@click.option("--optimizer", default="adam", hidden=True)
@json_option
def command(dtype: str, behind: str | None, input_shape: str, optimizer: str, as_json: bool):
    """Compile the kernels of every layer, loss and optimiser, and keep them in the cache folder."""
    if behind:
        compile_backward(behind, parse_shape(input_shape), optimizer, dtype)
        return
    from ..engine.backend import cache_directory, kernels_ready

    started = time.perf_counter()
    for one in ("float32", "float64") if dtype == "both" else (dtype,):
        compile_everything(one)
    kernels = kernels_ready()
    total = time.perf_counter() - started
    if as_json:
        print_json({"kernels": kernels, "seconds": total, "cache": str(cache_directory())})
    else:
        click.echo(f"{kernels} kernels ready after {total:.1f} s, in {cache_directory()}")


def compile_behind(model: str, input_shape: Sequence[int], optimizer: str, dtype: str) -> None:
    """Start a second process that compiles a training step from its end, while this one compiles from its start.

    Numba compiles one kernel at a time in a process; two processes share the cache, and meet in the middle.

    Parameters
    ----------
    model : str
    input_shape : sequence of int
    optimizer, dtype : str
        As the training's own.
    """
    command = [
        sys.executable,
        "-m",
        "handgrad",
        "warmup",
        "--behind",
        model,
        "--input-shape",
        "x".join(map(str, input_shape)),
        "--optimizer",
        optimizer,
        "--dtype",
        dtype,
    ]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with suppress(OSError):  # then this process compiles everything
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        threading.Thread(target=process.wait, daemon=True).start()


def compile_backward(model: str, input_shape: Sequence[int], optimizer: str, dtype: str) -> None:
    """Compile what a training step calls, what it calls last first but long kernels before short ones, then run steps.

    Long ones last would leave one process waiting for the other where they meet.

    Parameters
    ----------
    model, input_shape, optimizer, dtype
        As in ``compile_behind``.
    """
    from ..engine.backend import kernel_calls, typeof
    from ..engine.feed import Feed
    from ..engine.models.build import build
    from ..engine.training import TrainingStep
    from .losses import choose, make
    from .session import make_optimizer

    blank, one = np.zeros((SAMPLES, *input_shape), np.uint8), np.ones(1)
    feed = Feed(blank, np.zeros(SAMPLES, np.int64), one, 0 * one)

    def new_step(threads: int) -> TrainingStep:
        network = build(model, tuple(input_shape), dtype=dtype, threads=threads)
        return TrainingStep(network, make(choose(None, network), network), make_optimizer(optimizer, {}), feed)

    step = new_step(threads=1)
    step.pass_for(SAMPLES).as_programs = False  # programs are made of compiled kernels
    with kernel_calls(run=False) as calls:
        step(np.arange(SAMPLES))
    needed = list(dict.fromkeys((kernel, tuple(map(typeof, args))) for kernel, args in calls))

    def length(item) -> int:
        return len(item[0].py_func.__code__.co_code)

    average = sum(map(length, needed)) / len(needed)
    for kernel, kinds in sorted(reversed(needed), key=lambda item: length(item) < average):
        kernel.compile(kinds)
    step = new_step(threads=2)  # who wait for each other, in a kernel
    for samples in (SAMPLES, 1):  # the last mini-batch of an epoch may be so small that it has tiles of its own
        step(np.arange(samples))


def compile_everything(dtype: str) -> None:
    """Run one training step, an evaluation and a prediction through every layer, loss and optimiser.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    """
    from ..engine import SGD, Adam, Momentum
    from ..engine.cases import CASES
    from ..engine.feed import Feed
    from ..engine.metrics import evaluate
    from ..engine.models.build import build
    from ..engine.training import TrainingStep
    from .losses import choose, make

    for cases in CASES.values():
        for case in cases:
            case.check(dtype=dtype)
    rng, one = np.random.default_rng(0), np.ones(1)
    pixels, labels = rng.integers(0, 255, (4, 1, 14, 14)).astype(np.uint8), np.array([0, 1, 0, 1])
    text = "conv 2@3x3 same > relu > maxpool 2 > conv 2@2x2 > tanh > avgpool 2 > dropout 0.5 > dense 16 > dense 2"
    for optimizer in (SGD(), Momentum(), Adam()):
        network = build(text, (1, 14, 14), 2, dtype=dtype, threads=1)
        loss, feed = make(choose(None, network), network), Feed(pixels, labels, one, 0 * one)
        TrainingStep(network, loss, optimizer, feed)(np.arange(4))
        evaluate(network, feed, loss)
    features = Feed(rng.normal(size=(4, 196)).astype(np.float32), labels, one, 0 * one)
    network = build("dense 2", (196,), 2, dtype=dtype, threads=1)
    TrainingStep(network, make(choose(None, network), network), SGD(), features)(np.arange(4))
    many = Feed(np.repeat(pixels, 16, axis=0), np.repeat(labels, 16), one, 0 * one)
    texts = (
        "conv 16@3x3 same > relu > conv 16@3x3 same > batchnorm > relu > maxpool 2 > dense 2",  # in Winograd's tiles
        "conv 6@5x5 same > relu > maxpool 2 > conv 16@5x5 > tanh > avgpool 2 > dense 9 > relu > dense 2",
        "conv 6@5x5 same > tanh > conv 16@5x5 > relu > dense 9 > sigmoid > dense 9 > tanh > dense 2",
    )
    pools = ("maxpool 2", "avgpool 2", "maxpool 3 stride 2")  # which go back through the activation in front of them
    for activation in ("relu", "tanh", "sigmoid"):
        texts += (" > ".join(f"conv 2@1x1 > {activation} > {pool}" for pool in pools) + " > dense 2",)
    for text in texts:
        network = build(text, (1, 14, 14), 2, dtype=dtype, threads=2)  # which wait for each other
        TrainingStep(network, make(choose(None, network), network), SGD(), many)(np.arange(64))
        network.forward(pixels[:1].astype(dtype))
