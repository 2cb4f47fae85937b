"""``handgrad bench --mnist99``: how long a whole training takes to 99 % of MNIST's test images."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..engine.checks import HandgradError
from .console import note

RECIPE = ("lenet5", "--epochs", "4", "--batch-size", "64")  # of handgrad train
GOAL = 0.99  # mean test accuracy


def train_seeds(seeds: int, threads: int) -> dict:
    """Train once for each seed, in a fresh process whose kernels are compiled, and return the report.

    The time is that of the process from its start to its end: Python, kernels, data, training, test.

    Parameters
    ----------
    seeds : int
        0 up to this number are used.
    threads : int

    Raises
    ------
    DataError
        When MNIST is not on this machine.
    """
    from ..datasets import load

    load("mnist", download=False)
    with tempfile.TemporaryDirectory() as folder:
        note("compiling …")
        train(Path(folder) / "warm", 0, threads, ("--limit", "256", "--epochs", "1"))
        runs = []
        for seed in range(seeds):
            runs.append(train(Path(folder) / str(seed), seed, threads))
            note(f"seed {seed}: {runs[-1]['test_accuracy']:.2%} after {runs[-1]['seconds']:.1f} s")
    accuracies, times = ([run[key] for run in runs] for key in ("test_accuracy", "seconds"))
    report = {"kind": "mnist99", "recipe": list(RECIPE), "threads": threads, "goal": GOAL, "results": runs}
    report |= {"mean_accuracy": statistics.fmean(accuracies), "least_accuracy": min(accuracies)}
    report |= {"mean_seconds": statistics.fmean(times), "least_seconds": min(times)}
    return report | {"reached": report["mean_accuracy"] >= GOAL}


def train(folder: Path, seed: int, threads: int, more: tuple[str, ...] = ()) -> dict:
    """Train in a process of its own and return its seed, seconds and test accuracy."""
    words = [*RECIPE, "--data", "mnist", "--seed", str(seed), "--threads", str(threads), "--out", str(folder), *more]
    command = [sys.executable, "-m", __package__.partition(".")[0], "train", *words, "--quiet", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HandgradError(f"bench: training with seed {seed} failed: {last}")
    result = json.loads(done.stdout)
    return {
        "seed": seed,
        "seconds": seconds,
        "compile_seconds": result["compile_seconds"],
        "test_accuracy": result["test_accuracy"],
        "epochs": len(result["epochs"]),
    }
