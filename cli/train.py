"""``handgrad train MODEL``: train a network and write a run folder."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from .. import __version__
from ..engine.checks import ConfigurationError, DataError
from . import runs
from .console import json_option, note, print_json
from .interrupts import catch_signals
from .options import data_options, device_option, one_text, resolve_device, threads_option

LEARNING_RATES = {"adam": 0.003, "momentum": 0.01, "sgd": 0.05}
EPOCHS, BATCH_SIZE = 3, 64


@click.command(short_help="Train a network on MNIST or other data.")
@click.argument("model", nargs=-1)
@data_options
@click.option("--epochs", type=click.IntRange(min=1), help=f"Passes over the training part.  [default: {EPOCHS}]")
@click.option("--batch-size", type=click.IntRange(min=1), help=f"Samples per step.  [default: {BATCH_SIZE}]")
@click.option("--optimizer", type=click.Choice(runs.OPTIMIZERS), help="[default: adam]")
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
    are conv FILTERS@SIZE, maxpool SIZE, avgpool SIZE, dense FEATURES, dropout RATE, flatten, relu, sigmoid, tanh,
    linear and softmax; behind a size stand same, valid, pad N, stride N, dilation N, groups N.

    A part of the training images is kept for validation; the test images are read once, at the end, with the parameters
    of the best epoch. Ctrl-C saves a checkpoint; --resume continues from it, bit for bit as if nothing had happened.
    """
    started = time.perf_counter()
    model = one_text(model)
    asked["device"] = resolve_device(asked["device"])
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


def _compile_in_two_processes(config: runs.Config) -> None:
    """When no kernel is compiled yet, let a second process begin at the other end of the step."""
    from ..engine.backend import kernels_cached
    from ..engine.workers import available_cores
    from .warmup import compile_behind

    if not kernels_cached() and available_cores() > 1:
        compile_behind(config.model, config.input_shape, config.optimizer, config.dtype)


def _new(model: str, asked: dict, quiet: bool) -> Session:
    """Check everything that was asked for, then make the run folder."""
    from ..engine.feed import standardize
    from ..engine.workers import available_cores

    name, splits = _load_data(asked, quiet)
    train = _limited(splits.train, asked["limit"], asked["seed"] or 0)
    scale, shift = standardize(train.images)
    kind = asked["optimizer"] or "adam"
    config = runs.Config(
        model=model,
        data=name,
        input_shape=list(train.sample_shape),
        class_names=list(train.classes),
        scale=scale.tolist(),
        shift=shift.tolist(),
        optimizer=kind,
        optimizer_settings={"learning_rate": asked["lr"] or LEARNING_RATES[kind]},
        schedule=asked["schedule"] or "cosine",
        dtype=asked["dtype"] or "float32",
        epochs=asked["epochs"] or EPOCHS,
        batch_size=asked["batch_size"] or BATCH_SIZE,
        seed=asked["seed"] or 0,
        threads=asked["threads"] or available_cores(),
        validation=len(splits.validation),
        limit=asked["limit"],
        source=splits.source,
    )
    session = Session(config, splits, train)
    session.folder = runs.new_folder(asked["out"], model)
    _compile_in_two_processes(config)
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


def _load_data(asked: dict, quiet: bool):
    """Return (name, splits); without a named data set, the small sample stands in for an MNIST that cannot be had."""
    from ..datasets import DataNotFound, load
    from .data import download_progress

    seed, validation, folder = asked["seed"] or 0, asked["validation"], asked["data_dir"]
    name = asked["data_name"] or "mnist"
    with download_progress() as progress:
        try:
            return name, load(name, folder=folder, seed=seed, validation=validation, progress=progress)
        except DataNotFound as missing:
            if asked["data_name"] or folder or not Path(os.environ.get("HANDGRAD_DATA") or ".").is_dir():
                raise
            try:
                splits = load("mnist-5k", seed=seed, validation=validation)
            except DataError:
                raise missing from None
    if not quiet:
        note("MNIST is not on this machine and cannot be downloaded: training on mnist-5k, 5,000 of its images")
    return "mnist-5k", splits


