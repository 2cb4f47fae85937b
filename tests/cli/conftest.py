"""The command line is tested as on a machine without a GPU."""

from __future__ import annotations

import pytest

from handgrad.engine import cuda
from handgrad.engine.checks import DeviceError

DEVICE = cuda.device


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Let every question for a GPU be answered as the driver would answer it."""

    def refuse():
        raise DeviceError("device cuda: no GPU can be used (no driver)", remedy="use --device cpu")

    monkeypatch.setattr(cuda, "device", refuse)


@pytest.fixture
def simulated(monkeypatch, no_gpu):
    """Let --device cuda be the simulator."""
    monkeypatch.setattr(cuda, "device", DEVICE)
    return DEVICE
