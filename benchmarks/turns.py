"""Turns: all runners one after the other, again and again, A B C and then C B A; ratios are taken within a turn.

A machine becomes faster and slower within half a second and over minutes. Two short measurements that follow each other
closely share its mood, so their ratio is steadier than either, and the median of many such ratios forgets the turns in
which it changed. The order alternates, so that neither side is always the one that comes after the other's heat. The
strongest peer is the one with the least median ratio: not the luckiest of each turn, which would be nobody's speed. A
peer that the first turns show to be far from the strongest takes no more of them, which brings the others closer.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .machine import TRIES, quietly
from .runner import KINDS, Runner

STEADY = 0.02  # turns go on until the medians of the ratios are known this well,
MOST = 3  # but no longer than so many times the turns that were asked for
TRIAL = 5  # after so many turns, peers leave
FAR = 1.3  # whose median ratio is so many times the strongest's
PAUSE = 0.02  # seconds between two runners; OpenMP's threads look for work for some 12 ms before they sleep


@dataclass
class Turns:
    """What the turns gave.

    Attributes
    ----------
    rates : dict of str to dict of str to list of float
        rates[kind][label] has one value per turn, in samples per second, and fewer for a peer that left.
    rejected : int
        Measurements during which others used the machine; each was repeated.
    disturbed : dict of str to set of int
        For each kind, turns in which some runner was never left alone; they count only where there are no others.
    """

    rates: dict[str, dict[str, list[float]]]
    rejected: int = 0
    disturbed: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def count(self, kind: str) -> int:
        """Return the number of turns of a kind."""
        return len(next(iter(self.rates[kind].values())))

    def quiet(self, kind: str) -> list[int]:
        """Return the turns in which nobody disturbed."""
        return [k for k in range(self.count(kind)) if k not in self.disturbed[kind]]

    def used(self, kind: str, label: str) -> list[int]:
        """Return the turns of a runner that count."""
        taken = len(self.rates[kind][label])
        return [k for k in self.quiet(kind) if k < taken] or list(range(taken))

    def medians(self, kind: str) -> dict[str, float]:
        """Return each runner's median rate, over the turns that it has taken."""
        rates = self.rates[kind]
        return {label: statistics.median(rates[label][k] for k in self.used(kind, label)) for label in rates}

    def ratios(self, kind: str) -> dict[str, list[float]]:
        """Return for each peer, of each of its turns that counts, the first runner's rate divided by its own."""
        (_, ours), *peers = self.rates[kind].items()
        return {label: [ours[k] / values[k] for k in self.used(kind, label)] for label, values in peers}

    def strongest(self, kind: str) -> str:
        """Return the peer with the least median ratio, of those that have taken all turns."""
        ratios, all_turns = self.ratios(kind), self.count(kind)
        there = [label for label in ratios if len(self.rates[kind][label]) == all_turns]
        return min(there, key=lambda label: statistics.median(ratios[label]))

    def near(self, kind: str) -> list[str]:
        """Return the first runner and the peers that are not far from the strongest."""
        medians = {label: statistics.median(values) for label, values in self.ratios(kind).items()}
        most = FAR * min(medians.values(), default=0.0)
        return [next(iter(self.rates[kind])), *(label for label, ratio in medians.items() if ratio <= most)]

    def compare(self, kind: str) -> dict[str, object]:
        """Return the median ratio to the strongest peer, its quartiles, how well it is known, and who that is."""
        strongest = self.strongest(kind)
        ratios = self.ratios(kind)[strongest]
        lower, upper = np.percentile(ratios, (25, 75))
        return {
            "ratio": statistics.median(ratios),
            "lower": float(lower),
            "upper": float(upper),
            "uncertainty": uncertainty(ratios),
            "strongest": strongest,
            "turns": len(ratios),
        }


def uncertainty(values: Sequence[float]) -> float:
    """Return the standard error of a median, relative to it, from the median distance to it.

    For normal errors the standard deviation is 1.48 times that distance, and a median of n values strays 1.25 / √n
    standard deviations; for a median, one wild value among many changes neither.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    return 1.25 * 1.48 * spread / len(values) ** 0.5 / middle


def take_turns(runners: Sequence[Runner], kinds: Sequence[str], seconds: float, repeats: int) -> Turns:
    """Measure in turns until each kind's ratio is steady, with at least ``repeats`` quiet ones where possible.

    Parameters
    ----------
    runners : sequence of Runner
        The first is compared with the others.
    kinds : sequence of str
        Of ``runner.KINDS``.
    seconds : float
        Of one turn of one runner.
    repeats : int
    """
    turns = Turns({kind: {runner.label: [] for runner in runners} for kind in kinds})
    racing = {kind: list(turns.rates[kind]) for kind in kinds}
    for k in range(MOST * repeats):
        if k == TRIAL:
            racing = {kind: turns.near(kind) for kind in kinds}
        for kind in kinds:
            if k >= repeats and not _worth_going_on(turns, kind, repeats):
                continue
            for runner in runners if k % 2 == 0 else runners[::-1]:
                if runner.label not in racing[kind]:
                    continue
                time.sleep(PAUSE)
                rate, bad = quietly(lambda runner=runner, kind=kind: runner.rate(kind, seconds))
                turns.rates[kind][runner.label].append(rate)
                turns.rejected += bad
                if bad == TRIES:
                    turns.disturbed[kind].add(k)
    return turns


def _worth_going_on(turns: Turns, kind: str, repeats: int) -> bool:
    """Return whether another turn may tell more; on a machine that is never quiet it does not."""
    quiet, peers = turns.quiet(kind), len(turns.rates[kind]) - 1
    if not peers or not quiet:
        return False
    return len(quiet) < repeats or turns.compare(kind)["uncertainty"] >= STEADY


def kinds_for(classes: bool) -> list[str]:
    """Return what is measured of a network; a layer inside a larger network classifies nothing."""
    return [kind for kind in KINDS if classes or kind != "latency"]