class Session:
    """A training with its data and its run folder.

    Parameters
    ----------
    config : runs.Config
    splits : Splits
    train : Dataset
        The training part that is used.
    """

    folder: Path

    def __init__(self, config: runs.Config, splits, train):
        from ..engine import schedules
        from ..engine.losses.softmax_cross_entropy import SoftmaxCrossEntropy
        from ..engine.models.build import build
        from ..engine.training import Training

        self.config, self.splits = config, splits
        self.network = build(
            config.model,
            tuple(config.input_shape),
            config.classes,
            dtype=config.dtype,
            seed=config.seed,
            threads=config.threads,
        )
        self.optimizer = make_optimizer(config.optimizer, config.optimizer_settings)
        self.training = Training(
            self.network,
            SoftmaxCrossEntropy(),
            self.optimizer,
            runs.feed(config, train),
            runs.feed(config, splits.validation),
            epochs=config.epochs,
            batch_size=config.batch_size,
            schedule=getattr(schedules, config.schedule),
            seed=config.seed,
        )

    def write(self, name: str, text: str) -> None:
        """Write a file of the run folder, whole or not at all."""
        from ..engine.checkpoint import write_atomically

        write_atomically(self.folder / name, (text + "\n").encode())

    def save(self, name: str) -> None:
        """Write a checkpoint."""
        from ..engine import checkpoint

        checkpoint.save(self.folder / name, self.network, self.optimizer, self.training.progress)

    def train(self, quiet: bool, as_json: bool) -> int | None:
        """Run the training; return None when it is done, or the signal that interrupted it, after a checkpoint."""
        from .progress import TrainingProgress

        progress, at = TrainingProgress(self.training, quiet), self.training.progress
        if not quiet:
            self._introduce()
        with catch_signals() as caught:
            for word in self.training.run():
                if word == "epoch":
                    progress.clear()
                    self._finish_epoch(quiet or as_json)
                    at = self.training.progress
                else:
                    progress.step()
                if caught and at.epoch < self.training.epochs:
                    progress.clear()
                    self.save("last.npz")
                    return caught[0]
        return None

    def _introduce(self) -> None:
        from ..engine import Softmax

        c, training = self.config, self.training
        note(
            f"{c.model}: {self.network.parameter_count:,} parameters, {c.dtype}; {c.data} from {self.splits.source}: "
            f"{len(training.train):,} samples to train, {len(training.validation):,} to validate, "
            f"{len(self.splits.test):,} to test; softmax cross entropy; {c.optimizer}, rate "
            f"{training.base_learning_rate:g}, {c.schedule}; {c.threads} threads; writing {self.folder}"
        )
        at = training.progress
        if at.epoch == training.epochs:
            note(f"{self.folder} is complete, {at.epoch} of {at.epoch} epochs: nothing is left to train")
        elif at.epoch or at.batch:
            note(f"continuing in epoch {at.epoch + 1} after {at.batch} of {training.batches} mini-batches")
        if isinstance(self.network.outputs[0].layer, Softmax):
            note(
                "the loss contains the softmax already (softmax_cross_entropy.1), and this network ends with one: "
                "it is applied twice; leave the last softmax away"
            )

    def _finish_epoch(self, silent: bool) -> None:
        at = self.training.progress
        self.write("metrics.jsonl", "\n".join(json.dumps(entry) for entry in at.history))
        self.save("last.npz")
        if at.best_epoch == at.epoch:
            self.save("best.npz")
        if not silent:
            e = at.history[-1]
            click.echo(
                f"epoch {e['epoch']}/{self.training.epochs}  train loss {brief(e['train_loss'])}  "
                f"accuracy {e['train_accuracy']:.2%}  validation loss {brief(e['validation_loss'])}  "
                f"accuracy {e['validation_accuracy']:.2%}  {e['seconds']:.1f} s  {e['images_per_second']:,.0f} images/s"
            )

    def summary(self, seconds: float) -> dict[str, object]:
        """Return what is known of the run as plain values."""
        from ..engine.backend import compile_seconds

        at = self.training.progress
        return {
            "run": str(self.folder),
            "model": self.config.model,
            "data": self.config.data,
            "source": self.splits.source,
            "parameters": self.network.parameter_count,
            "seed": self.config.seed,
            "threads": self.config.threads,
            "epochs": at.history,
            "best_epoch": at.best_epoch,
            "seconds": seconds,
            "compile_seconds": compile_seconds(),
        }

    def report_interruption(self, number: int, as_json: bool, seconds: float) -> int:
        """Say how to continue and return the exit code."""
        at = self.training.progress
        note(
            f"interrupted in epoch {at.epoch + 1} after {at.batch} of {self.training.batches} mini-batches; "
            f"continue with: handgrad train --resume {self.folder}"
        )
        if as_json:
            print_json({**self.summary(seconds), "interrupted": True})
        return 128 + number

    def report(self, target: float | None, as_json: bool, seconds: float) -> int:
        """Read the test images with the parameters of the best epoch, say the result, return the exit code."""
        from ..engine import checkpoint
        from ..engine.metrics import evaluate

        checkpoint.load(self.folder / "best.npz", self.network)
        result = evaluate(self.network, runs.feed(self.config, self.splits.test), self.training.loss)
        at = self.training.progress
        last = {
            "test_loss": result.loss,
            "test_accuracy": result.accuracy,
            "test_images": result.samples,
            "epoch_tested": at.best_epoch,
        }
        self.write("metrics.jsonl", "\n".join(json.dumps(entry) for entry in [*at.history, last]))
        reached = target is None or 100 * result.accuracy >= target
        if as_json:
            print_json({**self.summary(seconds), **last, "interrupted": False, "target_reached": reached})
        else:
            click.echo(
                f"test accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} images, loss "
                f"{result.loss:.4f}) with the parameters of epoch {at.best_epoch}, the best in validation"
            )
            click.echo(f"look inside: handgrad trace {self.folder}")
        if not reached:
            note(f"the test accuracy is below the target of {target:g} %")
        return 0 if reached else 1


def brief(loss: float) -> str:
    """Return a loss with four decimals, or as a power of ten when it is out of hand."""
    return f"{loss:.4f}" if loss < 1e4 else f"{loss:.2e}"


def make_optimizer(kind: str, settings: dict[str, float]):
    """Return an optimiser from its name and its hyper-parameters."""
    from ..engine import SGD, Adam, Momentum

    return {"sgd": SGD, "momentum": Momentum, "adam": Adam}[kind](**settings)
