"""Where the time goes: every layer has its line, and the lines add up to the step."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.benchmarks import layers
from handgrad.benchmarks.ours import Handgrad


@pytest.fixture
def undisturbed(monkeypatch):
    monkeypatch.setattr(layers, "quietly", lambda measure: (measure(), 2))
    monkeypatch.setattr(layers, "peak_gflops", lambda threads: 1000.0)


def test_every_layer_has_a_line_and_all_add_up(undisturbed):
    result = layers.measure("lenet5", 32, 2, 0.0)
    names = [row["layer"] for row in result["layers"]]
    assert names[:3] == ["conv1, relu1", "maxpool1", "conv2, relu2"] and names[5:] == [
        "dense1, relu3",
        "dense2, relu4",
        "dense3",
    ]
    shares = [row[way]["share_of_step"] for row in result["layers"] for way in ("forward", "backward")]
    shares += [row["share_of_step"] for row in result["outside"]]
    assert sum(shares) == pytest.approx(
        1, abs=0.4
    )  # medians of ten steps do not add up, least of all on a busy machine
    assert {row["what"] for row in result["outside"]} >= {"loading", "loss", "update", "Python, counting"}
    assert result["steps"] == 2 * layers.LEAST and result["rejected"] == 4


def test_operations_of_a_layer(undisturbed):
    result = layers.measure("lenet5", 32, 1, 0.0)
    rows = {row["layer"].partition(",")[0]: row for row in result["layers"]}

    def operations(row, way):
        return row[way]["gflops"] * row[way]["microseconds"] * 1e3

    assert operations(rows["conv1"], "forward") == pytest.approx(2 * 32 * 25 * 6 * 784)
    assert operations(rows["conv1"], "backward") == pytest.approx(2 * 32 * 25 * 6 * 784)  # the weights' gradient alone
    assert operations(rows["conv2"], "backward") == pytest.approx(2 * 2 * 32 * 150 * 16 * 100)
    assert rows["maxpool1"]["forward"]["gflops"] is None


def test_the_clocks_change_nothing_and_are_taken_off_again():
    with_clocks, without = Handgrad("lenet5", 16, 1), Handgrad("lenet5", 16, 1)
    clock = layers.Clock()
    with layers.clocks_on(with_clocks, clock):
        times = clock.step(with_clocks.step)
    without.step()
    np.testing.assert_array_equal(with_clocks.network.theta, without.network.theta)
    assert ("forward", "conv1") in times and ("backward", "dense3") in times
    assert not any("forward" in vars(node.layer) for node in with_clocks.network.nodes.values() if node.layer)


def test_a_piece_inside_another_is_counted_once(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 7.0])  # the outer starts, the inner from 1 to 3, the outer ends
    monkeypatch.setattr(layers.time, "perf_counter", lambda: next(ticks))
    clock = layers.Clock()
    times = clock.step(clock.around(("forward", "a"), lambda: None))
    assert times == {("forward", "a"): 2.0, ("rest", "Python, counting"): 5.0}
