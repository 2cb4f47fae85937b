"""``handgrad warmup``: compile all kernels now, so that nothing compiles later."""

from __future__ import annotations

import time

import click
import numpy as np

from .console import json_option, print_json


@click.command(short_help="Compile all kernels now.")
@click.option("--dtype", type=click.Choice(["float32", "float64", "both"]), default="float32", show_default=True)
@json_option
def command(dtype: str, as_json: bool):
    """Compile the kernels of every layer, loss and optimiser, and keep them in the cache folder."""
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
    texts = (  # the first in Winograd's tiles
        "conv 16@3x3 same > relu > conv 16@3x3 same > batchnorm > relu > maxpool 2 > dropout 0.5 > dense 2",
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
