"""``handgrad gradcheck``: tables for layers, losses and networks, their verdicts, and the sweep over h."""

from __future__ import annotations

import json
import sys

import pytest

from handgrad.cli import run
from handgrad.engine.cases import CASES, LOSSES


def as_json(capsys, *arguments):
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_gradcheck_reports_every_parameter_and_the_input(capsys):
    model = (
        "conv 3@3x3 same > tanh > avgpool 2 > conv 2@3x2 stride 1x2 pad 1 > relu > maxpool 2 > dropout 0.3 > dense 3"
    )
    code, result = as_json(
        capsys, "gradcheck", model, "--input-shape", "2x10x9", "--classes", "3", "--samples", "3", "--elements", "all"
    )
    assert code == 0
    assert result["ok"]
    names = [row["name"] for row in result["arrays"]]
    value, *parameters = names
    assert value == "value of dense1"
    assert parameters == ["conv1.W", "conv1.b", "conv2.W", "conv2.b", "dense1.W", "dense1.b", "input"]
    for row in result["arrays"][1:]:
        assert row["compared"] + row["kinks"] == row["elements"]
        assert row["compared"] > row["kinks"]
        assert row["views"]["difference"]["relative"] < 1e-6
        assert row["views"]["literal"]["relative"] < 1e-10


def test_gradcheck_fails_with_exit_code_1_when_a_gradient_is_wrong(capsys, monkeypatch):
    from handgrad.engine.layers.dense import Dense

    right = Dense.finish

    def wrong(self, share, rank, size):
        right(self, share, rank, size)
        if rank == 0:
            share.gradients["W"][...] *= 1.001

    monkeypatch.setattr(Dense, "finish", wrong)
    code, result = as_json(capsys, "gradcheck", "dense 4 > tanh > dense 3", "--input-shape", "5", "--classes", "3")
    assert code == 1
    assert {row["name"]: row["verdict"] for row in result["arrays"]} == {
        "value of dense2": "ok",
        "dense1.W": "FAIL",
        "dense1.b": "ok",
        "dense2.W": "FAIL",
        "dense2.b": "ok",
        "input": "ok",
    }


def test_all_layers_and_losses(capsys):
    code, result = as_json(capsys, "gradcheck", "--all", "--seed", "2")
    assert code == 0 and result["ok"]
    assert result["views"] == ["literal", "kernel (cpu)", "difference", "symbolic"]
    assert {case["subject"] for case in result["cases"]} == set(CASES)
    assert {case["subject"] for case in result["cases"] if case["kind"] == "loss"} == set(LOSSES)
    for case in result["cases"]:
        assert case["ok"] and case["arrays"]
        for row in case["arrays"]:
            assert row["verdict"] == ("surrogate" if "surrogate" in case["title"] and row["name"] == "x" else "ok")
            for comparison in row["views"].values():
                assert set(comparison) == {"absolute", "relative", "index"}
    invariants = {case["subject"]: [i["text"] for i in case["invariants"]] for case in result["cases"]}
    assert any("Σ_k ∂L/∂z[k] = 0" in text for text in invariants["softmax_cross_entropy"])
    assert invariants["maxpool2d"]


@pytest.mark.parametrize("name", ["mse", "rnn", "Conv2D", "max pooling"])
def test_the_short_names_of_derive_are_understood(capsys, name):
    assert run(["gradcheck", name, "--elements", "2"]) == 0
    assert "arrays agree" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["batch_norm", "BatchNorm", "batchnorm"])
def test_one_layer_as_a_table(capsys, name):
    assert run(["gradcheck", name]) == 0
    text = capsys.readouterr().out
    assert "== batch_norm: flat samples, training, 4 samples" in text
    header = next(line for line in text.splitlines() if line.startswith("array")).split()
    assert header == ["array", "shape", "largest", "quotients", "kinks", "literal", "difference", "symbolic", "absolute", "at",
                      "verdict"]  # fmt: skip
    assert "Σ ∂L/∂x = 0 for every channel: off by" in text
    assert "12 arrays agree in 3 configurations" in text


