"""``--device``: a whole run on CUDA kernels, in the simulator, and what happens where there is no GPU."""

from __future__ import annotations

import json

import pytest

from handgrad.cli import options, run
from handgrad.engine import cuda

MODEL = "dense 4 > relu > batchnorm > dropout 0.2 > dense 2"
TRAIN = ["train", MODEL, "--data", "toy:xor", "--limit", "40", "--batch-size", "16", "--epochs", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_on_cuda_is_that_on_the_cpu(here, simulated, capsys):
    by_device = {
        device: result(capsys, *TRAIN, "--dtype", "float64", "--device", device, "--out", device, "-q")
        for device in ("cpu", "cuda")
    }
    assert [found["device"] for found in by_device.values()] == ["cpu", "cuda"]
    assert json.loads((here / "cuda" / "config.json").read_text())["device"] == "cuda"
    ours, theirs = (found["epochs"] for found in by_device.values())
    for one, other in zip(ours, theirs, strict=True):
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-6)
        assert other["train_accuracy"] == one["train_accuracy"]
    evaluated = [result(capsys, "evaluate", "cuda", "--device", device) for device in ("cpu", "cuda")]
    assert evaluated[0]["confusion"] == evaluated[1]["confusion"]
    traced = [result(capsys, "trace", "cuda", "--device", device) for device in ("cpu", "cuda")]
    assert traced[0]["loss"] == pytest.approx(traced[1]["loss"], rel=1e-12)


def test_an_interrupted_run_continues_where_it_was(here, simulated, capsys, monkeypatch):
    from handgrad.engine import cuda_training

    monkeypatch.setattr(cuda_training.CudaTrainingStep, "at_once", 1)
    whole = result(capsys, *TRAIN, "--device", "cuda", "--out", "whole", "-q")
    interrupt_after(monkeypatch, 4)
    assert run([*TRAIN, "--device", "cuda", "--out", "part", "-q"]) == 130
    monkeypatch.undo()
    capsys.readouterr()
    monkeypatch.chdir(here)
    monkeypatch.setattr(cuda, "device", simulated)
    resumed = result(capsys, "train", "--resume", "part", "-q")
    for one, other in zip(whole["epochs"], resumed["epochs"], strict=True):
        for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            assert one[key] == other[key]


def interrupt_after(monkeypatch, steps):
    """Send Ctrl-C to this process after so many steps."""
    import os
    import signal

    from handgrad.engine.cuda_training import CudaTrainingStep

    train, done = CudaTrainingStep.run, []

    def count(self, batches, rates):
        done.append(len(batches))
        if sum(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, batches, rates)

    monkeypatch.setattr(CudaTrainingStep, "run", count)


def test_a_run_of_a_gpu_needs_one_to_continue_unless_the_cpu_is_asked_for(here, capsys, monkeypatch):
    assert run([*TRAIN, "--out", "run", "-q"]) == 0
    config = json.loads((here / "run" / "config.json").read_text())
    (here / "run" / "config.json").write_text(json.dumps(config | {"device": "cuda"}))
    capsys.readouterr()
    assert run(["train", "--resume", "run"]) == 4
    assert "use --device cpu" in capsys.readouterr().err
    assert run(["train", "--resume", "run", "--device", "cpu", "-q"]) == 0


def test_a_device_that_is_none_is_a_damaged_run(here, capsys):
    assert run([*TRAIN, "--out", "run", "-q"]) == 0
    config = json.loads((here / "run" / "config.json").read_text())
    (here / "run" / "config.json").write_text(json.dumps(config | {"device": "tpu"}))
    capsys.readouterr()
    assert run(["evaluate", "run"]) == 3 and "device 'tpu'" in capsys.readouterr().err


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, simulated):
    assert options.resolve_device("cpu") == "cpu" and options.resolve_device("cuda") == "cuda"
    monkeypatch.setattr(options, "may_have_gpu", lambda: True)
    assert options.resolve_device("auto") == "cpu"  # a simulator is no gain
    monkeypatch.setattr(cuda, "IS_SIMULATED", False)
    assert options.resolve_device("auto") == "cuda"


def test_auto_is_the_cpu_where_a_driver_is_there_and_fails(monkeypatch):
    monkeypatch.setattr(options, "may_have_gpu", lambda: True)
    assert options.resolve_device("auto") == "cpu"
