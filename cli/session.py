"""A training run with its data and its folder: what ``handgrad train`` does between its first and its last line."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import compilers, losses, runs
from .console import note, print_json
from .interrupts import catch_signals
from .lines import units_alike, why_not


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
        from ..engine.models.build import build
        from ..engine.training import Training

        self.config, self.splits, self._train = config, splits, train
        self.network = build(
            config.model,
            tuple(config.input_shape),
            config.classes,
            dtype=config.dtype,
            seed=config.seed,
            threads=config.threads,
            initializer=config.initializer,
            device=config.device,
        )
        self.optimizer = make_optimizer(config.optimizer, config.optimizer_settings)
        self.training = Training(
            self.network,
            losses.make(config.loss, self.network),
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

        at = self.training.progress
        is_complete = at.epoch == self.training.epochs
        preparation = None if is_complete else compilers.Preparation(self.config, self._train)
        progress = TrainingProgress(self.training, quiet, preparation is not None and bool(preparation.missing))
        if not quiet:
            self._introduce()
        with catch_signals() as caught:
            if preparation is not None:
                preparation.compile()
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
        c, training = self.config, self.training
        note(
            f"{c.model}: {self.network.parameter_count:,} parameters, {c.dtype}; {c.data} from {self.splits.source}: "
            f"{len(training.train):,} samples to train, {len(training.validation):,} to validate, "
            f"{len(self.splits.test):,} to test; {losses.describe(training.loss)}; {c.optimizer}, rate "
            f"{training.base_learning_rate:g}, {c.schedule}; {self._machine()}; writing {self.folder}"
        )
        at = training.progress
        if at.epoch == training.epochs:
            note(f"{self.folder} is complete, {at.epoch} of {at.epoch} epochs: nothing is left to train")
        elif at.epoch or at.batch:
            note(f"continuing in epoch {at.epoch + 1} after {at.batch} of {training.batches} mini-batches")
        for name, node in self.network.nodes.items():
            if node.layer is not None and node.layer.kind == "step" and node.layer.surrogate is None:
                note(
                    f"{name}: the derivative of a step is 0 (step.2), so nothing before it learns; a surrogate that "
                    'lets gradients pass is declared in the text, as "step sigmoid" or "step straight-through"'
                )

    def _machine(self) -> str:
        """Return what computes."""
        if self.config.device == "cpu":
            return f"{self.config.threads} threads"
        from ..engine import cuda

        return cuda.device().name

    def _finish_epoch(self, silent: bool) -> None:
        at = self.training.progress
        self.write("metrics.jsonl", "\n".join(json.dumps(entry) for entry in at.history))
        if at.best_epoch == at.epoch:
            self.save("best.npz")  # first: whoever finds an epoch in last.npz must find its best.npz too
        self.save("last.npz")
        if not silent:
            e = at.history[-1]
            click.echo(
                f"epoch {e['epoch']}/{self.training.epochs}  train loss {brief(e['train_loss'])}  "
                f"accuracy {e['train_accuracy']:.2%}  validation loss {brief(e['validation_loss'])}  "
                f"accuracy {e['validation_accuracy']:.2%}  {e['seconds']:.1f} s  {e['images_per_second']:,.0f} images/s"
            )

    def summary(self, seconds: float) -> dict[str, object]:
        """Return what is known of the run as plain values."""
        from ..engine import cuda
        from ..engine.backend import compile_seconds

        at = self.training.progress
        return {
            "run": str(self.folder),
            "model": self.config.model,
            "loss": self.config.loss,
            "data": self.config.data,
            "source": self.splits.source,
            "parameters": self.network.parameter_count,
            "seed": self.config.seed,
            "device": self.config.device,
            "threads": self.config.threads,
            "epochs": at.history,
            "best_epoch": at.best_epoch,
            "seconds": seconds,
            "compile_seconds": compile_seconds() + cuda.compile_seconds(),
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
        limit = self._limit() if result.accuracy < 1 else None
        if as_json:
            print_json({**self.summary(seconds), **last, "why": limit, "interrupted": False, "target_reached": reached})
        else:
            click.echo(
                f"test accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} images, loss "
                f"{result.loss:.4f}) with the parameters of epoch {at.best_epoch}, the best in validation"
            )
            if limit:
                click.echo(limit)
            click.echo(f"look inside: handgrad trace {self.folder}")
        if not reached:
            note(f"the test accuracy is below the target of {target:g} %")
        return 0 if reached else 1

    def _limit(self) -> str | None:
        """Return why this network cannot learn its training samples, where that can be proven."""
        train = self._train
        reasons = [units_alike(self.network), why_not(self.network, train.images, train.labels, list(train.classes))]
        return "; ".join(reason for reason in reasons if reason) or None


def brief(loss: float) -> str:
    """Return a loss with four decimals, or as a power of ten when it is out of hand."""
    return f"{loss:.4f}" if loss < 1e4 else f"{loss:.2e}"


def make_optimizer(kind: str, settings: dict[str, float]):
    """Return an optimiser from its name and its hyper-parameters."""
    from ..engine import SGD, Adam, Momentum

    return {"sgd": SGD, "momentum": Momentum, "adam": Adam}[kind](**settings)
