"""The comparison of CUDA kernels with those of the CPU finds what is wrong, and nothing else; in the simulator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handgrad.benchmarks import parity
from handgrad.engine import Dense, Input, Momentum, ReLU, SoftmaxCrossEntropy, cuda_training
from handgrad.engine.cases import LAYERS, LOSSES

TINY = "conv 2@3x3 > relu > maxpool 2 > batchnorm > dropout 0.3 > dense 10"


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
