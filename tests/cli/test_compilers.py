"""Two processes that compile a training step in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from handgrad.cli.compilers import Request, SecondCompiler, kernels_of_a_step

SMALL = Request("dense 3 > tanh > dense 2", (5,), "adam", "float32", 40, None)
TOGETHER = """
import json, sys
import numpy as np
from handgrad.cli import compilers
from handgrad.engine.backend import kernels_ready
request = compilers.Request.parse(sys.argv[1])
compilers.SecondCompiler(request).compile()
kernels = compilers.kernels_of_a_step(request)
mine = sum(types in kernel.overloads for kernel, types in kernels)
for kernel, types in kernels:
    kernel.compile(types)
loaded = sum(sum(kernel.stats.cache_hits.values()) for kernel in {kernel for kernel, _ in kernels})
before = kernels_ready()
compilers.new_step(request, threads=2)(np.arange(request.batch_size))
print(json.dumps([len(kernels), mine, loaded, kernels_ready() - before]))
"""


class Recorder:
    """In place of a kernel."""

    def __init__(self):
        self.compiled = []

    def compile(self, types):
        self.compiled.append(types)


def test_between_them_they_compile_all_that_a_step_needs_and_nothing_twice(tmp_path):
    command = [sys.executable, "-c", TOGETHER, str(SMALL)]
    environment = {**os.environ, "HANDGRAD_CACHE": str(tmp_path)}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    kernels, mine, loaded, more = json.loads(done.stdout)
    assert kernels > 10
    assert 0 < mine < kernels, "one process compiled all of them"
    assert loaded == kernels - mine
    assert more == 0


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_without_the_other_one_compiles_everything(monkeypatch, program):
    """Whether it cannot be started or ends at once."""
    recorder = Recorder()
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr("handgrad.cli.compilers.kernels_of_a_step", lambda request: [(recorder, k) for k in range(9)])
    SecondCompiler(SMALL).compile()
    assert recorder.compiled == list(range(9))


def test_who_finds_all_turns_taken_waits_for_the_other(monkeypatch, tmp_path):
    """What the other one took comes from the cache, once it is there."""
    other, taken, finished = tmp_path / "other", tmp_path / "taken", tmp_path / "finished"
    other.write_text(
        f"#!/bin/sh\nhead -c 2000 > /dev/null\ntouch {taken}\nsleep 0.5\ntouch {finished}\necho\nsleep 5\n"
    )
    other.chmod(0o755)
    recorder = Recorder()

    def kernels(request):
        while not taken.exists():
            time.sleep(0.01)
        return [(recorder, k) for k in range(9)]

    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setattr("handgrad.cli.compilers.kernels_of_a_step", kernels)
    SecondCompiler(SMALL).compile()
    assert finished.exists() and recorder.compiled == []


def test_a_request_survives_the_command_line():
    assert Request.parse(str(SMALL)) == SMALL


def test_long_kernels_come_first():
    lengths = [len(kernel.py_func.__code__.co_code) for kernel, _ in kernels_of_a_step(SMALL)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
