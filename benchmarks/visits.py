"""Visits: each network is measured again and again for a short time, with the others in between.

The machine keeps a mood for minutes, and a process keeps the places of its arrays in memory. Many short visits, to a
new process from time to time, give each runner the chance to be left alone with its arrays in good places.
"""

from __future__ import annotations

from .nets import LATENCY_GOAL, MEMORY_GOAL, NETS
from .ours import Handgrad
from .turns import TRIAL, Turns

OURS = Handgrad.label
STEADY = 0.02  # visits go on until the ratios are known this well,
MOST = 2  # but no longer than so many times the visits that were asked for
LIFE = 5  # visits to one process, or a third of them all; then it makes room for a new one


class Visits:
    """One network and size, and what each visit to it gave, as ``benchmarks.one`` prints it.

    Parameters
    ----------
    name : str
        Of NETS.
    batch : int
    """

    def __init__(self, name: str, batch: int):
        self.name, self.batch, self.count, self.found, self.left_out = name, batch, 0, [], {}

    def add(self, visit: dict) -> dict[str, str]:
        """Add what another visit gave; return who is left out since, and why."""
        before = self.found[-1]["left_out"] if self.found else {}
        since = {label: reason for label, reason in visit["left_out"].items() if label not in before}
        self.count += 1
        self.found.append(visit)
        for label, reason in since.items():
            self.left_out[label if self.count == 1 else f"{label} from visit {self.count}"] = reason
        return since

    def lose(self, reason: str) -> None:
        """Take note of a visit that gave nothing; the others count."""
        self.count += 1
        self.left_out[f"visit {self.count}"] = reason

    def racing(self) -> dict[str, list[str]] | None:
        """Return for each kind who takes part in the next visit; None before the first one, when all do."""
        return self._turns().racing() if self.found else None

    def _turns(self) -> Turns:
        """Return the turns of all visits in one row; who was not there has taken none."""
        first, process = self.found[0]["pieces"], None
        whole = Turns({kind: {label: [] for label in of_kind} for kind, of_kind in first.items()}, starts=[])
        for visit in self.found:
            before, count = whole.count(), len(visit["pieces"]["step"][OURS])
            if visit["process"] != process:
                process = visit["process"]
                whole.starts.append(before)
            for label in visit["left_out"]:
                whole.failed.setdefault(label, set()).update(range(before, before + count))
            for kind, of_kind in whole.pieces.items():
                for label, turns in of_kind.items():
                    turns += visit["pieces"][kind].get(label, [None] * count)
            whole.rejected += visit["rejected"]
            whole.disturbed.update(before + k for k in visit["disturbed"])
        return whole

    def is_steady(self) -> bool:
        """Return whether another visit would tell little: every ratio to a peer is known."""
        turns = self._turns()
        half = turns.count() / len(self.found) * self.count / 2  # of the turns, those of lost visits as well
        for kind, of_kind in turns.pieces.items():
            ratio = turns.compare(kind)
            taken = sum(pieces is not None for pieces in of_kind[ratio["strongest"]])
            if taken < half or not _is_known(ratio):
                return False
        return True

    def result(self) -> dict[str, object]:
        """Return rates, ratios, memory and GFLOP/s of all visits together."""
        turns, net, first = self._turns(), NETS[self.name], self.found[0]
        goals = {"step": net.goal, "memory": MEMORY_GOAL}
        rates = {kind: turns.rates_of_all(kind) for kind in turns.pieces}
        gflops = first["operations"] * rates["step"][OURS] / 1e9
        peak = max(visit["peak_gflops"] for visit in self.found)
        result = {"net": self.name, "title": net.title, "batch": self.batch, "threads": first["threads"]}
        result |= {"tile": first["tile"], "images_per_second": {k: v for k, v in rates.items() if k != "latency"}}
        if "latency" in rates:
            goals["latency"] = LATENCY_GOAL
            result["latency_microseconds"] = {label: 1e6 / rate for label, rate in rates["latency"].items()}
        result |= {"gflops": gflops, "peak_gflops": peak, "share_of_peak": gflops / peak}
        result |= {name: first[name] for name in ("memory_bytes", "first_step_seconds")}
        result |= {"visits": len(self.found), "turns": turns.count(), "rejected": turns.rejected, "goals": goals}
        return result | {"left_out": self.left_out, "ratios": ratios_of(turns, first["memory_bytes"])}


def _is_known(ratio: dict) -> bool:
    return ratio["turns"] >= TRIAL and ratio["uncertainty"] is not None and ratio["uncertainty"] < STEADY


def ratios_of(turns: Turns, memory: dict[str, float]) -> dict[str, dict]:
    """Return each ratio of this engine to the strongest peer; empty without peers."""
    if len(memory) == 1:
        return {}
    ratios = {kind: turns.compare(kind) for kind in turns.pieces}
    (_, ours), (label, theirs) = sorted(memory.items(), key=lambda item: item[0] != OURS)
    once = ours / theirs
    same = {"ratio": once, "lower": once, "upper": once, "uncertainty": 0.0, "strongest": label, "turns": 1}
    return ratios | {"memory": same | {"processes": [once]}}
