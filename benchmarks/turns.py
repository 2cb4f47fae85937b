"""Turns: all runners one after the other, again and again, A B C and then C B A.

A machine that others use as well becomes faster and slower within tenths of a second and over hours, and no counter
says so: the multiply-adds of two threads were seen to go from 140 to 360 GFLOP/s and back within seconds. That only
ever makes a runner slower, and some more than others: the median ratio to PyTorch's forward pass of one convolution was
1.1 in one hour and 2.1 in the next. So a turn is cut into windows, and a runner's rate is the median of the fastest
tenth of all its windows, those in which it was left alone: with that the same ratio was 1.05 in the midst of the bad
hour. Windows of one kind are as long for all as whole calls allow: a runner whose calls are short would find quiet
moments more easily than one whose calls are long.

The threads of a runner are woken up once in a turn, for everything that is measured of it, and before that all cores
are kept at work until each thread has a whole one. The order of runners alternates, so that neither side is always the
one that comes after the other's heat, and so does that of what is measured of them, but for single images, which leave
cores at rest and come last. The strongest peer is the one with the least ratio, which is that of two rates over the
same turns. A peer that the first turns show to be far from the strongest takes no more of them, which saves time.

How well a ratio is known is told by what each process says of it, and by what the others say without it, whichever
differ more: a process in a bad hour has no say in the ratio, and one that alone had a very good moment has too much.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from .machine import TRIES, quietly
from .runner import KINDS, Piece, Runner

TRIAL = 5  # after so many turns, peers leave
FAR = 1.3  # whose ratio is so many times the strongest's; from process to process one runner differs by up to 1.2
WINDOW = 0.01  # seconds, or the longest call; others come and go within tenths of a second
ALONE = 0.95  # this quantile is the median of the fastest tenth


@dataclass
class Turns:
    """What the turns gave.

    Attributes
    ----------
    pieces : dict of str to dict of str to list of (list of Piece or None)
        pieces[kind][label] has for every turn the samples and seconds of its pieces, and None for a turn that was not
        taken.
    rejected : int
        Measurements during which others used the machine; each was repeated.
    disturbed : set of int
        Turns in which some runner was never left alone; they count only where there are no others.
    starts : list of int
        The first turn of each process, rising from 0.
    failed : dict of str to set of int
        The turns that a peer could not take, because it could not run in their process.
    """

    pieces: dict[str, dict[str, list[list[Piece] | None]]]
    rejected: int = 0
    disturbed: set[int] = field(default_factory=set)
    starts: list[int] = field(default_factory=lambda: [0])
    failed: dict[str, set[int]] = field(default_factory=dict)

    def count(self) -> int:
        """Return the number of turns."""
        of_kind = next(iter(self.pieces.values()))
        return len(next(iter(of_kind.values())))

    def _first(self, kind: str) -> str:
        """Return the runner that the others are compared with."""
        return next(iter(self.pieces[kind]))

    def used(self, kind: str, label: str) -> list[int]:
        """Return the turns of a runner that count."""
        taken = [k for k, pieces in enumerate(self.pieces[kind][label]) if pieces is not None]
        return [k for k in taken if k not in self.disturbed] or taken

    def _piece(self, kind: str, label: str) -> float:
        """Return the seconds of a piece of a runner when left alone."""
        pieces = chain(*(self.pieces[kind][label][k] for k in self.used(kind, label)))
        return float(np.quantile([seconds for _, seconds in pieces], 1 - ALONE))

    def in_window(self, kind: str, label: str) -> int:
        """Return how many pieces of a runner come nearest to the length of a window.

        That is WINDOW, or as long as a piece of the first runner or of a peer that is still there.
        """
        racing = [self._first(kind), *self._still_there(kind)]
        length = max(WINDOW, *(self._piece(kind, other) for other in racing))
        return max(1, round(length / self._piece(kind, label)))

    def rate(self, kind: str, label: str, turns: Sequence[int] | None = None) -> float:
        """Return a runner's rate when left alone, in samples per second; of some turns, or of all that count."""
        count, rates = self.in_window(kind, label), []
        for k in self.used(kind, label) if turns is None else turns:
            rates += window_rates(self.pieces[kind][label][k], count)
        return float(np.quantile(rates, ALONE))

    def rates_of_all(self, kind: str) -> dict[str, float]:
        """Return each runner's rate when left alone."""
        return {label: self.rate(kind, label) for label in self.pieces[kind]}

    def ratio(self, kind: str, label: str, turns: Sequence[int]) -> float:
        """Return the first runner's rate in some turns, divided by a peer's in the same turns."""
        return self.rate(kind, self._first(kind), turns) / self.rate(kind, label, turns)

    def processes(self, kind: str, label: str) -> list[list[int]]:
        """Return a peer's turns that count, by process."""
        processes = [[] for _ in self.starts]
        for k in self.used(kind, label):
            processes[bisect(self.starts, k) - 1].append(k)
        return [turns for turns in processes if turns]

    def uncertainty(self, kind: str, label: str) -> float | None:
        """Return the standard error of the ratio to a peer, relative to it; None for a single process.

        The larger one of two: that of the geometric mean of n processes' own ratios, s / √n with their standard
        deviation s, and the jackknife's, √((n - 1) / n Σ (r_p - r̄)²) with r_p the ratio without process p (Efron, The
        Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3); of logarithms.
        """
        processes = self.processes(kind, label)
        if len(processes) == 1:
            return None
        others = [list(chain(*processes[:p], *processes[p + 1 :])) for p in range(len(processes))]
        own, without = ([math.log(self.ratio(kind, label, k)) for k in turns] for turns in (processes, others))
        count = len(processes)
        return max(statistics.stdev(own) / math.sqrt(count), math.sqrt((count - 1) * statistics.pvariance(without)))

    def _still_there(self, kind: str) -> list[str]:
        """Return the peers that took the last turn that they could; the others have left, or never came."""
        (_, *peers), there = self.pieces[kind].items(), []
        for label, turns in peers:
            could = [pieces for k, pieces in enumerate(turns) if k not in self.failed.get(label, ())]
            if could and could[-1] is not None:
                there.append(label)
        return there

    def _ratios(self, kind: str) -> dict[str, float]:
        """Return the ratios to the peers that are still there."""
        return {label: self.ratio(kind, label, self.used(kind, label)) for label in self._still_there(kind)}

    def near(self, kind: str) -> list[str]:
        """Return the first runner and the peers that are not far from the strongest."""
        ratios = self._ratios(kind)
        most = FAR * min(ratios.values(), default=0.0)
        return [self._first(kind), *(label for label, ratio in ratios.items() if ratio <= most)]

    def racing(self) -> dict[str, list[str]]:
        """Return for each kind who goes on: everybody until the end of the trial."""
        over = self.count() >= TRIAL
        return {kind: self.near(kind) if over else list(of_kind) for kind, of_kind in self.pieces.items()}

    def compare(self, kind: str) -> dict[str, object]:
        """Return the ratio to the strongest peer, that of each process, and the interval of two standard errors."""
        ratios = self._ratios(kind)
        strongest = min(ratios, key=ratios.get)
        ratio, processes = ratios[strongest], self.processes(kind, strongest)
        error = self.uncertainty(kind, strongest)
        return {
            "ratio": ratio,
            "lower": ratio * math.exp(-2 * (error or 0.0)),
            "upper": ratio * math.exp(2 * (error or 0.0)),
            "uncertainty": error,
            "strongest": strongest,
            "turns": len(self.used(kind, strongest)),
            "processes": [self.ratio(kind, strongest, turns) for turns in processes],
        }


