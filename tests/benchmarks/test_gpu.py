"""The command for a GPU, without one: its kernels run in the simulator, PyTorch on the CPU, its process for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import handgrad
from handgrad.benchmarks import gpu, parity
from handgrad.benchmarks.nets import NETS, Net, text
from handgrad.datasets import DataNotFound
from handgrad.engine import Conv2D, Dense, Input, Momentum, ReLU, SoftmaxCrossEntropy, cuda, cuda_training
from handgrad.engine.cases import LAYERS, LOSSES

RESULTS = Path(handgrad.__file__).parent / "benchmarks" / "results"
ON_CPU = gpu.Asked(torch_device="cpu")
TINY = "conv 2@3x3 > relu > maxpool 2 > batchnorm > dropout 0.3 > dense 10"


@pytest.fixture(autouse=True)
def forward_order():
    """Other tests leave the simulator with its threads in another order, and its indices guarded."""
    simulator = cuda.device().simulator
    simulator.order, simulator.is_guarded = "forward", False


@pytest.fixture
def tiny(monkeypatch):
    """Networks so small that the simulator trains them at once, in few turns."""
    monkeypatch.setitem(NETS, "tiny", Net("tiny", (1, 6, 6), text(TINY), (4,), 1.0))
    monkeypatch.setitem(NETS, "values", Net("values", (1, 4, 4), text("conv 2@3x3 same > relu"), (4,), 1.0, False))
    for name, value in {"TURN": 0.0, "TURNS": 2, "REPEATS": 2, "CALLS": 2}.items():
        monkeypatch.setattr(gpu, name, value)


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
    rows, notes = rows_of(gpu.about(gpu.Asked()))
    found = {row["what"]: row["value"] for row in rows}
    assert found["device"] == "simulator" and found["handgrad"] == handgrad.__version__ and found["numba"]
    assert notes == [] and gpu.known(lambda: 1 / 0) is None


@pytest.mark.parametrize("name", ["tiny", "values"])
def test_our_runner_trains(tiny, name):
    runner = gpu.Handgrad(name, 4, steps=3)
    before = runner.network.theta.copy()
    assert runner.ready() is runner and (runner.network.theta != before).any()
    assert runner.rate("step", 0.0) > 0
    trained = runner.network.draw
    runner.begin()
    runner.replay()
    assert trained == runner.network.draw == 4 * 3  # two to get ready, one of a turn's warm-up, one turn


def test_launches_and_replays(tiny):
    assert [row["microseconds"] > 0 for row in gpu.small_launches(3)] == [True] * 3
    assert [row["microseconds"] > 0 for row in gpu.replays(gpu.Handgrad("tiny", 4, steps=3).ready())] == [True] * 3


def test_the_profile_has_every_launch_of_a_step(tiny, monkeypatch):
    monkeypatch.setattr(gpu, "REPEATS", 1)
    runner = gpu.Handgrad("tiny", 4, steps=3).ready()
    runner.begin()
    runner.plan.current.prepare_layers(training=True)
    made = gpu.recorded(lambda: runner.training.enqueue(runner.plan))
    assert len(made) == len(runner.plan.graph.launches) and "launch" not in vars(cuda.device())
    *rows, total = gpu.profiled(runner)
    assert Counter(row["kernel"] for row in rows) == Counter(kernel.__name__ for kernel, *_ in made)
    assert sum(row["share"] for row in rows) == pytest.approx(1) and total["launches"] == len(rows)
    assert rows == sorted(rows, key=lambda row: -row["microseconds"])
    assert runner.training.run(runner.batches, [0.01] * 3)[0][0] > 0  # and it still trains


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
        self.cuda = SimpleNamespace(
            event=lambda: Event(self.log),
            event_elapsed_time=lambda start, end: 1.0,
            get_current_device=lambda: SimpleNamespace(MULTIPROCESSOR_COUNT=132),
            current_context=lambda: None,
        )

    def launch(self, kernel, grid, block, arguments):
        self.log.append(kernel.__name__)


def test_times_between_events(tiny):
    with cuda.launching_on(ImitatedGpu()) as device:
        array = device.zeros(4, np.float32)
        launch = cuda.clear_cuda, (1,), (8,), (array,)
        assert gpu.device_seconds(lambda: device.launch(*launch)) == 1e-3
        assert device.log == ["record on stream", "clear_cuda", "record on stream", "synchronize"]
        assert gpu.median_seconds([gpu.Work(lambda: device.launch(*launch), 10)]) == [1e-4]
        begun = []
        device.log.clear()
        assert gpu.event_seconds([launch] * 3, lambda: begun.append(1)) == [1e-3] * 3
        assert len(begun) == gpu.REPEATS + 1
        assert device.log[-6:] == ["record on stream", "clear_cuda", "record on stream"] * 2
        assert gpu.facts()["multiprocessors"] == 132 and gpu.facts()["memory, GiB"] is None  # nothing stops at it


def test_turns_alternate():
    order = []
    works = [SimpleNamespace(seconds=lambda name=name: order.append(name) or float(len(order))) for name in "AB"]
    assert len(gpu.median_seconds(works)) == 2 and "".join(order[:8]) == "ABBAABBA"


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a machine that others use
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_module(torch, monkeypatch, tiny):
    nn = torch.nn

    def modules(name):
        if name == "values":
            return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.Dropout(0.3)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10))

    monkeypatch.setattr(gpu, "modules", modules)


@pytest.mark.parametrize("name", ["tiny", "values"])
def test_a_peer_trains_in_eager_mode(tiny_module, name):
    peer = gpu.PyTorch(name, 4, "eager", tf32=True, device="cpu")
    before = [p.detach().clone() for p in peer.module.parameters()]
    assert peer.label == "PyTorch eager, TF32" and peer.rate("step", 0.0) > 0
    assert any((p != q).any() for p, q in zip(peer.module.parameters(), before, strict=True))


def test_precision_is_set_for_each_turn(tiny_module, torch):
    with_tf32, without = (gpu.PyTorch("tiny", 4, "eager", tf32, "cpu") for tf32 in (True, False))
    for runner in (with_tf32, without, with_tf32):
        runner.rate("step", 0.0)
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == runner.tf32


def test_networks_beside_peers(tiny_module):
    rows, notes = rows_of([("", lambda: gpu.beside_peers("tiny", 4, gpu.PLAIN, ON_CPU, steps=2))])
    assert [row["runner"] for row in rows] == ["handgrad", "PyTorch eager"] and rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[0]["microseconds"] ** -1 * rows[1]["microseconds"], rel=0.9)
    assert len(notes) == 2 and all("CUDA graph is left out" in note for note in notes)  # there is no GPU to capture


def test_without_a_gpu_for_pytorch_there_are_our_rows_alone(tiny, torch):
    rows, notes = rows_of([("", lambda: gpu.beside_peers("tiny", 4, gpu.PLAIN, gpu.Asked(), steps=2))])
    assert [row["runner"] for row in rows] == ["handgrad"] and notes == [gpu.without_torch(gpu.Asked())] != [""]
    assert not any("compiled" in title for title, _ in gpu.networks(gpu.Asked()))
    assert sum("compiled" in title for title, _ in gpu.networks(ON_CPU)) == len(gpu.COMPILED_NETWORKS)
    (row,), notes = rows_of([("", lambda: gpu.product("forward", 16, 16, gpu.Asked()))])
    assert row["torch_tflops"] is row["share"] is None and row["ok"] and len(notes) == 1


@pytest.mark.parametrize("kind", ["forward", "weights", "input"])
def test_products_are_right_and_beside_pytorch(tiny, torch, kind):
    (row,), _ = rows_of([("", lambda: gpu.product(kind, 16, 16, ON_CPU))])
    assert row["ok"] and row["error"] < 1e-6 and row["share"] > 0
    assert row["tflops"] == pytest.approx(2 * 16**3 / row["microseconds"] / 1e6)
    assert gpu.torch_product(kind, 8, "cpu")().shape == (8, 8)


@pytest.mark.parametrize("shape", [(1, 5, 5), (4, 4, 3)])
def test_convolutions_are_right_and_beside_pytorch(tiny, torch, shape):
    def make():
        return Conv2D(4, 3, padding=1)

    rows, _ = rows_of([("", lambda: gpu.convolution("small", shape, make, 3, ON_CPU))])
    assert [row["pass"] for row in rows] == ["forward", "input gradient", "weight gradient"]
    assert all(row["ok"] and row["error"] < 1e-5 and row["ratio"] > 0 for row in rows)


def test_a_wrong_convolution_is_found(tiny, torch, monkeypatch):
    monkeypatch.setattr(gpu, "weight_gradient_cuda", lambda sizes, x, dL_dz, dL_dW, scratch: None)
    rows, _ = rows_of([("", lambda: gpu.convolution("small", (1, 5, 5), lambda: Conv2D(2, 3), 3, ON_CPU))])
    assert [row["ok"] for row in rows] == [True, True, False]


def test_a_training_to_its_test_accuracy(monkeypatch):
    rng = np.random.default_rng(0)

    def part(count):
        labels = rng.integers(0, 2, count)
        images = (200 * labels[:, None, None, None] + rng.integers(0, 50, (count, 1, 2, 2))).astype(np.uint8)
        return SimpleNamespace(images=images, labels=labels, sample_shape=(1, 2, 2), classes=("dark", "bright"))

    splits = SimpleNamespace(train=part(40), validation=part(8), test=part(20))
    monkeypatch.setattr(gpu, "load", lambda name, folder, download: splits)
    monkeypatch.setattr(gpu, "LEARNING_RATE", 0.1)
    (row,) = gpu.train_mnist(gpu.Asked(), 8, 0, model="dense 2")
    assert row["accuracy"] == 1 and 0 < row["training"] < row["everything"] and row["epochs"] == 4


def test_without_mnist_the_section_is_left_out(monkeypatch):
    def nothing(name, folder, download):
        raise DataNotFound("mnist is not here")

    monkeypatch.setattr(gpu, "load", nothing)
    assert [row for _, piece in gpu.mnist(gpu.Asked()) for row in piece()] == [
        {"note": "left out: DataNotFound: mnist is not here"}
    ] * 4


# One section after the other


def pieces_of(*pieces):
    return lambda asked: iter(pieces)


def rows(*values):
    return lambda: [{"k": value} for value in values]


def fails():
    yield {"k": 1}
    raise ValueError("on\ntwo lines")


def sent(run, skip=0, seconds=60.0):
    messages = []
    gpu.perform(run, gpu.Asked(), skip, seconds, messages.append)
    return messages


def test_a_piece_that_fails_is_told_and_the_next_is_made():
    messages = sent(pieces_of(("a", rows(1, 2)), ("b", fails), ("c", rows(3))))
    assert [value["k"] for word, value in messages if word == "row"] == [1, 2, 1, 3]
    (failure,) = [value for word, value in messages if word == "failure"]
    assert (
        failure["piece"] == "b" and failure["reason"] == "ValueError: on two lines" and "raise" in failure["traceback"]
    )
    assert [value for word, value in messages if word == "piece"] == ["a", "b", "c"]
    assert sum(word == "done" for word, _ in messages) == 3


def test_pieces_that_were_made_are_skipped_and_late_ones_left_out():
    run = pieces_of(("a", rows(1)), ("b", rows(2)), ("c", rows(3)))
    assert [value for word, value in sent(run, skip=1) if word == "piece"] == ["b", "c"]
    assert sent(run, seconds=-1.0) == [("late", "a")]


def test_a_section_that_cannot_begin_fails():
    (message,) = sent(lambda asked: [][1])
    assert message[0] == "failure" and message[1]["piece"] == "its beginning"


def test_a_gpu_that_answers_no_more_ends_the_section(monkeypatch):
    monkeypatch.setattr(cuda.device(), "put", lambda array: 1 / 0, raising=False)
    messages = sent(pieces_of(("a", fails), ("b", rows(2))))
    assert [word for word, _ in messages] == ["piece", "row", "failure", "broken"]


class Here:
    """A worker without a process."""

    made = 0

    def __init__(self):
        Here.made += 1
        self.facts, self.is_usable = {"device": "imagined"}, True

    def events(self, run, asked, skip, seconds, most):
        messages = []
        gpu.perform(run, asked, skip, seconds, messages.append)
        for word, value in messages:
            yield word, value
            if value == {"k": "crash"}:
                self.is_usable = False
                yield "died", "its process ended with exit code -11"
                return
        yield "end", None

    def stop(self):
        self.is_usable = False


def measured(seconds=60.0, **sections):
    Here.made, told = 0, []
    sections = {
        name: value if isinstance(value, gpu.Section) else gpu.Section(value, 10) for name, value in sections.items()
    }
    report = gpu.measure(
        list(sections),
        gpu.Asked(),
        seconds,
        sections=sections,
        make_worker=Here,
        finished=lambda report, name: told.append(name),
    )
    assert told == list(sections) and report["machine"] == {"device": "imagined"}
    json.dumps(report)
    return report["sections"]


def test_every_section_has_its_status(capsys):
    found = measured(
        good=pieces_of(("a", rows(1))),
        bad=pieces_of(("a", fails)),
        empty=pieces_of(("a", lambda: [{"note": "nothing here"}] * 2)),
        wrong=pieces_of(("a", lambda: [{"k": 1, "ok": True}, {"k": 2, "ok": False}])),
    )
    assert {name: record["status"] for name, record in found.items()} == {
        "good": "ok", "bad": "failed", "empty": "left out", "wrong": "failed",
    }  # fmt: skip
    assert found["empty"]["notes"] == ["nothing here"] and found["good"]["rows"] == [{"k": 1}]
    assert found["wrong"]["failures"][0]["reason"] == "1 of 2 rows are wrong" and found["good"]["seconds"] > 0
    captured = capsys.readouterr()
    assert captured.err.count("handgrad: good: a") == 1 and captured.out == ""


def test_a_new_process_goes_on_where_one_crashed():
    found = measured(only=pieces_of(("a", rows(1)), ("b", rows(2, "crash")), ("c", rows(3))))
    assert [row["k"] for row in found["only"]["rows"]] == [1, 2, "crash", 3] and Here.made == 2
    (failure,) = found["only"]["failures"]
    assert failure["piece"] == "b" and failure["reason"] == "its process ended with exit code -11"


def test_a_section_that_crashes_always_is_given_up():
    found = measured(only=pieces_of(*[("a", rows("crash"))] * 20), next=pieces_of(("b", rows(1))))
    assert len(found["only"]["rows"]) == gpu.RESTARTS + 1 and found["next"]["status"] == "ok"
    assert "given up" in found["only"]["failures"][-1]["reason"]


def test_a_section_may_want_a_fresh_process():
    section = gpu.Section(pieces_of(("a", rows(1))), 10, fresh=True)
    measured(first=section)
    assert Here.made == 1  # nothing has been compiled in it
    measured(first=section, second=section)
    assert Here.made == 2


def test_time_is_shared_and_what_is_left_goes_to_the_others(monkeypatch):
    limits = []

    def events(self, run, asked, skip, seconds, most):
        limits.append((seconds, most))
        yield "row", {"k": 1}
        yield "end", None

    monkeypatch.setattr(Here, "events", events)
    measured(gpu.RESERVE + 100, a=gpu.Section(None, 10), b=gpu.Section(None, 30), c=gpu.Section(None, 10))
    np.testing.assert_allclose([soft for soft, _ in limits], [20, 75, 100], atol=1)  # of 100, 100 and 100 that are left
    np.testing.assert_allclose([most for _, most in limits], [40, 95, 100], atol=1)


def test_out_of_time():
    found = measured(gpu.RESERVE, a=pieces_of(("a", rows(1))))
    assert found["a"]["status"] == "out of time" and found["a"]["rows"] == []
    found = measured(
        gpu.RESERVE + 0.2, a=lambda asked: ((str(k), lambda: [{"k": time.sleep(0.05)}]) for k in range(20))
    )
    assert found["a"]["status"] == "out of time" and 0 < len(found["a"]["rows"]) < 20


def test_the_process_works_hangs_and_crashes(monkeypatch):
    """Built-in functions stand for sections that never end, and that end everything."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    worker = gpu.Worker()
    try:
        assert worker.facts["device"] == "simulator" and worker.is_usable
        words = [word for word, _ in worker.events(gpu.about, gpu.Asked(), 0, 60.0, 60.0)]
        assert words[0] == "piece" and words[-2:] == ["done", "end"] and worker.is_usable
        assert [word for word, _ in worker.events(time.sleep, 60, 0, 60.0, 0.3)] == ["hung"]
        assert not worker.is_usable and not worker.process.is_alive()
    finally:
        worker.stop()
    worker = gpu.Worker()
    try:
        assert list(worker.events(os._exit, 3, 0, 60.0, 60.0)) == [("died", "its process ended with exit code 3")]
        assert not worker.is_usable
    finally:
        worker.stop()


