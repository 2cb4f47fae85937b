"""The ladder: every rung computes the formula, and one that does not is noticed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from handgrad.benchmarks import climb
from handgrad.benchmarks.ladder import FLOPS, OPERATIONS, RUNGS, Call, Problem


@functools.cache
def literal_results(samples):
    """Return what the slow formula gives for the first problem of so many samples."""
    return climb.results_of(RUNGS[0].prepare(Problem.random(samples)))


def remembered(problem):
    """Return the literal rung's calls with results that were computed before."""
    results = literal_results(len(problem.x))
    return {name: Call(lambda: None, lambda name=name: results[name]) for name in OPERATIONS}


def spoiled(name, operation, change):
    """Return the rungs with one operation of one of them changed."""

    def prepare(rung, problem):
        calls = rung.prepare(problem)
        right = calls[operation]
        calls[operation] = dataclasses.replace(right, result=lambda: change(np.array(right.result(), dtype=float)))
        return calls

    wrong = {rung.name: dataclasses.replace(rung, prepare=functools.partial(prepare, rung)) for rung in RUNGS}
    formula = dataclasses.replace(RUNGS[0], prepare=remembered)
    return [formula, *(wrong[rung.name] if rung.name == name else rung for rung in RUNGS[1:])]


def test_all_rungs_agree():
    assert list(climb.check(RUNGS, 40)) == ["literal", "plain loops", "lanes", "tile", "fused"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [rung.name for rung in RUNGS[1:]])
def test_a_wrong_rung_is_an_error(name, operation):
    def one_wrong_number(result):
        result[(-1,) * result.ndim] += 0.01 * np.abs(result).max()
        return result

    with pytest.raises(climb.RungError, match=f"ladder conv2d: {name}, {operation}: got 1.0e-02 of the largest"):
        climb.check(spoiled(name, operation, one_wrong_number), 16)


def test_a_rung_that_is_wrong_for_many_samples_only_is_an_error():
    def wrong_behind_the_first_block(z):
        z[16:] = 0
        return z

    with pytest.raises(climb.RungError, match="away from plain loops on 40 samples"):
        climb.check(spoiled("tile", "forward", wrong_behind_the_first_block), 40)


def test_nan_is_an_error():
    with pytest.raises(climb.RungError, match="got nan"):
        climb.check(spoiled("lanes", "forward", lambda z: z * np.nan), 16)


def test_speeds_and_factors(monkeypatch):
    monkeypatch.setattr(climb, "peak_gflops", lambda threads: 100.0)
    spent = iter([2e-3] * 3 + [1e-3] * 12)  # the literal rung's sample, and 16 samples of the four others
    monkeypatch.setattr(climb, "seconds_of", lambda call, seconds: next(spent))
    result = climb.measure(16, 1, 0.0)
    literal, plain, lanes, *_ = result["rungs"]
    assert literal["forward"]["gflops"] == pytest.approx(FLOPS / 2e-3 / 1e9)
    assert literal["weight gradient"]["gflops"] == pytest.approx(2 * FLOPS / 2e-3 / 1e9)  # both gradients in one pass
    assert literal["forward"]["microseconds"] == pytest.approx(16 * 2e3) and literal["samples_timed"] == 1
    assert plain["forward"]["factor"] == pytest.approx(32) and literal["forward"]["factor"] is None
    assert lanes["forward"]["factor"] == pytest.approx(1)
    assert plain["forward"]["share_of_peak"] == pytest.approx(16 * FLOPS / 1e-3 / 1e9 / 100)
