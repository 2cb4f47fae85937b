"""Memory: all arrays are found, each once, and PyTorch's peak is that of a case that can be added up by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from handgrad.benchmarks.memory import held_bytes, temporary_bytes, torch_peak_bytes
from handgrad.benchmarks.ours import Handgrad
from handgrad.engine import Dense, Input, Network


def test_arrays_are_found_in_containers_once_and_views_count_as_their_memory():
    a, b = np.zeros(100), np.zeros(50, np.float32)
    assert held_bytes({"x": [a, (a[:10], b)]}, a[50:]) == 800 + 200
    assert held_bytes([a, b], without=[a]) == 200


def test_the_buffers_of_a_dense_network_by_hand():
    """In float32 with 16 lanes: W 20 x 40 and b 20, padded to 16 numbers, with gradients; x, z, dL/dz and dL/dx.

    Beside these stand the arguments of the kernels that a step calls, 1,280 bytes of padding for each of its programs.
    """
    x = Input((40,))
    network = Network(x, Dense(20)(x), threads=1)
    network.backward(np.zeros_like(network.forward(np.zeros((16, 40), np.float32))))
    parameters, values = 2 * (800 + 32) * 4, 2 * (40 + 20) * 16 * 4
    held = held_bytes(network)
    assert parameters + values <= held
    share = network.last_pass.active[0].shares["dense1"]
    scratch = sum(array.nbytes for arrays in (share.scratch, share.common) for array in arrays.values())
    assert held <= parameters + values + scratch + 64 * 20 + 3 * 2048 + 4096  # alignment, and the workers' counters


@pytest.mark.parametrize("name", ["lenet5", "residual-block"])
def test_everything_that_numpy_allocates_for_a_step_is_counted(name):
    """tracemalloc sees every allocation; what it finds and the walk does not is the data, and small objects."""
    Handgrad(name, 32, 1).step()  # compiled kernels are no part of it
    tracemalloc.start()
    runner = Handgrad(name, 32, 1)
    runner.step()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    domain = np.lib.tracemalloc_domain
    found = sum(t.size for t in snapshot.filter_traces([tracemalloc.DomainFilter(True, domain)]).traces)
    data = held_bytes(runner.training.feed, runner._order, runner._one)
    feed = runner.training.feed
    held = held_bytes(runner.network, runner.training, without=[feed, feed.rows])
    assert held + data == pytest.approx(found, rel=0.01)
    assert runner.step_bytes() >= held


def test_what_a_step_allocates_besides():
    kept = []
    assert 8_000_000 <= temporary_bytes(lambda: np.ones(1_000_000).sum()) < 8_100_000
    assert temporary_bytes(lambda: kept.append(1)) < 10_000
    assert not tracemalloc.is_tracing()


@pytest.mark.parity
def test_the_peak_of_a_linear_layer_by_hand():
    """z = x W, L = Σ z²: z lives until W's gradient is there, beside z² in the forward pass, then beside dL/dz and dL/dW."""
    torch = pytest.importorskip("torch")
    N, inputs, outputs = 64, 1000, 500
    x, W = torch.randn(N, inputs), torch.randn(inputs, outputs, requires_grad=True)

    def step():
        W.grad = None
        ((x @ W) ** 2).sum().backward()

    step()
    W.grad = None
    z, dL_dW = 4 * N * outputs, 4 * inputs * outputs
    assert z + dL_dW <= torch_peak_bytes(step) <= 3 * z + dL_dW + 4096


@pytest.mark.parity
def test_the_peak_of_a_network_holds_parameters_gradients_and_activations():
    pytest.importorskip("torch")
    from handgrad.benchmarks.peers import PyTorch

    N, parameters = 128, 4 * (784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10)
    activations = 4 * N * (784 + 2 * 512 + 10)  # the input, both hidden layers after their ReLU, the output
    peak = PyTorch("mlp", N, 1, "eager").step_bytes()
    assert 2 * parameters + activations * 0.5 <= peak <= 2 * parameters + 4 * activations
