"""Two processes that compile a training step in turns."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from handgrad.cli import compilers, runs
from handgrad.datasets import load

TOGETHER = """
import json, sys
import numpy as np
from handgrad.cli import compilers, runs
from handgrad.datasets import load
from handgrad.engine.backend import kernels_ready

if __name__ == "__main__":
    sys.platform = sys.argv[2]
    data = load("mnist-5k").train.subset(np.arange(100))
    config = runs.Config(**json.loads(sys.argv[1]))
    print(compilers.is_compiled(config))
    compilers.compile_step(config, data)
    print(compilers.is_compiled(config))
    kernels = compilers.kernels_of_a_step(config, data.subset(np.arange(config.batch_size)))

    def compiled_here():
        return sum(sum(kernel.stats.cache_misses.values()) for kernel in {kernel for kernel, _ in kernels})

    mine = compiled_here()
    for kernel, types in kernels:
        kernel.compile(types)
    print(len(kernels), mine, compiled_here() - mine)
    before = kernels_ready()
    compilers.new_step(config, data)(np.arange(config.batch_size))
    print(kernels_ready() - before)
"""


@pytest.fixture
def data():
    return load("mnist-5k").train.subset(np.arange(100))


def config(**changes):
    """Return the configuration of a small training."""
    settings = {
        "model": "dense 3 > tanh > dense 10",
        "data": "mnist-5k",
        "input_shape": [1, 28, 28],
        "class_names": list("0123456789"),
        "scale": [1.0],
        "shift": [0.0],
        "optimizer": "adam",
        "optimizer_settings": {"learning_rate": 0.1},
        "schedule": "cosine",
        "dtype": "float32",
        "epochs": 1,
        "batch_size": 40,
        "seed": 0,
        "threads": 2,
        "validation": 100,
    }
    return settings | changes


class Recorder:
    """In place of a kernel."""

    def __init__(self):
        self.compiled = []

    def compile(self, types):
        self.compiled.append(types)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_between_them_they_compile_all_that_a_step_needs_and_nothing_twice(tmp_path, platform):
    """Whether the second process is a copy of the first, or has to import everything itself."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = [sys.executable, script, json.dumps(config()), platform]
    environment = {**os.environ, "HANDGRAD_CACHE": str(tmp_path)}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    before, after, kernels, mine, missing, more = done.stdout.split()
    assert (before, after) == ("False", "True")
    assert int(kernels) > 10
    assert int(mine) > 0
    assert platform == "darwin" or int(mine) < int(kernels), "the second process compiled nothing"
    assert missing == more == "0"


def test_without_a_second_process_the_first_compiles_everything(monkeypatch, data):
    recorder = Recorder()
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])

    def fail(self):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", fail)
    compilers.compile_step(runs.Config(**config()), data)
    assert recorder.compiled == list(range(9))


def test_a_second_process_that_dies_leaves_the_rest_to_the_first(monkeypatch, data):
    recorder = Recorder()
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])
    monkeypatch.setattr(compilers, "_be_second", lambda *_: os._exit(1))
    compilers.compile_step(runs.Config(**config()), data)
    assert recorder.compiled == list(range(9))


def test_who_finds_all_turns_taken_waits_for_the_other(monkeypatch, data, tmp_path):
    """What the other one took comes from the cache, once it is there."""
    recorder, first = Recorder(), os.getpid()
    taken, finished = tmp_path / "taken", tmp_path / "finished"
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])
    in_turns = compilers.compile_in_turns

    def second_before_first(turns, kernels):
        while os.getpid() == first and not taken.exists():
            time.sleep(0.01)
        in_turns(turns, kernels)
        if os.getpid() != first:
            taken.touch()
            time.sleep(0.5)
            finished.touch()

    monkeypatch.setattr(compilers, "compile_in_turns", second_before_first)
    compilers.compile_step(runs.Config(**config(batch_size=100)), data)
    assert finished.exists() and recorder.compiled == []


def test_long_kernels_come_first(data):
    lengths = [
        len(kernel.py_func.__code__.co_code) for kernel, _ in compilers.kernels_of_a_step(runs.Config(**config()), data)
    ]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def test_the_list_has_every_part_of_a_step(data):
    kernels = compilers.kernels_of_a_step(runs.Config(**config()), data)
    names = {kernel.py_func.__name__ for kernel, _ in kernels}
    assert {"gather", "dense_forward", "softmax_cross_entropy", "dense_weight_gradient", "adam_update"} <= names
    assert {"_work", "_begin", "_meet"} <= names
