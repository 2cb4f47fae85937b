"""Visits: their turns are put in one row, and another one is made as long as it tells something."""

from __future__ import annotations

import itertools
import math

import pytest

from handgrad.benchmarks.nets import NETS
from handgrad.benchmarks.turns import TRIAL
from handgrad.benchmarks.visits import STEADY, Visits

PROCESSES = itertools.count()


def visit(rates, disturbed=(), **changed):
    """Return what ``benchmarks.one`` prints, for a training step with one piece of a second in each turn.

    Each is of a process of its own.
    """
    pieces = {label: [None if rate is None else [(rate, 1.0)] for rate in values] for label, values in rates.items()}
    found = {"threads": 2, "tile": 8, "operations": 1e6, "peak_gflops": 100.0, "rejected": 1, "left_out": {}}
    found |= {"memory_bytes": {"handgrad": 300, "PyTorch eager": 200}, "first_step_seconds": {"handgrad": 1.0}}
    found |= {"process": next(PROCESSES)}
    return found | {"pieces": {"step": pieces}, "disturbed": list(disturbed)} | changed


def test_turns_of_all_visits_are_one_row():
    """A peer that left at the first visit is not there at the second one; disturbed turns are those of their visit."""
    visits = Visits("lenet5", 64)
    visits.add(visit({"handgrad": [30.0, 12.0, 14.0], "a": [10.0, 6.0, 2.0], "b": [1.0, 1.0, None]}, [2]))
    visits.add(visit({"handgrad": [30.0, 40.0], "a": [10.0, 5.0]}, [1], memory_bytes={}, peak_gflops=120.0))
    result = visits.result()
    ratio = result["ratios"]["step"]
    assert ratio["strongest"] == "a" and ratio["ratio"] == pytest.approx(3.0)
    assert ratio["processes"] == pytest.approx([(12 + 0.95 * 18) / (6 + 0.95 * 4), 3.0])
    assert (ratio["turns"], result["turns"], result["visits"], result["rejected"]) == (3, 5, 2, 2)
    assert result["images_per_second"]["step"] == {"handgrad": 30.0, "a": 10.0, "b": 1.0}
    assert (result["peak_gflops"], result["gflops"], result["share_of_peak"]) == (120.0, 0.03, 0.00025)
    assert result["ratios"]["memory"]["ratio"] == 1.5 and result["memory_bytes"]["PyTorch eager"] == 200


def test_the_next_visit_is_told_who_takes_part():
    """Nobody leaves before the trial is over, and who left does not come back."""
    visits, told = Visits("lenet5", 64), []
    for turns in (TRIAL - 1, 1, TRIAL + 1):
        told.append(visits.racing())
        b = 1.0 if turns < TRIAL else None
        visits.add(visit({"handgrad": [10.0] * turns, "a": [5.0] * turns, "b": [b] * turns}))
    told.append(visits.racing())
    everybody, rest = {"step": ["handgrad", "a", "b"]}, {"step": ["handgrad", "a"]}
    assert told == [None, everybody, rest, rest]


@pytest.mark.parametrize("turns", [TRIAL, TRIAL + 1])
def test_who_left_does_not_come_back(turns):
    """Peer b leaves after the trial; later this engine is faster, and of b's turns alone the ratio would be the least."""
    visits, none = Visits("lenet5", 64), [None] * (turns - TRIAL)
    visits.add(visit({"handgrad": [20.0] * turns, "a": [14.0] * turns, "b": [10.0] * TRIAL + none}))
    for _ in range(2):
        assert visits.racing() == {"step": ["handgrad", "a"]}
        visits.add(visit({"handgrad": [60.0] * 2, "a": [14.0] * 2}))
    assert visits.result()["ratios"]["step"]["strongest"] == "a"


@pytest.mark.parametrize(("rates", "is_steady"), [((3.0,), False), ((3.0, 3.01, 3.02), True), ((3.0, 3.0, 2.4), False)])
def test_visits_go_on_until_every_ratio_is_known(rates, is_steady):
    """A single visit knows nothing; the last three differ, although the fastest windows are known."""
    visits = Visits("lenet5", 64)
    for rate in rates:
        visits.add(visit({"handgrad": [rate] * 12, "a": [1.0] * 12}))
    assert visits.is_steady() == is_steady
    for found, rate in zip(visits.found, (1.0, 2.0, 3.0), strict=False):
        found["pieces"]["forward"] = {"handgrad": [[(rate, 1.0)]] * 12, "a": [[(1.0, 1.0)]] * 12}
    assert not visits.is_steady()


