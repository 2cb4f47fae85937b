"""The runners: every library does the same work on the same network."""

from __future__ import annotations

import time

import numpy as np
import pytest

from handgrad.benchmarks import one
from handgrad.benchmarks.nets import NETS, graph
from handgrad.benchmarks.ours import Handgrad
from handgrad.benchmarks.runner import KINDS, Runner
from handgrad.benchmarks.turns import kinds_for
from handgrad.engine import Network, SoftmaxCrossEntropy


def test_operations_are_counted_by_hand():
    """conv1 25 x 6 x 784, conv2 150 x 16 x 100, dense 400 x 120, 120 x 84, 84 x 10; conv1 needs no input gradient."""
    counts = [25 * 6 * 784, 150 * 16 * 100, 400 * 120, 120 * 84, 84 * 10]
    x, z = graph("lenet5")
    assert one.operations(Network(x, z, threads=1)) == 2 * (2 * counts[0] + 3 * sum(counts[1:])) == 2_263_920


@pytest.mark.parametrize("name", NETS)
def test_a_step_trains_and_everything_else_runs(name):
    runner = Handgrad(name, 16, 1)
    before = runner.network.theta.copy()
    runner.step()
    assert np.isfinite(runner.network.theta).all() and (runner.network.theta != before).any()
    trained = runner.network.theta.copy()
    for kind in kinds_for(NETS[name].classes):
        if kind != "step":
            samples, seconds = runner.pieces(kind, 0.001)[0]
            assert samples >= (1 if kind == "latency" else 16) and seconds > 0
    assert (runner.network.theta == trained).all()  # the others only compute


@pytest.mark.parametrize("threads", [1, 2])
def test_the_timed_backward_pass_computes_the_gradients_of_the_loss(threads):
    runner = Handgrad("mlp", 48, threads)
    chosen = np.arange(48)
    feed = runner.training.feed
    runner.training.optimizer.learning_rate = 1e-30
    runner.training(chosen)  # the first 48 samples are in the buffers, the parameters are what they were
    runner.network.dL_dtheta[:] = np.nan
    assert runner.backward_seconds() > 0
    x, target = feed.inputs(chosen, np.float32), feed.targets[chosen]
    network = Network(*graph("mlp"), seed=0, threads=1)
    network.backward(SoftmaxCrossEntropy()(network.forward(x), target)[1])
    for name, expected in network.gradients.items():
        # float32 sums over 48 samples in another order
        np.testing.assert_allclose(runner.network.gradients[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_step_with_an_input_gradient_computes_it():
    runner = Handgrad("conv-1x1", 16, 1)
    W = runner.network.parameters["conv1.W"][:, :, 0, 0].copy()
    runner.step()
    part = runner.current().active[0]
    expected = np.einsum("oc,nohqv->nchqv", W, part.seeds[0])
    # a sum of 32 products in float32
    np.testing.assert_allclose(part.gradients["input"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Counted(Runner):
    """A runner that only counts."""

    label, batch = "counted", 10

    def __init__(self):
        self.calls = []

    def step(self):
        self.calls.append("step")

    def forward(self):
        self.calls.append("forward")

    def backward_seconds(self):
        self.calls.append("backward")
        return 0.5

    def classify_one(self):
        self.calls.append("latency")

    def enter(self, kind):
        self.calls.append(f"enter {kind}")


def test_a_turn_starts_all_threads_with_training_and_runs_each_kind(monkeypatch):
    runner = Counted()
    monkeypatch.setattr("handgrad.benchmarks.runner.START", 0.0)
    monkeypatch.setattr("handgrad.benchmarks.runner.PIECE", 0.0)
    assert list(runner.turn(["forward", "latency"], 0.0)) == ["forward", "latency"]
    forward, latency = ["enter forward", "forward", "forward"], ["enter latency", "latency", "latency"]
    assert runner.calls == ["enter step", "step", *forward, *latency]
    monkeypatch.setattr("handgrad.benchmarks.runner.START", 0.01)
    runner.calls.clear()
    start = time.perf_counter()
    runner.turn(["latency"], 0.0)
    assert runner.calls.count("step") > 1 and time.perf_counter() - start >= 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_measured_after_getting_ready_and_warming_up(monkeypatch, kind):
    monkeypatch.setattr("handgrad.benchmarks.runner._timed", lambda run: lambda: run() or 0.5)
    runner = Counted()
    pieces = runner.pieces(kind, 0.0)
    assert runner.calls == [f"enter {kind}", kind, kind]
    assert pieces == [(1 if kind == "latency" else 10, 0.5)]


@pytest.mark.parametrize(("spent", "calls"), [(0.0003, 3), (0.0004, 2), (0.00066, 2), (0.0007, 1), (0.004, 1)])
def test_a_turn_is_cut_into_pieces(spent, calls):
    """Of as many calls as come nearest to a millisecond."""

    class Slow(Counted):
        def backward_seconds(self):
            time.sleep(spent)
            return spent

    pieces = Slow().turn(["backward"], 0.05)["backward"]
    assert len(pieces) > 1 and np.array(pieces) == pytest.approx(np.array([(10 * calls, spent * calls)] * len(pieces)))


def test_an_optional_peer_that_cannot_run_is_left_out():
    def fails():
        raise RuntimeError("no C++ compiler\nsecond line")

    makers = [("counted", Counted), ("PyTorch compile", fails)]
    runners, first, left_out = one.start(makers, ["step", "latency"])
    assert [runner.label for runner in runners] == ["counted"] == list(first)
    assert left_out == {"PyTorch compile": "RuntimeError: no C++ compiler"}
    with pytest.raises(RuntimeError, match="no C"):
        one.start([("PyTorch eager", fails)], [])


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
    for kind in KINDS:
        samples, seconds = peer.pieces(kind, 0.001)[0]
        assert samples >= (1 if kind == "latency" else 16) and seconds > 0
        assert peer.module.training == (kind in ("step", "backward"))


@pytest.mark.parity
@pytest.mark.parametrize("name", NETS)
def test_jax_computes_the_same_gradients(name):
    pytest.importorskip("jax")
    from handgrad.benchmarks.jax_peer import Jax

    peer, network = Jax(name, 16, 1), Network(*graph(name), seed=0, threads=1)
    x, target = (np.asarray(array) for array in peer._batches[0])
    has_dropout = name == "two-conv"  # its random numbers differ
    gradients = peer.gradient(peer.parameters, x, target, None if has_dropout else peer._key)
    z = network.forward(np.moveaxis(x, -1, 1) if x.ndim == 4 else x, training=not has_dropout)
    dL_dz = SoftmaxCrossEntropy()(z, target)[1] if NETS[name].classes else np.moveaxis(target, -1, 1)
    dL_dx = network.backward(dL_dz)
    largest = np.abs(network.dL_dtheta).max()  # a bias before batch normalization has the gradient 0
    for layer, parts in gradients[0].items():
        for part, found in parts.items():
            assert np.abs(np.asarray(found) - network.gradients[f"{layer}.{part}"]).max() <= 1e-4 * largest
    if not NETS[name].classes:
        found = np.moveaxis(np.asarray(gradients[1]), -1, 1)
        assert np.abs(found - dL_dx).max() <= 1e-4 * np.abs(dL_dx).max()
    for kind in KINDS:
        samples, seconds = peer.pieces(kind, 0.001)[0]
        assert samples >= (1 if kind == "latency" else 16) and seconds > 0
