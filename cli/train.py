"""``handgrad train MODEL``: train a network and write a run folder."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np

from .. import __version__
from ..engine.checks import ConfigurationError, DataError
from ..engine.cores import available_cores
from ..engine.initializers import BY_NAME
from . import compilers, losses, runs
from .console import json_option, note
from .options import data_options, device_option, one_text, resolve_device, threads_option
from .session import Session

LEARNING_RATES = {"adam": 0.003, "momentum": 0.01, "sgd": 0.05}
EPOCHS, BATCH_SIZE = 3, 64
SHAPES = {"mnist": (1, 28, 28), "fashion": (1, 28, 28), "mnist-5k": (1, 28, 28)}  # known before the data are read
READ_AHEAD = ("mnist", "fashion")
TOY_EPOCHS, TOY_RATE = 20, 10  # a net of a few neurons takes more epochs, and bears rates so many times as high


@click.command(short_help="Train a network on MNIST or other data.")
@click.argument("model", nargs=-1)
@data_options
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help=f"Passes over the training part.  [default: {EPOCHS}; toys {TOY_EPOCHS}]",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help=f"Samples per step.  [default: {BATCH_SIZE}; perceptron 1]"
)
@click.option("--loss", type=click.Choice(losses.NAMES), help="[default: by the last layer]")
@click.option("--init", type=click.Choice(list(BY_NAME)), help="How weights start.  [default: by layer, he for most]")
@click.option("--optimizer", type=click.Choice(runs.OPTIMIZERS), help="[default: adam; sgd for the perceptron]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.  [default: by optimizer]")
@click.option("--schedule", type=click.Choice(runs.SCHEDULES), help="How the rate falls.  [default: cosine]")
@click.option("--validation", type=click.IntRange(min=1), help="Samples cut from the training images.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only so many training samples.")
@click.option("--seed", type=click.IntRange(min=0), help="Of parameters, shuffles and splits.  [default: 0]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="[default: float32]")
@device_option
@threads_option
@click.option("--out", type=click.Path(), help="Run folder.  [default: runs/<time>-<model>]")
@click.option("--resume", type=click.Path(), help="Continue an interrupted run (a folder, or last).")
@click.option(
    "--target-accuracy", type=click.FloatRange(0, 100), help="Exit with 1 if the test accuracy, in %, is below."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no notes; results only.")
@json_option
def command(
    model: tuple[str, ...], resume: str | None, target_accuracy: float | None, quiet: bool, as_json: bool, **asked
):
    """Train MODEL: lenet5, lenet5-1998, mlp, or a text.

    A text is a chain of layers with > between them, in quotes: "conv 6@5x5 same > relu > maxpool 2 > dense 10". Layers
    are conv FILTERS@SIZE, convtranspose FILTERS@SIZE, maxpool SIZE, avgpool SIZE, globalavgpool, globalmaxpool,
    upsample SIZE, dense FEATURES, rnn UNITS, reshape SIZES, flatten, batchnorm, lrn SIZE, dropout RATE, relu,
    leakyrelu, sigmoid, tanh, step, linear, softmax and logsoftmax; behind the size of a window stand same, valid,
    pad N or stride N, of a kernel also dilation N or groups N; the README has every word. The loss is the cross entropy
    of the softmax of the last layer's values, unless that layer is softmax (cross entropy), sigmoid (binary cross
    entropy) or step (the perceptron rule), or --loss says otherwise.

    A part of the training images is kept for validation; the test images are read once, at the end, with the parameters
    of the best epoch. Ctrl-C saves a checkpoint; --resume continues from it, bit for bit as if nothing had happened.
    """
    started = time.perf_counter()
    model = one_text(model)
    if resume:
        session = _resume(model, resume, asked, quiet)
    else:
        if not model:
            raise ConfigurationError(
                "train", got="no MODEL", expected="a name or a text", remedy="try: handgrad train lenet5"
            )
        session = _new(model, asked, quiet)
    signal_number = session.train(quiet, as_json)
    if signal_number is not None:
        return session.report_interruption(signal_number, as_json, time.perf_counter() - started)
    return session.report(target_accuracy, as_json, time.perf_counter() - started)


def _new(model: str, asked: dict, quiet: bool) -> Session:
    """Check everything that was asked for, then make the run folder."""
    reading = _read_ahead(asked)
    model, explanation = losses.with_perceptron_rule(model)
    device = resolve_device(asked["device"])
    from ..engine.models.build import build

    known_shape = SHAPES.get(asked["data_name"] or "mnist")
    if known_shape:
        build(model, known_shape)  # who misspells it is told at once
    compilers.get_ready()
    name, (splits, train, scale, shift) = _load_data(asked, reading, quiet)
    network = build(model, train.sample_shape, len(train.classes), dtype=asked["dtype"] or "float32", threads=1)
    loss = losses.choose(asked["loss"], network)
    kind = asked["optimizer"] or ("sgd" if loss == "perceptron" else "adam")
    is_toy = name.startswith("toy:")
    config = runs.Config(
        model=model,
        data=name,
        input_shape=list(train.sample_shape),
        class_names=list(train.classes),
        scale=scale.tolist(),
        shift=shift.tolist(),
        optimizer=kind,
        optimizer_settings={"learning_rate": asked["lr"] or LEARNING_RATES[kind] * (TOY_RATE if is_toy else 1)},
        schedule=asked["schedule"] or "cosine",
        dtype=asked["dtype"] or "float32",
        epochs=asked["epochs"] or (TOY_EPOCHS if is_toy else EPOCHS),
        batch_size=asked["batch_size"] or (1 if loss == "perceptron" else BATCH_SIZE),
        seed=asked["seed"] or 0,
        threads=asked["threads"] or available_cores(),
        validation=len(splits.validation),
        limit=asked["limit"],
        source=splits.source,
        loss=loss,
        initializer=asked["init"],
        device=device,
    )
    if explanation and not quiet:
        note(explanation)
    session = Session(config, splits, train)
    session.folder = runs.new_folder(asked["out"], model)
    session.write("config.json", json.dumps({"handgrad": __version__, **asdict(config)}, indent=1))
    session.write("env.json", json.dumps(runs.environment(), indent=1))
    return session


def _resume(model: str | None, resume: str, asked: dict, quiet: bool) -> Session:
    """Open an interrupted run; what it computes was decided when it started."""
    from ..engine import checkpoint

    decided = [name for name, value in asked.items() if value is not None and name not in ("device", "data_dir")]
    if model or decided:
        given = ", ".join([*([f"MODEL {model}"] if model else []), *(f"--{n.replace('_', '-')}" for n in decided)])
        raise ConfigurationError("--resume", got=given, expected="nothing else: the run folder says how to continue")
    folder = runs.find(resume)
    config = runs.read_config(folder)
    config = replace(config, device=resolve_device(config.device if asked["device"] == "auto" else asked["device"]))
    splits = runs.load_data(config, data_dir=asked["data_dir"])
    train = _limited(splits.train, config.limit, config.seed)
    session = Session(config, splits, train)
    session.folder = folder
    session.training.progress = checkpoint.load(folder / "last.npz", session.network, session.optimizer)
    return session


def _limited(train, limit: int | None, seed: int):
    """Return so many training samples, chosen at random, in their order."""
    if limit is None or limit >= len(train):
        return train
    return train.subset(np.sort(np.random.default_rng([seed, 1]).permutation(len(train))[:limit]))


def _read_ahead(asked: dict) -> Future | None:
    """Begin to read files that lie on this machine, and to measure their pixels, during the imports of others.

    Unpacking leaves Python to them.

    The thread is a daemon, so that a start that fails, or is interrupted, need not wait for it.
    """
    if (asked["data_name"] or "mnist") not in READ_AHEAD:
        return None
    reading = Future()

    def read() -> None:
        try:
            reading.set_result(_load(asked, download=False))
        except Exception as error:  # raised again by who asks for the result
            reading.set_exception(error)

    threading.Thread(target=read, daemon=True).start()
    return reading


def _load(asked: dict, **how) -> tuple:
    """Return the splits of the data that were asked for, the training part that is used, and its scale and shift."""
    from ..datasets import load

    seed = asked["seed"] or 0
    settings = {"folder": asked["data_dir"], "seed": seed, "validation": asked["validation"]}
    splits = load(asked["data_name"] or "mnist", **settings, **how)
    train = _limited(splits.train, asked["limit"], seed)
    from ..engine.feed import standardize

    return splits, train, *standardize(train.images)


def _load_data(asked: dict, reading: Future | None, quiet: bool):
    """Return the name and what ``_load`` returns; the small sample stands in for an MNIST that cannot be had."""
    from ..datasets import DataNotFound
    from .data import download_progress

    name = asked["data_name"] or "mnist"
    if reading is not None:
        with suppress(DataNotFound):
            return name, reading.result()
    with download_progress() as progress:
        try:
            return name, _load(asked, progress=progress)
        except DataNotFound as missing:
            if asked["data_name"] or asked["data_dir"] or not Path(os.environ.get("HANDGRAD_DATA") or ".").is_dir():
                raise
            try:
                loaded = _load(asked | {"data_name": "mnist-5k", "data_dir": None})
            except DataError:
                raise missing from None
    if not quiet:
        note("MNIST is not on this machine and cannot be downloaded: training on mnist-5k, 5,000 of its images")
    return "mnist-5k", loaded
