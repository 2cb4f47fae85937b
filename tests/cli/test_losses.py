"""Which loss a text is trained with, the perceptron rule, and why one layer of neurons cannot learn XOR."""

from __future__ import annotations

import json

import numpy as np
import pytest

from handgrad.cli import losses, run
from handgrad.cli.lines import draws_straight_lines, units_alike, why_not
from handgrad.engine.checks import ConfigurationError
from handgrad.engine.models.build import build

XOR = ["--data", "toy:xor", "--threads", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(capsys, *arguments):
    code = run(["train", *arguments, "--json"])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else None, output.err


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_one_layer_of_neurons_cannot_learn_xor_and_the_reason_is_said(capsys, seed):
    code, result, err = train(capsys, "dense 2 > step", *XOR, "--seed", seed)
    assert code == 0
    assert result["model"] == "dense 2 > step straight-through" and result["loss"] == "perceptron"
    assert result["test_accuracy"] <= 0.75
    assert "perceptron rule w += α (t - a) x" in err and "surrogate straight-through" in err
    assert "no straight line separates class 0 from class 1: (0.5, 0.5)" in result["why"]
    assert "0.5 (0, 0) + 0.5 (1, 1)" in result["why"] and "hidden layer" in result["why"]


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_hidden_layer_learns_xor(capsys, seed):
    code, result, err = train(capsys, "dense 4 > tanh > dense 2", *XOR, "--seed", seed)
    assert code == 0 and result["test_accuracy"] == 1.0 and result["why"] is None
    assert "perceptron" not in err


def test_the_reason_is_printed_for_other_straight_lines_too(capsys):
    assert run(["train", "dense 2", *XOR, "--epochs", "1"]) == 0
    assert "no straight line separates class 0 from class 1" in capsys.readouterr().out


def test_a_step_inside_stops_the_gradient_and_that_is_said(capsys):
    code, result, err = train(capsys, "dense 4 > step > dense 2", *XOR, "--epochs", "1")
    assert code == 0 and result["model"] == "dense 4 > step > dense 2"
    assert "step1: the derivative of a step is 0 (step.2), so nothing before it learns" in err
    _, _, err = train(capsys, "dense 4 > step sigmoid > dense 2", *XOR, "--epochs", "1")
    assert "so nothing before it learns" not in err


def test_the_surrogate_is_in_the_config_and_in_the_trace(capsys, here):
    assert run(["train", "dense 2 > step", *XOR, "--epochs", "1", "--out", "r", "-q"]) == 0
    assert json.loads((here / "r" / "config.json").read_text())["model"].endswith("step straight-through")
    capsys.readouterr()
    assert run(["trace", "r", "--sample", "1"]) == 0
    text = capsys.readouterr().out
    assert "surrogate straight-through" in text
    assert "a declared surrogate, not the derivative: difference quotients disagree" in text
    assert run(["evaluate", "r"]) == 0


@pytest.mark.parametrize(
    ("end", "asked", "loss"),
    [
        ("", None, "softmax_cross_entropy"),
        (" > logsoftmax", None, "softmax_cross_entropy"),
        (" > softmax", None, "cross_entropy"),
        (" > sigmoid", None, "binary_cross_entropy"),
        (" > step straight-through", None, "perceptron"),
        ("", "hinge", "hinge"),
        ("", "binary_cross_entropy", "binary_cross_entropy"),
        ("", "mean_squared_error", "mean_squared_error"),
        (" > softmax", "mean_absolute_error", "mean_absolute_error"),
        (" > softmax", "softmax_cross_entropy", "softmax_cross_entropy"),
    ],
)
def test_the_last_layer_suggests_the_loss(end, asked, loss):
    network = build(f"dense 3{end}", (4,), threads=1)
    assert losses.choose(asked, network) == loss == losses.make(loss, network).kind


def test_binary_cross_entropy_takes_logits_unless_there_is_a_sigmoid():
    assert losses.make("binary_cross_entropy", build("dense 3", (4,), threads=1)).logits
    assert not losses.make("binary_cross_entropy", build("dense 3 > sigmoid", (4,), threads=1)).logits


@pytest.mark.parametrize(("loss", "needed"), [("cross_entropy", "softmax"), ("perceptron", "step")])
def test_a_loss_that_needs_another_last_layer(capsys, here, loss, needed):
    network = build("dense 3 > tanh", (4,), threads=1)
    with pytest.raises(
        ConfigurationError, match=f"--loss {loss}: got a network that ends with tanh, expected .* {needed}"
    ):
        losses.choose(loss, network)
    assert run(["train", "dense 2 > tanh", *XOR, "--loss", loss]) == 2
    assert not list(here.iterdir()), "no run folder is left behind"


@pytest.mark.parametrize("loss", [*losses.NAMES[:1], *losses.NAMES[2:-1]])
def test_every_loss_trains(capsys, loss):
    code, result, _ = train(capsys, "dense 8 > tanh > dense 2", *XOR, "--loss", loss, "--epochs", "30")
    assert code == 0 and result["test_accuracy"] == 1.0 and result["loss"] == loss


def test_probabilities():
    z = np.array([[1.0, 2.0, -1.0]])
    p = losses.probabilities(build("dense 3", (4,), threads=1), z)
    np.testing.assert_allclose(p, np.exp(z) / np.exp(z).sum(), rtol=1e-15)
    np.testing.assert_array_equal(losses.probabilities(build("dense 3 > softmax", (4,), threads=1), p), p)
    log_p = losses.probabilities(build("dense 3 > logsoftmax", (4,), threads=1), np.log(p))
    np.testing.assert_allclose(log_p, p, rtol=1e-15)


@pytest.mark.parametrize(
    ("text", "straight"),
    [("dense 2", True), ("flatten > dense 3 > dense 2 > softmax", True), ("dense 2 > step", True),
     ("dense 4 > tanh > dense 2", False), ("dense 4 > step > dense 2", False), ("dense 2 > relu", False)],
)  # fmt: skip
def test_which_networks_draw_straight_lines(text, straight):
    assert draws_straight_lines(build(text, (2,), threads=1)) is straight


def test_why_not_is_silent_where_a_line_exists_or_nothing_can_be_proven():
    network, rng = build("dense 2", (2,), threads=1), np.random.default_rng(0)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    assert why_not(network, corners, np.array([0, 0, 0, 1]), ["no", "yes"]) is None
    assert "class no from class yes" in why_not(network, corners, np.array([0, 1, 1, 0]), ["no", "yes"])
    assert (
        why_not(build("dense 3 > tanh > dense 2", (2,), threads=1), corners, np.array([0, 1, 1, 0]), ["a", "b"]) is None
    )
    many = rng.normal(size=(2000, 2))
    assert why_not(network, many, rng.integers(0, 2, 2000), ["a", "b"]) is None


def test_undecided():
    assert losses.decided(np.array([0.1, 0.7, 0.2])) == 1
    assert losses.decided(np.array([1.0, 1.0, 0.0])) is None
    assert losses.decided(np.array([0.1, np.nan, 0.2])) is None


def test_a_trace_of_two_neurons_that_both_fire_is_undecided(capsys, here):
    options = ["--init", "zeros", "--lr", "1e-9", "--epochs", "1", "--out", "r", "-q"]
    assert run(["train", "dense 2 > step", *XOR, *options]) == 0
    capsys.readouterr()
    assert run(["trace", "r", "--sample", "0,1,2,3"]) == 0
    assert "label 1, " in capsys.readouterr().out


def test_the_trace_does_not_call_a_softmax_of_a_softmax_minus_log_p(capsys, here):
    options = ["--loss", "softmax_cross_entropy", "--epochs", "1", "--out", "r", "-q"]
    assert run(["train", "dense 2 > softmax", *XOR, *options]) == 0
    capsys.readouterr()
    assert run(["trace", "r", "--layer", "loss"]) == 0
    text = capsys.readouterr().out
    assert "its loss = " in text and "-log p[label]" not in text


def test_only_a_last_step_is_replaced():
    assert (
        losses.with_perceptron_rule("dense 4 > step > dense 2 -> STEP")[0]
        == "dense 4 > step > dense 2 > step straight-through"
    )
    for text in ("mlp", "step", "dense 2 > step sigmoid", "dense 2 > relu"):
        assert losses.with_perceptron_rule(text) == (text, None)


def test_zeros_leave_all_units_alike_and_that_is_said(capsys):
    code, result, _ = train(capsys, "dense 4 > tanh > dense 2", *XOR, "--init", "zeros", "--epochs", "3")
    assert code == 0 and result["test_accuracy"] <= 0.5
    assert result["why"].startswith("dense1: all units of a layer still have the same weights")
    assert "(initializers.10)" in result["why"]


def test_random_weights_are_not_alike_and_a_single_unit_is_alone():
    assert units_alike(build("dense 4 > tanh > dense 2", (2,), threads=1)) is None
    assert units_alike(build("dense 1 > tanh > dense 2", (2,), threads=1, initializer="zeros")) is None
    network = build("dense 3 > tanh > dense 2", (2,), threads=1, initializer="zeros")
    assert "dense1:" in units_alike(network)
    network.parameters["dense1.W"][0, 0] = 1
    assert units_alike(network) is None


@pytest.mark.parametrize("name", ["he", "xavier", "small", "zeros"])
def test_init_reaches_every_layer_with_weights(name):
    texts = "conv 6@3 > convtranspose 4@3 > relu > dense 50 > dense 3", "rnn 40 > dense 30"
    for text, shape in zip(texts, ((2, 9, 9), (5, 20)), strict=True):
        network = build(text, shape, threads=1, initializer=name)
        for parameter, array in network.parameters.items():
            if ".W" in parameter:
                expected = {"small": 0.01, "zeros": 0.0}.get(name)
                assert expected is None or abs(array.std() - expected) < 0.3 * expected + 1e-9
                assert name in ("small", "zeros") or array.std() > 0.02


def test_an_unknown_initializer():
    with pytest.raises(ConfigurationError, match="^initializer: got 'ones', expected one of he, xavier, small, zeros"):
        build("dense 2", (2,), threads=1, initializer="ones")
