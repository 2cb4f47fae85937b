"""Visits: each network is measured several times, in a new process each time, with the others in between.

A process keeps the places of its arrays in memory, and the machine keeps a mood for minutes; a median over the turns of
several visits depends less on either.
"""

from __future__ import annotations

import json
import statistics

from .nets import LATENCY_GOAL, MEMORY_GOAL, NETS
from .ours import Handgrad
from .turns import TRIAL, Turns

OURS = Handgrad.label
STEADY = 0.02  # visits go on until the medians of the ratios are known this well,
ALIKE = 0.08  # and those of every second visit are not further away from those of the others,
MOST = 2  # but no longer than so many times the visits that were asked for; those beyond them have
MORE = 2  # times the turns


class Visits:
    """One network and size, and what each visit to it gave, as ``benchmarks.one`` prints it.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    """

    def __init__(self, name: str, batch: int):
        self.name, self.batch, self.found = name, batch, []

    def add(self, visit: dict) -> None:
        """Add what another visit gave."""
        self.found.append(visit)

    def words(self) -> list[str]:
        """Return what the process of the next visit is told: what to measure, and of whom."""
        racing = ["--racing", json.dumps(self._turns(self.found).racing())] if self.found else []
        return [self.name, str(self.batch), *racing]

    def _turns(self, visits: list[dict]) -> Turns:
        """Return the turns of some visits in one row; who was not there has taken none."""
        whole = Turns({kind: {label: [] for label in rates} for kind, rates in self.found[0]["rates"].items()})
        for visit in visits:
            before, count = whole.count(), len(visit["rates"]["step"][OURS])
            for kind, rates in whole.rates.items():
                for label, values in rates.items():
                    values += visit["rates"][kind].get(label, [None] * count)
            whole.rejected += visit["rejected"]
            whole.disturbed.update(before + k for k in visit["disturbed"])
        return whole

    def is_steady(self) -> bool:
        """Return whether another visit would tell little: every ratio is known, or there is none."""
        turns = self._turns(self.found)
        return len(turns.rates["step"]) == 1 or all(self._is_known(turns, kind) for kind in turns.rates)

    def _is_known(self, turns: Turns, kind: str) -> bool:
        ratio = turns.compare(kind)
        if ratio["turns"] < TRIAL or ratio["uncertainty"] >= STEADY:
            return False
        halves = [self._turns(self.found[k::2]).ratios(kind)[ratio["strongest"]] for k in (0, 1)]
        medians = [statistics.median(ratios) for ratios in halves if ratios]
        return max(medians) <= (1 + ALIKE) * min(medians)

    def result(self) -> dict[str, object]:
        """Return rates, ratios, memory and GFLOP/s of all visits together."""
        turns, net, first = self._turns(self.found), NETS[self.name], self.found[0]
        gflops = first["operations"] * turns.medians("step")[OURS] / 1e9
        peak = max(visit["peak_gflops"] for visit in self.found)
        goals, rates = {"step": net.goal, "memory": MEMORY_GOAL}, {kind: turns.medians(kind) for kind in turns.rates}
        result = {"net": self.name, "title": net.title, "batch": self.batch, "threads": first["threads"]}
        result |= {"tile": first["tile"], "images_per_second": {k: v for k, v in rates.items() if k != "latency"}}
        if "latency" in rates:
            goals["latency"] = LATENCY_GOAL
            result["latency_microseconds"] = {label: 1e6 / rate for label, rate in rates["latency"].items()}
        result |= {"gflops": gflops, "peak_gflops": peak, "share_of_peak": gflops / peak}
        result |= {name: first[name] for name in ("memory_bytes", "first_step_seconds")}
        result |= {"visits": len(self.found), "turns": turns.count(), "rejected": turns.rejected, "goals": goals}
        left_out = {
            label if visit is first else f"{label} on visit {k}": reason
            for k, visit in enumerate(self.found, 1)
            for label, reason in visit["left_out"].items()
        }
        return result | {"left_out": left_out, "ratios": ratios_of(turns, first["memory_bytes"])}


def ratios_of(turns: Turns, memory: dict[str, float]) -> dict[str, dict]:
    """Return each ratio of this engine to the strongest peer; empty without peers."""
    if len(memory) == 1:
        return {}
    ratios = {kind: turns.compare(kind) for kind in turns.rates}
    (_, ours), (label, theirs) = sorted(memory.items(), key=lambda item: item[0] != OURS)
    once = ours / theirs
    return ratios | {
        "memory": {"ratio": once, "lower": once, "upper": once, "uncertainty": 0.0, "strongest": label, "turns": 1}
    }
