"""What the tests of the benchmarks share."""

from __future__ import annotations

import pytest

from handgrad.engine import cuda


@pytest.fixture(autouse=True)
def forward_order():
    """Other tests leave the simulator with its threads in another order, and its indices guarded."""
    simulator = cuda.device().simulator
    simulator.order, simulator.is_guarded = "forward", False


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a machine that others use
    yield torch
    torch.set_num_threads(threads)
