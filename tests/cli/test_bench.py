"""``handgrad bench``: what is measured is the same work, and what is printed is what was measured."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from handgrad.benchmarks import machine
from handgrad.benchmarks.nets import NETS, graph
from handgrad.benchmarks.one import operations
from handgrad.benchmarks.ours import Handgrad
from handgrad.cli import bench, run
from handgrad.engine import Network

QUICK = ["--net", "lenet5", "--batch-size", "16", "--repeats", "1", "--seconds", "0.01", "--threads", "1"]


def test_json_of_one_network(capsys, tmp_path):
    assert run(["bench", *QUICK, "--json", "--out", str(tmp_path / "b.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "b.json").read_text())
    (result,) = report["results"]
    assert result["net"] == "lenet5" and result["batch"] == 16 and result["threads"] == 1
    assert result["images_per_second"]["handgrad"] > 0 and 0 < result["share_of_peak"] < 1
    assert result["gflops"] == pytest.approx(result["images_per_second"]["handgrad"] * 2_263_920 / 1e9)


def test_table(capsys):
    result = {
        "net": "a", "batch": 8, "images_per_second": {"handgrad": 2000.0}, "gflops": 10.0, "share_of_peak": 0.25,
        "forward_images_per_second": {"handgrad": 6000.0}, "buffers_bytes": 2**21, "rejected": 3, "goal": 1.5,
        "step": {"ratio": 2.0, "least": 1.5, "largest": 2.5, "strongest": "PyTorch eager"}, "forward": {"ratio": 3.0},
    }  # fmt: skip
    text = bench.render({"results": [result], "machine": "m", "threads": 2, "date": "2026-01-01"})
    row = text.splitlines()[2].split()
    assert row == ["a", "8", "2,000", "10.0", "25%", "6,000", "2.0", "2.00", "1.50-2.50", "1.5", "eager", "3.00", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--net", "vgg"], "--net: got vgg, expected one of lenet5"), (["--batch-size", "0"], "")],
)
def test_errors(capsys, arguments, message):
    assert run(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_operations_are_counted_by_hand():
    """conv1 25 x 6 x 784, conv2 150 x 16 x 100, dense 400 x 120, 120 x 84, 84 x 10; conv1 needs no input gradient."""
    counts = [25 * 6 * 784, 150 * 16 * 100, 400 * 120, 120 * 84, 84 * 10]
    x, z = graph("lenet5")
    assert operations(Network(x, z, threads=1)) == 2 * (2 * counts[0] + 3 * sum(counts[1:])) == 2_263_920


@pytest.mark.parametrize("name", NETS)
def test_a_step_trains_and_a_forward_pass_runs(name):
    runner = Handgrad(name, 16, 1)
    before = runner.network.theta.copy()
    runner.step()
    assert np.isfinite(runner.network.theta).all() and (runner.network.theta != before).any()
    runner.forward()
    assert runner.buffers() > runner.network.theta.nbytes


@pytest.mark.parity
@pytest.mark.parametrize("name", NETS)
def test_the_peer_is_the_same_network(name):
    torch = pytest.importorskip("torch")
    from handgrad.benchmarks.peers import PyTorch, modules

    module = modules(name)
    x, z = graph(name)
    network = Network(x, z, threads=1)
    assert sum(p.numel() for p in module.parameters()) == network.parameter_count
    assert tuple(module(torch.zeros(2, *NETS[name].shape)).shape[1:]) == network.outputs[0].shape
    peer = PyTorch(name, 16, 1, "eager")
    before = [p.detach().clone() for p in peer.module.parameters()]
    peer.step()
    assert any((p != q).any() for p, q in zip(peer.module.parameters(), before, strict=True))
    assert peer.images_per_second(0.01, forward=True) > 0 and peer.module.training


def test_the_step_with_an_input_gradient_computes_it():
    runner = Handgrad("conv-1x1", 16, 1)
    W = runner.network.parameters["conv1.W"][:, :, 0, 0].copy()
    runner.step()
    part = runner.network.pass_for(16).active[0]
    expected = np.einsum("oc,nohqv->nchqv", W, part.seeds[0])
    # a sum of 32 products in float32
    np.testing.assert_allclose(part.gradients["input"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_peak_is_more_than_any_kernel_reaches():
    assert machine.peak_gflops(1, turns=50_000) > 1


def test_a_noisy_measurement_is_repeated_and_counted(monkeypatch):
    busy = iter([0.0, 9.0, 9.0, 9.0 + 1e-9])
    monkeypatch.setattr(machine, "busy_seconds", lambda: 1.0 + next(busy))
    values = iter([1.0, 2.0])
    assert machine.quietly(lambda: next(values)) == (2.0, 1)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_peers_without_pytorch(capsys):
    assert run(["bench", "--peers"]) == 2
    assert "--peers: got no PyTorch, expected pip install torch==2.13.0" in capsys.readouterr().err
