"""The progress line of a training: images per second, loss, accuracy and time left, compiling left out."""

from __future__ import annotations

import sys
import time

import click

from ..engine.training import Training

WIDTH = 24  # characters of the bar
INTERVAL = 0.1  # seconds between two drawings


class TrainingProgress:
    """Draw one line on a terminal's standard error, and nothing anywhere else.

    Parameters
    ----------
    training : Training
    quiet : bool
        Draw nothing, say nothing.
    is_first : bool
        Whether kernels have to be compiled.
    """

    def __init__(self, training: Training, quiet: bool = False, is_first: bool = False):
        self.training, self.quiet = training, quiet
        self.live = not quiet and sys.stderr.isatty()
        self._drawn = 0.0
        self._length = 0
        if not quiet and is_first:
            click.echo("compiling kernels, once: this takes some 7 seconds, and the next start none", err=True)

    def step(self) -> None:
        """Redraw the line, if it is time to."""
        now = time.monotonic()
        if self.live and now - self._drawn >= INTERVAL:
            self._drawn = now
            self._draw(self.line())

    def line(self) -> str:
        """Return the text of the line for the current state of the training."""
        training, at = self.training, self.training.progress
        done = at.batch / training.batches
        rate = at.seen / at.seconds if at.seconds > 0 else 0.0
        total = training.epochs * len(training.train)
        left = (total - at.epoch * len(training.train) - at.seen) / rate if rate else float("inf")
        filled = round(done * WIDTH)
        return (
            f"epoch {at.epoch + 1}/{training.epochs} [{'#' * filled}{'.' * (WIDTH - filled)}] {done:4.0%}  "
            f"{rate:8,.0f} images/s  loss {at.loss_sum / max(at.seen, 1):.4f}  "
            f"accuracy {at.correct / max(at.seen, 1):7.2%}  {_clock(left)} left"
        )

    def clear(self) -> None:
        """Wipe the line, so that a result can be printed in its place."""
        if self._length:
            self._draw("")
            click.echo("\r", nl=False, err=True)
            self._length = 0

    def _draw(self, text: str) -> None:
        click.echo("\r" + text.ljust(self._length), nl=False, err=True)
        self._length = len(text)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "-:--"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
