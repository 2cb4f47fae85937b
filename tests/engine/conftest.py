"""What tests of the engine share."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def fall_asleep():
    """A function that waits until all workers but the caller sleep, and stay asleep."""

    def wait(workers):
        deadline, times = time.monotonic() + 20, 0
        while times < 3:
            assert time.monotonic() < deadline, "somebody stays awake"
            times = times + 1 if workers._crew.asleep[0] == workers.size - 1 else 0
            time.sleep(0.002)

    return wait
