"""What every library that is measured can do, and how its turns are timed, alike for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .machine import runs_per_second

# share of the seconds: a training step; outputs of a mini-batch; from loss to gradients; inference of one image
KINDS = {"step": 1.0, "forward": 0.35, "backward": 0.6, "latency": 0.25}
WARM = 0.15  # of these seconds go by before the clock starts, so that caches and buffers are those of this kind
WINDOW = 0.01  # seconds, or one call; others come and go within tenths of a second
START = 0.03  # and so many before a turn, because threads that wake up on one core need up to 30 ms to spread out

Window = tuple[int, float]  # samples and seconds


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

    def turn(self, kinds: Sequence[str], seconds: float) -> dict[str, list[Window]]:
        """Return the windows of several kinds, measured one after the other while training has all threads at work.

        Parameters
        ----------
        kinds : sequence of str
            Of KINDS.
        seconds : float
            As for ``windows``.
        """
        self.enter("step")
        runs_per_second(self.step, START)
        return {kind: self.windows(kind, seconds) for kind in kinds}

    def windows(self, kind: str, seconds: float) -> list[Window]:
        """Measure for about so many seconds; return how many samples went through in each window, and its seconds.

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
        return join([(samples, spent) for spent in times], WINDOW)


def _timed(run: Callable[[], None]) -> Callable[[], float]:
    """Return a function that calls another one and returns the seconds that it took."""

    def measure() -> float:
        before = time.perf_counter()
        run()
        return time.perf_counter() - before

    return measure


def join(windows: Sequence[Window], length: float) -> list[Window]:
    """Return longer windows, of as many neighbours as come nearest to so many seconds, if the next is like the last.

    Some at the end that fill no window are left out, unless there is no other.
    """
    joined, samples, spent = [], 0, 0.0
    for more, seconds in windows:
        samples, spent = samples + more, spent + seconds
        if spent + seconds / 2 >= length:
            joined.append((samples, spent))
            samples, spent = 0, 0.0
    return joined or [(samples, spent)]
