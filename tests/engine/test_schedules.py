"""Learning-rate schedules: factors from the share of the training that is done."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from handgrad.engine.schedules import constant, cosine, linear


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"), [(constant, 1, 1, 1), (linear, 1, 0.5, 0), (cosine, 1, 0.5, 0)]
)
def test_start_middle_and_end(schedule, start, middle, end):
    assert [schedule(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([start, middle, end], abs=1e-16)


@pytest.mark.parametrize("schedule", [constant, linear, cosine])
def test_never_grows_and_stays_between_0_and_1(schedule):
    factors = [schedule(k / 100) for k in range(101)]
    assert all(0 <= late <= early <= 1 for early, late in pairwise(factors))


def test_cosine_by_hand():
    assert cosine(1 / 3) == pytest.approx(0.75, abs=1e-15)
    assert cosine(1 / 4) == pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-15)
    assert cosine(0.1) > linear(0.1) and cosine(0.9) < linear(0.9)
