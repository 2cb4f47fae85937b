"""What every library that is measured can do, and how its turns are timed, alike for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .machine import runs_per_second

# share of the seconds: a training step; outputs of a mini-batch; from loss to gradients; inference of one image
KINDS = {"step": 1.0, "forward": 0.35, "backward": 0.6, "latency": 0.25}
WARM = 0.15  # of these seconds go by before the clock starts, so that caches and buffers are those of this kind
PIECE = 0.001  # seconds of what is timed by itself, or one call
START = 0.03  # and so many before a turn, because threads that wake up on one core need up to 30 ms to spread out

Piece = tuple[int, float]  # samples and seconds


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

    def turn(self, kinds: Sequence[str], seconds: float) -> dict[str, list[Piece]]:
        """Return the pieces of several kinds, measured one after the other while training has all threads at work.

        Parameters
        ----------
        kinds : sequence of str
            Of KINDS.
        seconds : float
            As for ``pieces``.
        """
        self.enter("step")
        runs_per_second(self.step, START)
        return {kind: self.pieces(kind, seconds) for kind in kinds}

    def pieces(self, kind: str, seconds: float) -> list[Piece]:
        """Measure for about so many seconds; return how many samples went through in each piece, and its seconds.

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
        samples, pieces, start = 1 if kind == "latency" else self.batch, [], time.perf_counter()
        while not pieces or time.perf_counter() - start < seconds:
            calls, spent = 0, 0.0
            while not calls or spent + spent / calls / 2 < PIECE:  # another call would come nearer to it
                calls, spent = calls + 1, spent + measure()
            pieces.append((calls * samples, spent))
        return pieces


def _timed(run: Callable[[], None]) -> Callable[[], float]:
    """Return a function that calls another one and returns the seconds that it took."""

    def measure() -> float:
        before = time.perf_counter()
        run()
        return time.perf_counter() - before

    return measure
