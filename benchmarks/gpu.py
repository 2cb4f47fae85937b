"""Everything about a GPU in one command: ``python -m handgrad.benchmarks.gpu``, at most eight minutes.

Sections, one after the other: about the machine; parity of the CUDA kernels with those of the CPU; what a launch costs;
where LeNet-5's step spends its time; training steps beside PyTorch's; matrix products beside cuBLAS; convolutions
beside cuDNN; MNIST to 99 %. Each has a share of the time. The work is done by a second process, so that a crash, a
broken context or a kernel that never ends costs what was being measured then, and nothing else: a new process goes on
with what comes next. Everything that was measured is in the JSON file after each section.

Times are those of the device between two events wherever work can be captured in a graph, and of the clock for training
steps, whose host is part of them. The exit code is 1 where something failed or was wrong, 4 without a GPU.

Here are the command, the goals and the report as text; the sections are in ``gpu_sections``, what they time in
``gpu_runners``, and the process that works in ``gpu_process``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from ..engine import cuda
from ..engine.checkpoint import write_atomically
from ..engine.checks import DataError, DeviceError, HandgradError
from .gpu_process import SECONDS_IN_ALL, Asked, Row, Section, measure
from .gpu_runners import Handgrad
from .gpu_sections import PRODUCTS, RECIPES, SECTIONS

MNIST_BATCHES = 468.75  # of 128 images in an epoch
GOALS = {"eager": 5.0, "CUDA graph": 1.5, "epoch": 0.1, "sgemm": 0.7, "accuracy": 0.99, "mnist": 2.0}


def goals(report: dict) -> list[Row]:
    """Return what the project wants to reach on a GPU, and what was measured of it."""
    rows = {name: section["rows"] for name, section in report["sections"].items()}
    found = []

    def add(what: str, wanted: float, values: Iterable[float], is_least: bool = True) -> None:
        reached = statistics.fmean(values) if (values := list(values)) else None
        is_reached = None if reached is None else reached >= wanted if is_least else reached <= wanted
        found.append({"goal": what, "wanted": wanted, "measured": reached, "reached": is_reached})

    def lenet(label: str, key: str) -> list[float]:
        wanted = {"net": "lenet5", "batch": 128, "runner": label}
        return [row[key] for row in rows.get("networks", []) if wanted.items() <= row.items()][:1]

    for mode in ("eager", "CUDA graph"):
        add(f"LeNet-5 at 128, times as fast as PyTorch {mode}", GOALS[mode], lenet(f"PyTorch {mode}", "ratio"))
    epochs = [us * MNIST_BATCHES / 1e6 for us in lenet(Handgrad.label, "microseconds")]
    add("LeNet-5 at 128, seconds of an epoch of MNIST", GOALS["epoch"], epochs, is_least=False)
    for n in sorted({n for _, _, n in PRODUCTS}):
        shares = [row["share"] for row in rows.get("sgemm", []) if (row["product"], row["n"]) == ("forward", n)]
        best = [max(share for share in shares if share)] if any(shares) else []
        add(f"matrix product of {n}, share of PyTorch's speed in float32", GOALS["sgemm"], best)
    runs = [row for row in rows.get("mnist99", []) if row["batch"] == RECIPES[0][0]]
    add("MNIST, mean test accuracy", GOALS["accuracy"], [row["accuracy"] for row in runs])
    add("MNIST, seconds of training to it", GOALS["mnist"], [row["training"] for row in runs], is_least=False)
    return found


def as_text(value: object) -> str:
    """Return a cell of a table."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "NO"}[value]
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.1e}"


def table(rows: list[Row]) -> list[str]:
    """Return rows as lines, with a header wherever their keys change; numbers are set flush right."""
    lines = []
    for keys, group in groupby(rows, key=tuple):
        values = [list(row.values()) for row in group]
        cells = [list(keys), *([as_text(value) for value in line] for line in values)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = [all(not isinstance(value, str) for value in column) for column in zip(*values, strict=True)]
        for line in cells:
            padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
            lines.append("  ".join(padded).rstrip())
    return lines


def render_section(name: str, record: dict, shown: Callable[[list[Row]], list[Row]] = list) -> str:
    """Return one section of a report as text."""
    rows = shown(record["rows"])
    more = f", {len(rows)} of {len(record['rows'])} rows" if len(rows) < len(record["rows"]) else ""
    lines = [f"== {name}: {record['status']}, {record['seconds']:.0f} s{more}"]
    lines += [f"! {entry['piece'] or name}: {entry['reason']}" for entry in record["failures"]]
    return "\n".join([*lines, *record["notes"], *table(rows)])


def render(report: dict, sections: dict[str, Section] = SECTIONS) -> str:
    """Return a report as text."""
    if "sections" not in report:
        return report["status"]
    parts = [
        render_section(name, record, sections[name].shown if name in sections else list)
        for name, record in report["sections"].items()
    ]
    return "\n\n".join([*parts, "\n".join(["== goals", *table(report.get("goals", []))])])


def main() -> int:
    """Read the command line, measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m handgrad.benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE.json", help="write everything to this file, after each section")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with MNIST; else $HANDGRAD_DATA")
    parser.add_argument("--only", metavar="SECTION", nargs="+", choices=SECTIONS, help=", ".join(SECTIONS))
    parser.add_argument("--seconds-in-all", type=float, default=SECONDS_IN_ALL, help="default %(default)g")
    a = parser.parse_args()

    def finished(report: dict, name: str) -> None:
        report["goals"] = goals(report)
        print(render_section(name, report["sections"][name], SECTIONS[name].shown), flush=True)
        if a.out:
            write_atomically(Path(a.out), (json.dumps(report, indent=1, default=float) + "\n").encode())

    try:
        if cuda.IS_SIMULATED:
            raise DeviceError("device cuda: the simulator is no GPU", remedy="unset NUMBA_ENABLE_CUDASIM")
        cuda.import_numba_cuda()  # or say here what is not installed
        if a.out and not os.access(Path(a.out).absolute().parent, os.W_OK):
            raise DataError(f"cannot write {a.out}", remedy="choose another place")  # before minutes of measuring
        names, asked = a.only or list(SECTIONS), Asked(a.data_dir)
        report = measure(names, asked, a.seconds_in_all, sections=SECTIONS, finished=finished)
    except HandgradError as error:
        print(f"handgrad: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{render(report)}", flush=True)
    return int(any(record["status"] == "failed" for record in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
