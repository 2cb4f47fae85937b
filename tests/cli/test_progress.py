"""The progress line: what it says, and that compiling and silence are respected."""

from __future__ import annotations

import re

import numpy as np
import pytest

from handgrad.cli.progress import TrainingProgress
from handgrad.engine import SGD, Dense, Input, Network, SoftmaxCrossEntropy
from handgrad.engine.feed import Feed
from handgrad.engine.schedules import constant
from handgrad.engine.training import Training


@pytest.fixture
def training():
    x = Input((4,))
    network = Network(x, Dense(2)(x), threads=1)
    rng = np.random.default_rng(0)
    feed = Feed(rng.normal(size=(100, 4)), rng.integers(0, 2, 100), np.ones(4), np.zeros(4))
    return Training(
        network, SoftmaxCrossEntropy(), SGD(0.1), feed, feed, epochs=3, batch_size=10, schedule=constant, seed=0
    )


def test_the_line_says_epoch_share_rate_loss_accuracy_and_time_left(training):
    at = training.progress
    at.epoch, at.batch, at.seen, at.seconds, at.loss_sum, at.correct = 1, 5, 50, 2.0, 25.0, 40
    line = TrainingProgress(training).line()
    assert line.startswith("epoch 2/3 [############............]  50%")
    assert "25 images/s" in line
    assert "loss 0.5000" in line
    assert "accuracy  80.00%" in line
    assert line.endswith("0:06 left")  # 150 of 300 images remain, at 25 a second


def test_before_the_first_step_the_time_left_is_unknown(training):
    assert TrainingProgress(training).line().endswith("-:-- left")


def test_long_times_have_hours(training):
    at = training.progress
    at.seen, at.seconds = 1, 60.0
    assert re.search(r"\b4:59:00 left$", TrainingProgress(training).line())


def test_nothing_is_drawn_where_nobody_watches(training, capsys):
    progress = TrainingProgress(training)
    for word in training.run():
        if word == "step":
            progress.step()
    progress.clear()
    error = capsys.readouterr().err
    assert "epoch" not in error


def test_the_line_is_redrawn_in_its_place_and_wiped(training, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = TrainingProgress(training)
    assert progress.live
    next(training.run())
    progress.step()
    progress.clear()
    drawn = capsys.readouterr().err
    assert drawn.count("\repoch 1/3") == 1
    assert drawn.endswith("\r")


def test_compiling_is_announced_once_and_left_out_of_the_rate(training, capsys, monkeypatch):
    TrainingProgress(training, is_first=True)
    assert "compiling kernels, once" in capsys.readouterr().err
    TrainingProgress(training, quiet=True, is_first=True)
    TrainingProgress(training)
    assert capsys.readouterr().err == ""
    clock = iter([0.0, 7.0])  # a first step that took, so the clock says, seven seconds of compiling
    monkeypatch.setattr("handgrad.engine.training.compile_seconds", lambda: next(clock))
    next(training.run())
    assert training.progress.seconds < 0
