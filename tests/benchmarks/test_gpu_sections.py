"""The sections for a GPU, without one: their kernels run in the simulator, PyTorch on the CPU."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import handgrad
from handgrad.benchmarks import gpu_runners, gpu_sections, parity
from handgrad.benchmarks.gpu_process import Asked
from handgrad.benchmarks.gpu_runners import Handgrad, recorded
from handgrad.benchmarks.nets import NETS, Net, text
from handgrad.datasets import DataNotFound
from handgrad.engine import Conv2D, Dense, Input, Momentum, ReLU, SoftmaxCrossEntropy, cuda, cuda_training
from handgrad.engine.cases import LAYERS, LOSSES

ON_CPU = Asked(torch_device="cpu")
TINY = "conv 2@3x3 > relu > maxpool 2 > batchnorm > dropout 0.3 > dense 10"


@pytest.fixture(autouse=True)
def forward_order():
    """Other tests leave the simulator with its threads in another order, and its indices guarded."""
    simulator = cuda.device().simulator
    simulator.order, simulator.is_guarded = "forward", False


@pytest.fixture
def tiny(monkeypatch):
    """A network so small that the simulator trains it at once, in few turns."""
    monkeypatch.setitem(NETS, "tiny", Net("tiny", (1, 6, 6), text(TINY), (4,), 1.0))
    monkeypatch.setattr(gpu_runners, "REPEATS", 2)
    for name, value in {"TURN": 0.0, "TURNS": 2, "REPEATS": 2, "CALLS": 2}.items():
        monkeypatch.setattr(gpu_sections, name, value)


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a machine that others use
    yield torch
    torch.set_num_threads(threads)


# Parity


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["dense", "relu", "dropout", "batch_norm", "conv2d"])
def test_parity_of_layers(name, dtype):
    for samples in (LAYERS[name][0].samples, 1, 5):
        found = parity.compare_layer(name, LAYERS[name][0], dtype, samples, threads=1)
        if found is None:
            assert (name, samples) == ("batch_norm", 1)  # a deviation of one sample is 0
            continue
        assert found.ok and found.repeatable and (found.subject, found.dtype, found.samples) == (name, dtype, samples)
        assert found.error < (1e-6 if dtype == "float32" else 1e-14) < found.limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parity_of_losses_optimizers_and_matrices(dtype):
    assert all(parity.compare_loss(name, LOSSES[name][0], dtype, 5).ok for name in ("softmax_cross_entropy", "hinge"))
    assert all(parity.compare_optimizer(make, dtype, 20).ok for make in parity.OPTIMIZERS)
    assert all(parity.compare_matrices(kind, 16, (20, 12, 6), dtype).ok for kind in ("forward", "weights", "input"))


def test_a_wrong_number_of_a_layer_is_found(monkeypatch):
    right = Dense.forward_cuda

    def wrong(self, share):
        right(self, share)
        share.z[0, 1, 0] += 0.1

    monkeypatch.setattr(Dense, "forward_cuda", wrong)
    found = parity.compare_layer("dense", LAYERS["dense"][0], "float32", 2, threads=1)
    assert not found.ok and found.worst == "value" and found.error > 1e-3 and found.repeatable


def test_a_number_that_nobody_writes_is_found_even_where_its_memory_happens_to_hold_it(monkeypatch):
    right = ReLU.forward_cuda

    def forgets(self, share):
        before = share.z.copy()
        right(self, share)
        share.z[share.z == 0] = before[share.z == 0]

    monkeypatch.setattr(ReLU, "forward_cuda", forgets)
    found = parity.compare_layer("relu", LAYERS["relu"][0], "float64", 5, threads=1)
    assert found.error == 0 and not found.repeatable and not found.ok


def test_a_wrong_gradient_of_a_loss_an_update_and_a_product_are_found(monkeypatch):
    right = SoftmaxCrossEntropy.on_cuda

    def wrong(self, z, target, samples, N, dL_dz, losses):
        right(self, z, target, samples, N, dL_dz, losses)
        dL_dz[0, 0, 0] = 0

    monkeypatch.setattr(SoftmaxCrossEntropy, "on_cuda", wrong)
    found = parity.compare_loss("softmax_cross_entropy", LOSSES["softmax_cross_entropy"][0], "float64", 5)
    assert not found.ok and found.worst == "gradient"
    monkeypatch.setattr(Momentum, "update_cuda", lambda *arguments: None)
    found = parity.compare_optimizer(lambda: Momentum(0.1, 0.9), "float32", 20)
    assert not found.ok and found.repeatable
    monkeypatch.setattr(parity, "multiply_matrices", lambda kind, A, B, bias, C, side: None)
    assert parity.compare_matrices("forward", 16, (20, 12, 6), "float32").error == parity.NEVER


def test_trainings_agree_launched_and_replayed():
    on_cpu, launched = parity.compare_training(TINY, (1, 6, 6), 5, 3)
    assert on_cpu.ok and on_cpu.error <= 1e-12 < on_cpu.limit == 1e-8  # Adam divides, three times
    assert launched.ok and launched.error == launched.limit == 0


def test_a_learning_rate_that_stands_still_in_the_graph_is_found(monkeypatch):
    right = cuda_training._table
    monkeypatch.setattr(cuda_training, "_table", lambda rows, like: right([rows[0]] * len(rows), like))
    on_cpu, launched = parity.compare_training("dense 10", (1, 2, 2), 5, 3, make=parity.OPTIMIZERS[0])
    assert not on_cpu.ok and not launched.ok


def test_errors_are_relative_to_the_largest_number():
    assert parity.error_of(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert parity.error_of(np.array([1e-9]), np.array([0.0]), largest=1.0) == pytest.approx(1e-6)
    assert parity.error_of(np.array([np.nan, np.inf]), np.array([np.nan, np.inf])) == 0
    for wrong in ([np.nan], [np.inf], [1.0, 1.0]):
        assert parity.error_of(np.array(wrong), np.array([1.0])) == parity.NEVER


def test_everything_is_compared_in_both_dtypes():
    titles = [title for title, _ in parity.pieces()]
    assert titles[0] == "training"
    words = Counter((title.split()[0], title.split()[-1]) for title in titles)
    for dtype in ("float32", "float64"):
        assert all(words[name, dtype] >= len(cases) for name, cases in (LAYERS | LOSSES).items())
        assert words["matrices,", dtype] == 6 and words["optimisers", dtype] == 1
    for cases in parity.LARGER.values():
        for case in cases:
            assert case.layer()(*map(Input, case.shapes)).size > 0


def test_pieces_compare():
    (piece,) = [piece for title, piece in parity.pieces(["float64"]) if title.startswith("relu ")][:1]
    assert [found.samples for found in piece()] == [1, 2, 5, 33, 70]


# Sections


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
    runner.plan.current.prepare_layers(training=True)
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