def test_a_layer_fails_with_exit_code_1(capsys, monkeypatch):
    from handgrad.engine.layers.conv2d import Conv2D

    right = Conv2D.backward

    def wrong(self, share):
        right(self, share)
        share.gradients["b"][...] *= 1.001

    monkeypatch.setattr(Conv2D, "backward", wrong)
    assert run(["gradcheck", "conv2d"]) == 1
    text = capsys.readouterr().out
    assert "FAIL" in text and "7 of 28 arrays FAIL in 7 configurations" in text
    assert "not ok: conv2d, conv2d (same padding, even kernel)" in text


def test_without_sympy_the_exact_view_is_left_out_and_said_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    assert run(["gradcheck", "dense", "--json"]) == 0
    output = capsys.readouterr()
    assert "SymPy is not installed" in output.err
    result = json.loads(output.out)
    assert result["ok"] and result["views"] == ["literal", "kernel (cpu)", "difference"]


def test_a_network_with_batch_normalization_and_a_loss_of_its_own(capsys):
    model = "dense 6 > batchnorm > leakyrelu 0.1 > dense 3 > softmax"
    code, result = as_json(capsys, "gradcheck", model, "--input-shape", "5", "--samples", "4", "--elements", "all")
    assert code == 0 and result["loss_function"] == "cross_entropy"
    assert {row["verdict"] for row in result["arrays"]} == {"ok"}


def test_sweep_draws_the_error_over_h(capsys, tmp_path):
    picture = tmp_path / "sweep.png"
    model = ["dense 4 > tanh > dense 3", "--input-shape", "5", "--classes", "3"]
    code, result = as_json(capsys, "gradcheck", *model, "--sweep", str(picture), "--parameter", "dense1.W")
    assert code == 0 and result["parameter"] == "dense1.W"
    assert picture.read_bytes().startswith(b"\x89PNG")
    double, single = (
        {point["h"]: point["error"] for point in result["errors"][name]} for name in ("float64", "float32")
    )
    assert min(double.values()) < 1e-8 and 1e-5 < min(single.values()) < 1e-2
    assert 1e-6 < min(double, key=double.get) < 1e-3 < min(single, key=single.get) < 1
    assert double[1e-2] > 50 * double[1e-3] > 2500 * double[1e-4], "truncation falls with the square of h"
    assert double[1e-12] > 100 * double[1e-9], "rounding grows as h falls"


def test_sweep_of_a_layer_in_words(capsys, tmp_path):
    assert run(["gradcheck", "sigmoid", "--sweep", str(tmp_path / "a.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["float64", "float32", "picture"]
    assert "is best at h = 1e-0" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "gradcheck: got nothing, expected a MODEL, a LAYER, or --all; try: handgrad gradcheck conv2d"),
        (["conv2d", "--all"], 2, "gradcheck: got both, expected a MODEL, a LAYER, or --all"),
        (["--all", "--sweep", "a.png"], 2, "--sweep: got --all, expected one MODEL or LAYER"),
        (["conv2d", "--parameter", "conv1.W"], 2, "--parameter: expected --sweep FILE with it"),
        (["conv2d", "--sweep", "a.txt"], 2, "picture a.txt: got the suffix '.txt', expected .png, .svg, .pdf"),
        (["conv2d", "--sweep", "no/a.png"], 3, "cannot write no/a.png: the folder no does not exist"),
        (["conv2d", "--sweep", "a.png", "--parameter", "W"], 2, "--parameter W: expected one of conv1.W, conv1.b, x"),
        (["step", "--sweep", "a.png"], 2, "--parameter x: got a gradient that is 0 everywhere, expected another"),
        (["conv2d", "--samples", "3"], 2, "--samples: expected a MODEL with it; a LAYER has its own configurations"),
        (
            ["dense 2 > step sigmoid", "--classes", "2", "--input-shape", "3", "--sweep", "a.png"],
            2,
            "--parameter dense1.W: got a declared surrogate before the loss, expected a true derivative",
        ),
        (["conv3d"], 2, "there is no model 'conv3d'"),
        (["dense 3 > hinge"], 2, "layer 2 of the text, 'hinge': expected one of"),
        (["dense", "--elements", "few"], 2, "--elements: got 'few', expected a number from 1 up, or all"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert run(["gradcheck", *arguments]) == code
    output = capsys.readouterr()
    assert message in output.err and len(output.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