def window_rates(pieces: Sequence[Piece], count: int) -> list[float]:
    """Return the samples per second of each window of so many pieces.

    Pieces at the end that fill no window are left out; a turn of fewer pieces is one window.
    """
    count = min(count, len(pieces))
    windows = (pieces[k : k + count] for k in range(0, len(pieces) - count + 1, count))
    return [sum(samples for samples, _ in window) / sum(seconds for _, seconds in window) for window in windows]


def take_turns(
    runners: Sequence[Runner],
    kinds: Sequence[str],
    seconds: float,
    repeats: int,
    racing: dict[str, list[str]] | None = None,
    wait: Callable[[], None] = lambda: None,
    first: int = 0,
) -> Turns:
    """Measure in turns.

    Parameters
    ----------
    runners : sequence of Runner
        The first is compared with the others.
    kinds : sequence of str
        Of ``runner.KINDS``.
    seconds : float
        Of the training steps in one turn of one runner.
    repeats : int
        How many turns.
    racing : dict of str to list of str, optional
        For each kind the labels of those who take part in it; without it all do, until some leave after the trial.
    wait : callable, optional
        Called before every measurement of a runner.
    first : int, optional
        How many turns these runners took before, for the order.
    """
    turns = Turns({kind: {runner.label: [] for runner in runners} for kind in kinds})
    last = [kind for kind in kinds if kind == "latency"]
    batches = [kind for kind in kinds if kind not in last]
    for k in range(repeats):
        if k == TRIAL and racing is None:
            racing = turns.racing()
        in_order = (batches if (first + k) // 2 % 2 == 0 else batches[::-1]) + last
        for runner in runners if (first + k) % 2 == 0 else runners[::-1]:
            chosen, pieces = [kind for kind in in_order if racing is None or runner.label in racing[kind]], {}
            if chosen:
                pieces, bad = quietly(lambda runner=runner, chosen=chosen: runner.turn(chosen, seconds), wait)
                turns.rejected += bad
                if bad == TRIES:
                    turns.disturbed.add(k)
            for kind in kinds:
                turns.pieces[kind][runner.label].append(pieces.get(kind))
    return turns


def kinds_for(classes: bool) -> list[str]:
    """Return what is measured of a network; a layer inside a larger network classifies nothing."""
    return [kind for kind in KINDS if classes or kind != "latency"]
