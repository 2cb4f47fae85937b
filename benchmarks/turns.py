"""Turns: all runners one after the other, again and again, A B C and then C B A; ratios are taken within a turn.

A machine becomes faster and slower over seconds and minutes. Two measurements that follow each other closely share its
mood, so their ratio is steadier than either, and the median of many such ratios forgets the turns in which it changed.
The order alternates, so that neither side is always the one that comes after the other's heat.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .machine import TRIES, quietly
from .runner import KINDS, Runner

STEADY = 0.02  # turns go on until the medians of the ratios are known this well,
MOST = 3  # but no longer than so many times the turns that were asked for


@dataclass
class Turns:
    """What the turns gave.

    Attributes
    ----------
    rates : dict of str to dict of str to list of float
        rates[kind][label] has one value per turn, in samples per second.
    rejected : int
        Measurements during which others used the machine; each was repeated.
    disturbed : dict of str to set of int
        For each kind, turns in which some runner was never left alone; they count only where there are no others.
    """

    rates: dict[str, dict[str, list[float]]]
    rejected: int = 0
    disturbed: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def count(self) -> int:
        """Number of turns."""
        return len(next(iter(next(iter(self.rates.values())).values())))

    def quiet(self, kind: str) -> list[int]:
        """Return the turns in which nobody disturbed."""
        return [k for k in range(self.count) if k not in self.disturbed[kind]]

    def used(self, kind: str) -> list[int]:
        """Return the turns that count."""
        return self.quiet(kind) or list(range(self.count))

    def medians(self, kind: str) -> dict[str, float]:
        """Return each runner's median rate."""
        used = self.used(kind)
        return {label: statistics.median(values[k] for k in used) for label, values in self.rates[kind].items()}

    def ratios(self, kind: str) -> list[float]:
        """Return for each turn that counts the first runner's rate divided by that of the strongest of the others."""
        ours, *peers = self.rates[kind].values()
        return [ours[k] / max(peer[k] for peer in peers) for k in self.used(kind)]

    def compare(self, kind: str) -> dict[str, object]:
        """Return the median ratio, its extremes, how well it is known, and the strongest peer."""
        ratios, (_, *peers) = self.ratios(kind), self.medians(kind).items()
        return {
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "largest": max(ratios),
            "uncertainty": uncertainty(ratios),
            "strongest": max(peers, key=lambda item: item[1])[0],
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
    """Measure all runners in turns until the ratios are steady, with at least ``repeats`` quiet ones where possible.

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
    for k in range(MOST * repeats):
        if k >= repeats and not _worth_going_on(turns, repeats, len(runners)):
            break
        for kind in kinds:
            for runner in runners if k % 2 == 0 else runners[::-1]:
                time.sleep(0.02)  # threads of the last one that still look for work give up
                rate, bad = quietly(lambda runner=runner, kind=kind: runner.rate(kind, seconds))
                turns.rates[kind][runner.label].append(rate)
                turns.rejected += bad
                if bad == TRIES:
                    turns.disturbed[kind].add(k)
    return turns


def _worth_going_on(turns: Turns, repeats: int, runners: int) -> bool:
    """Return whether another turn may tell more; on a machine that is never quiet it does not."""
    if runners == 1:
        return False
    wanting = [len(turns.quiet(kind)) < repeats or uncertainty(turns.ratios(kind)) >= STEADY for kind in turns.rates]
    return any(wanting) and any(turns.quiet(kind) for kind in turns.rates)


def kinds_for(classes: bool) -> list[str]:
    """Return what is measured of a network; a layer inside a larger network classifies nothing."""
    return [kind for kind in KINDS if classes or kind != "latency"]
