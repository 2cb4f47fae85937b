"""Climb one convolution's ladder: ``python -m handgrad.benchmarks.climb`` prints one JSON object.

Every rung has to give the literal formula's numbers before it is timed, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np

from ..engine.checks import HandgradError
from .ladder import FLOPS, OPERATIONS, RUNGS, Call, Problem, Rung
from .machine import peak_gflops, quietly

LADDERS = ("conv2d",)
SAMPLES, FEW = 128, 2
SECONDS, REPEATS = 0.1, 7
LIMIT = 1e-4  # of the largest number: float32 sums of 12,800 products are off by some 1e-6, a wrong term by 1e-2


class RungError(HandgradError):
    """A rung computes something else than the formula."""


def check(rungs: Sequence[Rung], samples: int) -> dict[str, dict[str, Call]]:
    """Return every rung's calls, after comparing what they compute.

    They have to agree with the first rung, the literal formula, on a few samples, and with the second, which is quick
    enough for that, on all of them.

    Raises
    ------
    RungError
        When a rung disagrees.
    """
    few, all_samples = Problem.random(FEW), Problem.random(samples)
    formula, *others = rungs
    expected = results_of(formula.prepare(few))
    for rung in others:
        compare(rung.name, results_of(rung.prepare(few)), expected, f"the {formula.name} formula on {FEW} samples")
    calls = {rung.name: rung.prepare(all_samples) for rung in others}
    expected = results_of(calls[others[0].name])
    for rung in others[1:]:
        found = results_of(calls[rung.name])
        compare(rung.name, found, expected, f"{others[0].name} on {samples} samples")
    return {formula.name: formula.prepare(Problem.random(formula.samples or FEW)), **calls}


def results_of(calls: dict[str, Call]) -> dict[str, np.ndarray]:
    """Run each operation once and return its result; one run may compute two of them."""
    results, done = {}, []
    for operation, call in calls.items():
        if call.run not in done:
            call.run()
            done.append(call.run)
        results[operation] = np.array(call.result(), dtype=np.float64)
    return results


def compare(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: str) -> None:
    """Raise a RungError unless two rungs agree in every operation."""
    for operation in OPERATIONS:
        error = np.abs(found[operation] - expected[operation]).max() / np.abs(expected[operation]).max()
        if not error <= LIMIT:
            raise RungError(
                f"ladder conv2d: {name}, {operation}",
                got=f"{error:.1e} of the largest number away from {what}",
                expected=f"at most {LIMIT:.0e}",
            )


def seconds_of(call: Call, seconds: float) -> float:
    """Return the time of one call, as the median of calls for about so long."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call.run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(samples: int, repeats: int, seconds: float, rungs: Sequence[Rung] = RUNGS) -> dict:
    """Return GFLOP/s of every rung and operation, and the factors from rung to rung."""
    calls, rejected, peak = check(rungs, samples), 0, peak_gflops(1)
    times = {(rung.name, operation): [] for rung in rungs for operation in OPERATIONS}
    for turn in range(repeats):
        for rung in rungs if turn % 2 == 0 else rungs[::-1]:
            if rung.samples is not None and turn:
                continue  # so slow that once is enough
            for operation in OPERATIONS:
                call = calls[rung.name][operation]
                spent, bad = quietly(lambda call=call: seconds_of(call, seconds))
                times[rung.name, operation].append(spent / call.computes)
                rejected += bad
    rows = rows_of(rungs, {key: statistics.median(values) for key, values in times.items()}, samples, peak)
    result = {"ladder": LADDERS[0], "title": "convolution of 6 channels 14 x 14 with 16 kernels 5 x 5, with ReLU"}
    return result | {"samples": samples, "threads": 1, "peak_gflops": peak, "rejected": rejected, "rungs": rows}


def rows_of(rungs: Sequence[Rung], times: dict[tuple[str, str], float], samples: int, peak: float) -> list[dict]:
    """Return each rung's line from the seconds of its operations; those on fewer samples are scaled up."""
    rows, before = [], dict.fromkeys(OPERATIONS)
    for rung in rungs:
        row = {"rung": rung.name, "adds": rung.adds, "samples_timed": rung.samples or samples}
        for operation in OPERATIONS:
            per_sample = times[rung.name, operation] / row["samples_timed"]
            gflops = FLOPS / per_sample / 1e9
            row[operation] = {"microseconds": 1e6 * per_sample * samples, "gflops": gflops}
            row[operation]["share_of_peak"] = gflops / peak
            row[operation]["factor"] = before[operation] and gflops / before[operation]
            before[operation] = gflops
        rows.append(row)
    return rows


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    a = parser.parse_args()
    print(json.dumps(measure(a.samples, a.repeats, a.seconds)))


if __name__ == "__main__":
    main()
