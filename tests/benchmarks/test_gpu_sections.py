"""The sections for a GPU, without one: their kernels run in the simulator, PyTorch on the CPU."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import handgrad
from handgrad.benchmarks import gpu_runners, gpu_sections
from handgrad.benchmarks.gpu_process import Asked
from handgrad.benchmarks.gpu_runners import Handgrad, recorded
from handgrad.benchmarks.nets import NETS, Net, text
from handgrad.datasets import DataNotFound
from handgrad.engine import Conv2D, cuda

ON_CPU = Asked(torch_device="cpu")
TINY = "conv 2@3x3 > relu > maxpool 2 > batchnorm > dropout 0.3 > dense 10"


@pytest.fixture
def tiny(monkeypatch):
    """A network so small that the simulator trains it at once, in few turns."""
    monkeypatch.setitem(NETS, "tiny", Net("tiny", (1, 6, 6), text(TINY), (4,), 1.0))
    monkeypatch.setattr(gpu_runners, "REPEATS", 2)
    for name, value in {"TURN": 0.0, "TURNS": 2, "REPEATS": 2, "CALLS": 2}.items():
        monkeypatch.setattr(gpu_sections, name, value)


def rows_of(pieces):
    rows = [row for _, piece in pieces for row in piece()]
    return [row for row in rows if "note" not in row], [row["note"] for row in rows if "note" in row]


def test_about():
    rows, notes = rows_of(gpu_sections.about(Asked()))
    found = {row["what"]: row["value"] for row in rows}
    assert found["device"] == "simulator" and found["handgrad"] == handgrad.__version__ and found["numba"]
    assert notes == []


def test_launches_and_replays(tiny):
    assert [row["microseconds"] > 0 for row in gpu_sections.small_launches(3)] == [True] * 3
    assert [row["microseconds"] > 0 for row in gpu_sections.replays(Handgrad("tiny", 4, steps=3).ready())] == [True] * 3


def test_the_profile_has_every_launch_of_a_step(tiny, monkeypatch):
    for module in (gpu_runners, gpu_sections):
        monkeypatch.setattr(module, "REPEATS", 1)
    runner = Handgrad("tiny", 4, steps=3).ready()
    runner.begin()
    made = recorded(lambda: runner.training.enqueue(runner.plan))
    assert len(made) == len(runner.plan.graph.launches) and "launch" not in vars(cuda.device())
    *rows, total = gpu_sections.profiled(runner)
    assert Counter(row["kernel"] for row in rows) == Counter(kernel.__name__ for kernel, *_ in made)
    assert sum(row["share"] for row in rows) == pytest.approx(1) and total["launches"] == len(rows)
    assert rows == sorted(rows, key=lambda row: -row["microseconds"])
    assert runner.training.run(runner.batches, [0.01] * 3)[0][0] > 0  # and it still trains


def test_networks_beside_peers(tiny, torch, monkeypatch):
    nn = torch.nn
    monkeypatch.setattr(gpu_runners, "modules", lambda name: nn.Sequential(nn.Flatten(), nn.Linear(36, 10)))
    rows, notes = rows_of([("", lambda: gpu_sections.beside_peers("tiny", 4, gpu_sections.PLAIN, ON_CPU, steps=2))])
    assert [row["runner"] for row in rows] == ["handgrad", "PyTorch eager"] and rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[0]["microseconds"] ** -1 * rows[1]["microseconds"], rel=0.9)
    assert len(notes) == 2 and all("CUDA graph is left out" in note for note in notes)  # there is no GPU to capture


def test_without_a_gpu_for_pytorch_there_are_our_rows_alone(tiny, torch):
    rows, notes = rows_of([("", lambda: gpu_sections.beside_peers("tiny", 4, gpu_sections.PLAIN, Asked(), steps=2))])
    assert [row["runner"] for row in rows] == ["handgrad"] and notes == [gpu_sections.without_torch(Asked())] != [""]
    assert not any("compiled" in title for title, _ in gpu_sections.networks(Asked()))
    assert sum("compiled" in title for title, _ in gpu_sections.networks(ON_CPU)) == len(gpu_sections.COMPILED_NETWORKS)
    (row,), notes = rows_of([("", lambda: gpu_sections.product("forward", 16, 16, Asked()))])
    assert row["torch_tflops"] is row["share"] is None and row["ok"] and len(notes) == 1


@pytest.mark.parametrize("kind", ["forward", "weights", "input"])
def test_products_are_right_and_beside_pytorch(tiny, torch, kind):
    (row,), _ = rows_of([("", lambda: gpu_sections.product(kind, 16, 16, ON_CPU))])
    assert row["ok"] and row["error"] < 1e-6 and row["share"] > 0
    assert row["tflops"] == pytest.approx(2 * 16**3 / row["microseconds"] / 1e6)
    assert gpu_sections.torch_product(kind, 8, "cpu")().shape == (8, 8)


@pytest.mark.parametrize("shape", [(1, 5, 5), (4, 4, 3)])
def test_convolutions_are_right_and_beside_pytorch(tiny, torch, shape):
    def make():
        return Conv2D(4, 3, padding=1)

    rows, _ = rows_of([("", lambda: gpu_sections.convolution("small", shape, make, 3, ON_CPU))])
    assert [row["pass"] for row in rows] == ["forward", "input gradient", "weight gradient"]
    assert all(row["ok"] and row["error"] < 1e-5 and row["ratio"] > 0 for row in rows)


def test_a_wrong_convolution_is_found(tiny, torch, monkeypatch):
    monkeypatch.setattr(gpu_sections, "weight_gradient_cuda", lambda sizes, x, dL_dz, dL_dW, scratch: None)
    rows, _ = rows_of([("", lambda: gpu_sections.convolution("small", (1, 5, 5), lambda: Conv2D(2, 3), 3, ON_CPU))])
    assert [row["ok"] for row in rows] == [True, True, False]


def test_a_training_to_its_test_accuracy(monkeypatch):
    rng = np.random.default_rng(0)

    def part(count):
        labels = rng.integers(0, 2, count)
        images = (200 * labels[:, None, None, None] + rng.integers(0, 50, (count, 1, 2, 2))).astype(np.uint8)
        return SimpleNamespace(images=images, labels=labels, sample_shape=(1, 2, 2), classes=("dark", "bright"))

    splits = SimpleNamespace(train=part(40), validation=part(8), test=part(20))
    monkeypatch.setattr(gpu_sections, "load", lambda name, folder, download: splits)
    monkeypatch.setattr(gpu_sections, "LEARNING_RATE", 0.1)
    (row,) = gpu_sections.train_mnist(Asked(), 8, 0, model="dense 2")
    assert row["accuracy"] == 1 and 0 < row["training"] < row["everything"] and row["epochs"] == 4


def test_without_mnist_the_section_is_left_out(monkeypatch):
    def nothing(name, folder, download):
        raise DataNotFound("mnist is not here")

    monkeypatch.setattr(gpu_sections, "load", nothing)
    assert [row for _, piece in gpu_sections.mnist(Asked()) for row in piece()] == [
        {"note": "left out: DataNotFound: mnist is not here"}
    ] * 4