# The report


def test_goals_are_read_off_the_rows():
    def network(runner, microseconds, ratio):
        return {"net": "lenet5", "batch": 128, "runner": runner, "microseconds": microseconds, "ratio": ratio}

    networks = [
        network("handgrad", 100.0, 1.0),
        network("PyTorch eager", 600.0, 6.0),
        network("PyTorch CUDA graph", 140.0, 1.4),
    ]
    sgemm = [{"product": "forward", "n": 4096, "share": share} for share in (0.6, 0.75)]
    report = {"sections": {"networks": {"rows": networks}, "sgemm": {"rows": sgemm}}}
    found = {row["goal"]: row for row in gpu.goals(report)}
    reached = {goal: row["reached"] for goal, row in found.items() if row["reached"] is not None}
    assert [True, False, True, True] == list(reached.values()) and len(found) == 9
    assert found["LeNet-5 at 128, seconds of an epoch of MNIST"]["measured"] == pytest.approx(0.046875)
    assert found["matrix product of 4096, share of PyTorch's speed in float32"]["measured"] == 0.75


def test_the_report_as_text():
    comparison = {"subject": "relu", "error": 1e-7, "limit": 2e-4, "repeatable": True, "ok": True}
    records = {
        "parity": {"status": "failed", "seconds": 3.0, "rows": [comparison] * 20 + [comparison | {"ok": False}] * 2,
                   "notes": [], "failures": [gpu.failure("relu", "ValueError: no")]},
        "conv": {"status": "ok", "seconds": 1.0, "notes": ["PyTorch is left out"], "failures": [], "rows": [
            {"grid": [1, 2], "microseconds": 12.34567, "ratio": None}, {"grid": [10], "microseconds": 123456.7, "ratio": 0.5},
            {"sum": 0.0}]},
    }  # fmt: skip
    text = gpu.render({"sections": records, "goals": [{"goal": "all", "reached": False}]})
    assert "== parity: failed, 3 s, 12 of 22 rows\n! relu: ValueError: no\n" in text
    lines = text.split("\n")
    assert lines[3].split() == ["relu", "1.0e-07", "2.0e-04", "yes", "NO"] and lines[5].endswith("yes")
    at = lines.index("PyTorch is left out")
    assert lines[at + 1 : at + 6] == [
        " grid  microseconds  ratio",
        "1 x 2         12.35      -",
        "   10       1.2e+05    0.5",
        "sum",
        "  0",
    ]
    assert lines[-2:] == ["goal  reached", "all        NO"]


