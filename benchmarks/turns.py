"""Turns: all runners one after the other, again and again, A B C and then C B A; ratios are taken within a turn.

A machine becomes faster and slower within half a second and over minutes. Measurements of one turn mostly share its
mood, so their ratio is steadier than either, and the median of many such ratios forgets the turns in which it changed.
The threads of a runner are woken up once in a turn, for everything that is measured of it. The order alternates, so
that neither side is always the one that comes after the other's heat. The strongest peer is the one with the least
ratio: not the luckiest of each turn, which would be nobody's speed. A peer that the first turns show to be far from the
strongest takes no more of them, which brings the others closer.

Turns of several processes are put together by the geometric mean of their medians. Some runners have two speeds, either
of them in a whole process: a median over all turns would be one of the two, by chance.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from .machine import TRIES, quietly
from .runner import KINDS, Runner

TRIAL = 5  # after so many turns, peers leave
FAR = 1.3  # whose ratio is so many times the strongest's; a runner's two speeds differ less, by 1.2
PAUSE = 0.02  # seconds between two runners; OpenMP's threads look for work for some 12 ms before they sleep


@dataclass
class Turns:
    """What the turns gave.

    Attributes
    ----------
    rates : dict of str to dict of str to list of float or None
        rates[kind][label] has one value per turn, in samples per second, and None for a turn that was not taken.
    rejected : int
        Measurements during which others used the machine; each was repeated.
    disturbed : set of int
        Turns in which some runner was never left alone; they count only where there are no others.
    starts : list of int
        The first turn of each process, rising from 0.
    failed : dict of str to int
        How many turns a peer could not take, because it could not run in their process.
    """

    rates: dict[str, dict[str, list[float | None]]]
    rejected: int = 0
    disturbed: set[int] = field(default_factory=set)
    starts: list[int] = field(default_factory=lambda: [0])
    failed: dict[str, int] = field(default_factory=dict)

    def count(self) -> int:
        """Return the number of turns."""
        of_kind = next(iter(self.rates.values()))
        return len(next(iter(of_kind.values())))

    def used(self, kind: str, label: str) -> list[int]:
        """Return the turns of a runner that count."""
        taken = [k for k, rate in enumerate(self.rates[kind][label]) if rate is not None]
        return [k for k in taken if k not in self.disturbed] or taken

    def medians(self, kind: str) -> dict[str, float]:
        """Return each runner's median rate, over the turns that it has taken."""
        rates = self.rates[kind]
        return {label: statistics.median(rates[label][k] for k in self.used(kind, label)) for label in rates}

    def ratios(self, kind: str, label: str) -> list[list[float]]:
        """Return the first runner's rate divided by a peer's, of each turn that counts, by process.

        Processes with fewer such turns than a trial has are left out, unless all are.
        """
        ours, theirs = next(iter(self.rates[kind].values())), self.rates[kind][label]
        found = [[] for _ in self.starts]
        for k in self.used(kind, label):
            found[bisect(self.starts, k) - 1].append(ours[k] / theirs[k])
        return [ratios for ratios in found if len(ratios) >= TRIAL] or [ratios for ratios in found if ratios]

    def _still_there(self, kind: str) -> dict[str, float]:
        """Return the ratios to the peers that took at least half of the turns they could; the others have left."""
        count, (_, *peers) = self.count(), self.rates[kind].items()
        taken = {label: count - values.count(None) for label, values in peers}
        there = [label for label, turns in taken.items() if turns and turns >= (count - self.failed.get(label, 0)) / 2]
        return {label: statistics.geometric_mean(map(statistics.median, self.ratios(kind, label))) for label in there}

    def strongest(self, kind: str) -> str:
        """Return the peer with the least ratio, of those that have not left."""
        ratios = self._still_there(kind)
        return min(ratios, key=ratios.get)

    def near(self, kind: str) -> list[str]:
        """Return the first runner and the peers that are not far from the strongest."""
        ratios = self._still_there(kind)
        most = FAR * min(ratios.values(), default=0.0)
        return [next(iter(self.rates[kind])), *(label for label, ratio in ratios.items() if ratio <= most)]

    def racing(self) -> dict[str, list[str]]:
        """Return for each kind who goes on: everybody until the end of the trial."""
        return {kind: self.near(kind) if self.count() >= TRIAL else list(rates) for kind, rates in self.rates.items()}

    def compare(self, kind: str) -> dict[str, object]:
        """Return the ratio to the strongest peer, quartiles of the turns, how well it is known, and who that is.

        Its uncertainty is the larger one of what the turns say and what the processes say.
        """
        strongest = self.strongest(kind)
        processes = self.ratios(kind, strongest)
        ratios, medians = list(chain(*processes)), [statistics.median(of_one) for of_one in processes]
        lower, upper = np.percentile(ratios, (25, 75))
        return {
            "ratio": statistics.geometric_mean(medians),
            "lower": float(lower),
            "upper": float(upper),
            "uncertainty": max(uncertainty(ratios), uncertainty_of_mean(medians)),
            "strongest": strongest,
            "turns": len(ratios),
            "medians": medians,
        }


def uncertainty(values: Sequence[float]) -> float:
    """Return the standard error of a median, relative to it, from the median distance to it.

    For normal errors the standard deviation is 1.48 times that distance, and a median of n values strays 1.25 / √n
    standard deviations; for a median, one wild value among many changes neither.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    return 1.25 * 1.48 * spread / len(values) ** 0.5 / middle


def uncertainty_of_mean(values: Sequence[float]) -> float:
    """Return the standard error of a geometric mean, relative to it; 0 for one value, of which nothing is known."""
    return statistics.stdev(map(math.log, values)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def take_turns(
    runners: Sequence[Runner],
    kinds: Sequence[str],
    seconds: float,
    repeats: int,
    racing: dict[str, list[str]] | None = None,
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
    """
    turns = Turns({kind: {runner.label: [] for runner in runners} for kind in kinds})
    for k in range(repeats):
        if k == TRIAL and racing is None:
            racing = turns.racing()
        for runner in runners if k % 2 == 0 else runners[::-1]:
            chosen, rates = [kind for kind in kinds if racing is None or runner.label in racing[kind]], {}
            if chosen:
                time.sleep(PAUSE)
                rates, bad = quietly(lambda runner=runner, chosen=chosen: runner.turn(chosen, seconds))
                turns.rejected += bad
                if bad == TRIES:
                    turns.disturbed.add(k)
            for kind in kinds:
                turns.rates[kind][runner.label].append(rates.get(kind))
    return turns


def kinds_for(classes: bool) -> list[str]:
    """Return what is measured of a network; a layer inside a larger network classifies nothing."""
    return [kind for kind in KINDS if classes or kind != "latency"]
