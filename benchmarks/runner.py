"""What every library that is measured can do, and how its turns are timed, alike for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from .machine import runs_per_second

# share of the seconds: a training step; outputs of a mini-batch; from loss to gradients; inference of one image
KINDS = {"step": 1.0, "forward": 0.35, "backward": 0.6, "latency": 0.25}
WARM = 0.15  # of these seconds go by before the clock starts, so that caches and buffers are those of this kind
START = 0.03  # and so many before a turn, because threads that wake up on one core need up to 30 ms to spread out


class Runner:
    """One network in one library.

    Attributes
    ----------
    label : str
        What the results call it.
    batch : int
        Samples of a mini-batch.
    """

    label: str
    batch: int

    def step(self) -> None:
        """Train on the next mini-batch."""
        raise NotImplementedError

    def forward(self) -> None:
        """Compute the outputs of a mini-batch, in inference."""
        raise NotImplementedError

    def backward_seconds(self) -> float:
        """Run a forward pass, then a backward pass from the loss to all gradients; return the seconds of the latter."""
        raise NotImplementedError

    def classify_one(self) -> None:
        """Compute the outputs of one sample in the user's layout, in inference, as a user would."""
        raise NotImplementedError

    def enter(self, kind: str) -> None:
        """Get ready for turns of one kind."""

    def turn(self, kinds: Sequence[str], seconds: float) -> dict[str, float]:
        """Return the rates of several kinds, measured one after the other while training has all threads at work.

        Parameters
        ----------
        kinds : sequence of str
            Of KINDS.
        seconds : float
            As for ``rate``.
        """
        self.enter("step")
        runs_per_second(self.step, START)
        return {kind: self.rate(kind, seconds) for kind in kinds}

    def rate(self, kind: str, seconds: float) -> float:
        """Return how many samples a second go through, in about so many seconds.

        Parameters
        ----------
        kind : str
            Of KINDS; for latency one over the median time of a sample.
        seconds : float
            For training steps; the others take their share.
        """
        self.enter(kind)
        seconds *= KINDS[kind]
        calls = {"step": self.step, "forward": self.forward, "backward": self.backward_seconds}
        run = calls.get(kind, self.classify_one)
        runs_per_second(run, WARM * seconds)
        if kind == "latency":
            return 1 / _median_seconds(run, seconds)
        if kind == "backward":
            return self.batch / _mean_of(run, seconds)
        return self.batch * runs_per_second(run, seconds)


def _median_seconds(run, seconds: float) -> float:
    """Call a function for about so long and return the median time of a call."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def _mean_of(measure, seconds: float) -> float:
    """Call a function for about so long and return the mean of what it returns."""
    values, start = [], time.perf_counter()
    while not values or time.perf_counter() - start < seconds:
        values.append(measure())
    return statistics.fmean(values)