def test_the_published_results_say_that_there_are_none_yet():
    report = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
    assert "sections" in report or gpu.render(report) == "not yet run on a GPU"


def run(*words, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-m", "handgrad.benchmarks.gpu", *words]
    return subprocess.run(command, capture_output=True, text=True, env=inherited | environment)


def test_without_a_gpu_the_command_says_so_in_one_line():
    for environment in ({"CUDA_VISIBLE_DEVICES": ""}, {"NUMBA_ENABLE_CUDASIM": "1"}):
        done = run(**environment)
        assert done.returncode == 4 and done.stdout == ""
        assert done.stderr.startswith("handgrad: device cuda") and done.stderr.count("\n") == 1


def test_the_command_refuses_what_it_does_not_know_and_where_it_cannot_write(tmp_path, monkeypatch, capsys):
    assert "invalid choice: 'speed'" in run("--only", "speed").stderr
    monkeypatch.setattr(cuda, "IS_SIMULATED", False)
    monkeypatch.setattr(cuda, "import_numba_cuda", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "missing" / "gpu.json")])
    assert gpu.main() == 3
    assert capsys.readouterr().err.startswith("handgrad: cannot write")


def test_the_command_writes_its_report_after_each_section(tmp_path, monkeypatch, capsys):
    def fake(names, asked, seconds, finished):
        assert (names, asked, seconds) == (["about", "conv"], gpu.Asked("data"), 30.0)
        record = {
            "status": "failed",
            "seconds": 1.0,
            "rows": [{"k": 2, "share": np.float32(0.5)}],
            "notes": [],
            "failures": [],
        }
        report = {"sections": {"about": record | {"status": "ok"}}}
        finished(report, "about")
        assert list(json.loads(out.read_text())["sections"]) == ["about"]
        report["sections"]["conv"] = record
        finished(report, "conv")
        return report

    out = tmp_path / "gpu.json"
    for name, value in {"IS_SIMULATED": False, "import_numba_cuda": lambda: None}.items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(gpu, "measure", fake)
    words = ["--only", "about", "conv", "--seconds-in-all", "30", "--data-dir", "data", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    assert gpu.main() == 1
    assert list(json.loads(out.read_text())["sections"]) == ["about", "conv"]
    assert (
        capsys.readouterr().out.count("== conv: failed, 1 s\nk  share\n2    0.5\n") == 2
    )  # when it is made, and at the end
