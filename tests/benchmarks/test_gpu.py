"""The command for a GPU, where there is none, and its report as text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import handgrad
from handgrad.benchmarks import gpu
from handgrad.benchmarks.gpu_process import Asked, failure
from handgrad.engine import cuda

RESULTS = Path(handgrad.__file__).parent / "benchmarks" / "results"


def test_goals_are_read_off_the_rows():
    def network(runner, microseconds, ratio):
        return {"net": "lenet5", "batch": 128, "runner": runner, "microseconds": microseconds, "ratio": ratio}

    networks = [
        network("handgrad", 100.0, 1.0),
        network("PyTorch eager", 600.0, 6.0),
        network("PyTorch CUDA graph", 140.0, 1.4),
    ]
    sgemm = [{"product": "forward", "n": 4096, "share": share} for share in (0.6, 0.75)]
    report = {"sections": {"networks": {"rows": networks}, "sgemm": {"rows": sgemm}}}
    found = {row["goal"]: row for row in gpu.goals(report)}
    reached = {goal: row["reached"] for goal, row in found.items() if row["reached"] is not None}
    assert [True, False, True, True] == list(reached.values()) and len(found) == 9
    assert found["LeNet-5 at 128, seconds of an epoch of MNIST"]["measured"] == pytest.approx(0.046875)
    assert found["matrix product of 4096, share of PyTorch's speed in float32"]["measured"] == 0.75


def test_the_report_as_text():
    comparison = {"subject": "relu", "error": 1e-7, "limit": 2e-4, "repeatable": True, "ok": True}
    records = {
        "parity": {"status": "failed", "seconds": 3.0, "rows": [comparison] * 20 + [comparison | {"ok": False}] * 2,
                   "notes": [], "failures": [failure("relu", "ValueError: no")]},
        "conv": {"status": "ok", "seconds": 1.0, "notes": ["PyTorch is left out"], "failures": [], "rows": [
            {"grid": [1, 2], "microseconds": 12.34567, "ratio": None}, {"grid": [10], "microseconds": 123456.7, "ratio": 0.5},
            {"sum": 0.0}]},
    }  # fmt: skip
    text = gpu.render({"sections": records, "goals": [{"goal": "all", "reached": False}]})
    assert "== parity: failed, 3 s, 12 of 22 rows\n! relu: ValueError: no\n" in text
    lines = text.split("\n")
    assert lines[3].split() == ["relu", "1.0e-07", "2.0e-04", "yes", "NO"] and lines[5].endswith("yes")
    at = lines.index("PyTorch is left out")
    assert lines[at + 1 : at + 6] == [
        " grid  microseconds  ratio",
        "1 x 2         12.35      -",
        "   10       1.2e+05    0.5",
        "sum",
        "  0",
    ]
    assert lines[-2:] == ["goal  reached", "all        NO"]


def test_the_published_results_say_that_there_are_none_yet():
    report = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
    assert "sections" in report or gpu.render(report) == "not yet run on a GPU"


def run(*words, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-m", "handgrad.benchmarks.gpu", *words]
    return subprocess.run(command, capture_output=True, text=True, env=inherited | environment)


def test_without_a_gpu_the_command_says_so_in_one_line():
    for environment in ({"CUDA_VISIBLE_DEVICES": ""}, {"NUMBA_ENABLE_CUDASIM": "1"}):
        done = run(**environment)
        assert done.returncode == 4 and done.stdout == ""
        assert done.stderr.startswith("handgrad: device cuda") and done.stderr.count("\n") == 1


def test_the_command_refuses_what_it_does_not_know_and_where_it_cannot_write(tmp_path, monkeypatch, capsys):
    assert "invalid choice: 'speed'" in run("--only", "speed").stderr
    monkeypatch.setattr(cuda, "IS_SIMULATED", False)
    monkeypatch.setattr(cuda, "import_numba_cuda", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "missing" / "gpu.json")])
    assert gpu.main() == 3
    assert capsys.readouterr().err.startswith("handgrad: cannot write")


def test_the_command_writes_its_report_after_each_section(tmp_path, monkeypatch, capsys):
    def fake(names, asked, seconds, sections, finished):
        assert sections is gpu.SECTIONS
        assert (names, asked, seconds) == (["about", "conv"], Asked("data"), 30.0)
        record = {
            "status": "failed",
            "seconds": 1.0,
            "rows": [{"k": 2, "share": np.float32(0.5)}],
            "notes": [],
            "failures": [],
        }
        report = {"sections": {"about": record | {"status": "ok"}}}
        finished(report, "about")
        written = json.loads(out.read_text())
        assert list(written["sections"]) == ["about"] and len(written["goals"]) == 9
        report["sections"]["conv"] = record
        finished(report, "conv")
        return report

    out = tmp_path / "gpu.json"
    for name, value in {"IS_SIMULATED": False, "import_numba_cuda": lambda: None}.items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(gpu, "measure", fake)
    words = ["--only", "about", "conv", "--seconds-in-all", "30", "--data-dir", "data", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    assert gpu.main() == 1
    assert list(json.loads(out.read_text())["sections"]) == ["about", "conv"]
    assert (
        capsys.readouterr().out.count("== conv: failed, 1 s\nk  share\n2    0.5\n") == 2
    )  # when it is made, and at the end
