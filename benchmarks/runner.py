"""What every library that is measured can do, and how its turns are timed, alike for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .machine import runs_per_second

# share of the seconds: a training step; outputs of a mini-batch; from loss to gradients; inference of one image
KINDS = {"step": 1.0, "forward": 0.35, "backward": 0.6, "latency": 0.25}
WARM = 0.15  # of these seconds go by before the clock starts, so that caches and buffers are those of this kind
WINDOW = 0.01  # seconds; others come and go within tenths of a second
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

    def turn(self, kinds: Sequence[str], seconds: float) -> dict[str, list[float]]:
        """Return the rates of several kinds, measured one after the other while training has all threads at work.

        Parameters
        ----------
        kinds : sequence of str
            Of KINDS.
        seconds : float
            As for ``rates``.
        """
        self.enter("step")
        runs_per_second(self.step, START)
        return {kind: self.rates(kind, seconds) for kind in kinds}

    def rates(self, kind: str, seconds: float) -> list[float]:
        """Return how many samples a second go through, in each window of a measurement of about so many seconds.

        Parameters
        ----------
        kind : str
            Of KINDS.
        seconds : float
            For training steps; the others take their share.
        """
        self.enter(kind)
        seconds *= KINDS[kind]
        timed = {"step": _timed(self.step), "forward": _timed(self.forward), "backward": self.backward_seconds}
        measure = (timed | {"latency": _timed(self.classify_one)})[kind]
        runs_per_second(measure, WARM * seconds)
        times, start = [], time.perf_counter()
        while not times or time.perf_counter() - start < seconds:
            times.append(measure())
        samples = 1 if kind == "latency" else self.batch
        return [samples * rate for rate in windows(times)]


def _timed(run: Callable[[], None]) -> Callable[[], float]:
    """Return a function that calls another one and returns the seconds that it took."""

    def measure() -> float:
        before = time.perf_counter()
        run()
        return time.perf_counter() - before

    return measure


def windows(times: Sequence[float]) -> list[float]:
    """Return calls per second in each window: as many calls as it takes to reach WINDOW seconds.

    Calls at the end that fill no window are left out, unless there is no other.
    """
    rates, calls, spent = [], 0, 0.0
    for seconds in times:
        calls, spent = calls + 1, spent + seconds
        if spent >= WINDOW:
            rates.append(calls / spent)
            calls, spent = 0, 0.0
    return rates or [calls / spent]
