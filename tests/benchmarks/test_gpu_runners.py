"""What is timed on a GPU, without one: our runner in the simulator, PyTorch on the CPU, imitated events."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from handgrad.benchmarks import gpu_runners
from handgrad.benchmarks.nets import NETS, Net, text
from handgrad.engine import cuda

TINY = "conv 2@3x3 > relu > maxpool 2 > batchnorm > dropout 0.3 > dense 10"


@pytest.fixture
def tiny(monkeypatch):
    """Networks so small that the simulator trains them at once."""
    monkeypatch.setitem(NETS, "tiny", Net("tiny", (1, 6, 6), text(TINY), (4,), 1.0))
    monkeypatch.setitem(NETS, "values", Net("values", (1, 4, 4), text("conv 2@3x3 same > relu"), (4,), 1.0, False))


class Event:
    """An event of a GPU on which everything takes a millisecond."""

    def __init__(self, log):
        self.log = log

    def record(self, stream):
        self.log.append(f"record on {stream}")

    def synchronize(self):
        self.log.append("synchronize")


class ImitatedGpu(cuda.SimulatedDevice, cuda.Gpu):
    """A simulated device with the events of a real one."""

    def __init__(self):
        cuda.SimulatedDevice.__init__(self)
        self.log, self.stream = [], "stream"
        self.cuda = SimpleNamespace(event=lambda: Event(self.log), event_elapsed_time=lambda start, end: 1.0)

    def launch(self, kernel, grid, block, arguments):
        self.log.append(kernel.__name__)


def test_times_between_events(monkeypatch):
    monkeypatch.setattr(gpu_runners, "REPEATS", 2)
    with cuda.launching_on(ImitatedGpu()) as device:
        array = device.zeros(4, np.float32)
        launch = cuda.clear_cuda, (1,), (8,), (array,)
        assert gpu_runners.device_seconds(lambda: device.launch(*launch)) == 1e-3
        assert device.log == ["record on stream", "clear_cuda", "record on stream", "synchronize"]
        assert gpu_runners.median_seconds([gpu_runners.Work(lambda: device.launch(*launch), 10)]) == [1e-4]
        begun = []
        device.log.clear()
        assert gpu_runners.event_seconds([launch] * 3, lambda: begun.append(1)) == [1e-3] * 3
        assert len(begun) == gpu_runners.REPEATS + 1
        assert device.log[-6:] == ["record on stream", "clear_cuda", "record on stream"] * 2


def test_turns_alternate():
    order = []
    works = [SimpleNamespace(seconds=lambda name=name: order.append(name) or float(len(order))) for name in "AB"]
    assert len(gpu_runners.median_seconds(works)) == 2 and "".join(order[:8]) == "ABBAABBA"


@pytest.mark.parametrize("name", ["tiny", "values"])
def test_our_runner_trains(tiny, name):
    runner = gpu_runners.Handgrad(name, 4, steps=3)
    before = runner.network.theta.copy()
    assert runner.ready() is runner and (runner.network.theta != before).any()
    assert runner.rate("step", 0.0) > 0
    trained = runner.network.draw
    runner.begin()
    runner.replay()
    assert trained == runner.network.draw == 4 * 3  # two to get ready, one of a turn's warm-up, one turn


@pytest.fixture
def tiny_module(torch, monkeypatch, tiny):
    nn = torch.nn

    def modules(name):
        if name == "values":
            return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.Dropout(0.3)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10))

    monkeypatch.setattr(gpu_runners, "modules", modules)


@pytest.mark.parametrize("name", ["tiny", "values"])
def test_a_peer_trains_in_eager_mode(tiny_module, name):
    peer = gpu_runners.PyTorch(name, 4, "eager", tf32=True, device="cpu")
    before = [p.detach().clone() for p in peer.module.parameters()]
    assert peer.label == "PyTorch eager, TF32" and peer.rate("step", 0.0) > 0
    assert any((p != q).any() for p, q in zip(peer.module.parameters(), before, strict=True))


def test_precision_is_set_for_each_turn(tiny_module, torch):
    with_tf32, without = (gpu_runners.PyTorch("tiny", 4, "eager", tf32, "cpu") for tf32 in (True, False))
    for runner in (with_tf32, without, with_tf32):
        runner.rate("step", 0.0)
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == runner.tf32