@pytest.mark.parametrize(("turns", "disturbed"), [(2, []), (3, []), (3, [0])])
def test_a_few_turns_are_not_enough_however_much_they_agree(turns, disturbed):
    visits = Visits("lenet5", 64)
    for _ in range(2):
        visits.add(visit({"handgrad": [2.0] * turns, "a": [1.0] * turns}, disturbed))
    assert visits.is_steady() == (2 * (turns - len(disturbed)) >= TRIAL)


@pytest.mark.parametrize(("second", "is_steady"), [(1 + STEADY, True), (1 + 3 * STEADY, False)])
def test_visits_that_differ_are_not_enough_however_steady_each_is(second, is_steady):
    """The standard error of a mean of two is half of their difference."""
    visits = Visits("lenet5", 64)
    for rate in (1.0, second):
        visits.add(visit({"handgrad": [rate] * 40, "a": [1.0] * 40}))
    assert visits.is_steady() == is_steady


@pytest.mark.parametrize(("lost", "is_steady"), [(0, True), (2, True), (3, False)])
def test_half_of_the_visits_must_tell_something(lost, is_steady):
    """However much the others agree."""
    visits = Visits("lenet5", 64)
    for _ in range(2):
        visits.add(visit({"handgrad": [2.0] * 12, "a": [1.0] * 12}))
    for _ in range(lost):
        visits.lose("OSError: gone")
    assert visits.is_steady() == is_steady
    assert visits.result()["left_out"] == {f"visit {k + 3}": "OSError: gone" for k in range(lost)}


def test_disturbed_turns_are_not_lost():
    """Where most are, the others tell."""
    visits = Visits("lenet5", 64)
    for _ in range(2):
        visits.add(visit({"handgrad": [2.0] * 12, "a": [1.0] * 12}, range(7)))
    assert visits.is_steady()


def test_a_peer_that_fails_on_most_visits_stays_the_strongest():
    visits = Visits("lenet5", 64)
    visits.add(visit({"handgrad": [9.0] * 12, "a": [3.0] * 12, "b": [4.5] * 12}))
    for _ in range(5):
        visits.add(visit({"handgrad": [9.0] * 12, "a": [3.0] * 12}, left_out={"b": "OSError: gone"}))
    ratio = visits.result()["ratios"]["step"]
    assert ratio["strongest"] == "b" and ratio["turns"] == 12
    assert not visits.is_steady()


def test_what_a_process_gave_is_one_part_however_many_visits_it_had():
    """Three visits to the first of two processes agree, and the other one does not: there is half of it in doubt."""
    visits = Visits("lenet5", 64)
    for rate, process in ((2.0, -1), (2.0, -1), (2.0, -1), (2.2, -2)):
        visits.add(visit({"handgrad": [rate] * 6, "a": [1.0] * 6}, process=process))
    ratio = visits.result()["ratios"]["step"]
    assert ratio["processes"] == [2.0, 2.2] and ratio["uncertainty"] == pytest.approx(math.log(1.1) / 2)
    assert (visits.result()["visits"], visits.is_steady()) == (4, False)


def test_without_peers_there_are_no_ratios():
    visits = Visits("mlp", 128)
    visits.add(visit({"handgrad": [1.0, 2.0, 3.0]}, memory_bytes={"handgrad": 300}))
    assert visits.result()["ratios"] == {}
    assert visits.result()["goals"] == {"step": NETS["mlp"].goal, "memory": 1.5}


def test_who_cannot_run_on_one_visit_is_named_and_compared_all_the_same():
    """The strongest peer fails on the second of three visits, and that is not to our advantage."""
    visits = Visits("lenet5", 64)
    visits.add(visit({"handgrad": [9.0] * 6, "a": [3.0] * 6, "b": [4.5] * 6}))
    visits.add(visit({"handgrad": [9.0] * 6, "a": [3.0] * 6}, left_out={"b": "OSError: gone"}))
    assert not visits.is_steady()
    visits.add(visit({"handgrad": [9.0] * 6, "a": [3.0] * 6, "b": [4.5] * 6}))
    assert visits.is_steady()
    result = visits.result()
    ratio = result["ratios"]["step"]
    assert (ratio["strongest"], ratio["ratio"], ratio["turns"]) == ("b", pytest.approx(2.0), 12)
    assert result["left_out"] == {"b from visit 2": "OSError: gone"}


def test_who_cannot_run_in_a_process_is_named_once():
    """Its visits all say so."""
    visits, gone = Visits("lenet5", 64), {"b": "OSError: gone"}
    told = [visits.add(visit({"handgrad": [9.0], "a": [3.0]}, left_out=out)) for out in (gone, gone, {}, gone)]
    assert told == [gone, {}, {}, gone]
    assert visits.result()["left_out"] == {"b": "OSError: gone", "b from visit 4": "OSError: gone"}
