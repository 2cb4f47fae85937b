"""Turns: the order alternates, a rate is that of the fastest windows, weak peers leave, disturbed ones do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from handgrad.benchmarks import machine, turns
from handgrad.benchmarks.turns import ALONE, Turns, take_turns


class Scripted:
    """A runner whose rates are given."""

    def __init__(self, label, rates, order):
        self.label, self._rates, self._order = label, iter(rates), order

    def turn(self, kinds, seconds):
        self._order.append(self.label)
        rate = next(self._rates)
        return {kind: [(rate, 1.0)] for kind in kinds}


def in_turns(rates, **others):
    """Return the turns of a training step, each with one piece of a second."""
    each = {label: [None if rate is None else [(rate, 1.0)] for rate in values] for label, values in rates.items()}
    return Turns({"step": each}, **others)


@pytest.fixture
def undisturbed(monkeypatch):
    monkeypatch.setattr(turns, "quietly", lambda measure, prepare: (measure(), 1))


def test_order_alternates_and_rejections_are_counted(undisturbed):
    order = []
    runners = [Scripted(label, [1.0] * 9, order) for label in "ABC"]
    taken = take_turns(runners, ["step"], 0.0, 3)
    assert "".join(order) == "ABCCBAABC"
    assert taken.count() == 3 and taken.rejected == 9
    order.clear()
    take_turns([Scripted(label, [1.0] * 9, order) for label in "ABC"], ["step"], 0.0, 2, first=3)
    assert "".join(order) == "CBAABC"


def test_the_order_of_what_is_measured_alternates_with_every_pair_of_turns(undisturbed):
    """Single images leave cores at rest, so they are always the last."""
    asked = []

    class Asked(Scripted):
        def turn(self, kinds, seconds):
            asked.append(" ".join(kinds))
            return super().turn(kinds, seconds)

    for first, repeats in ((0, 3), (3, 2)):
        kinds = ["step", "forward", "backward", "latency"]
        take_turns([Asked("handgrad", [1.0] * 3, [])], kinds, 0.0, repeats, first=first)
    there, back = "step forward backward latency", "backward forward step latency"
    assert asked == [there, there, back, back, there]


def test_every_measurement_waits_for_the_cores(monkeypatch):
    """So does one that is repeated, and nobody waits for who takes no turn."""
    order, busy = [], {"seconds": 1.0}

    def busy_seconds():
        busy["seconds"] += 9.0 if len(order) < 3 else 0.0
        return busy["seconds"]

    monkeypatch.setattr(machine, "busy_seconds", busy_seconds)
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
    runners = [Scripted(label, [1.0] * 9, order) for label in "ABC"]
    taken = take_turns(runners, ["step"], 0.0, 1, {"step": ["A", "C"]}, wait=lambda: order.append("w"))
    assert "".join(order) == "wAwAwC" and taken.rejected == 1


def test_a_rate_is_the_median_of_the_fastest_tenth_of_all_windows(rng):
    """Of 200 windows of all turns together the 190th and 191st, however slow the others are."""
    rates = np.concatenate([rng.uniform(1, 5, 180), np.linspace(10, 29, 20)])
    rng.shuffle(rates)
    turns_of = [[(rate, 1.0) for rate in part.tolist()] for part in np.split(rates, [3, 50, 120])]
    taken = Turns({"step": {"handgrad": turns_of, "a": [[(rate, 1.0)] for rate in (2.0, 1.0, 1.0, 1.0)]}})
    assert 19.0 <= taken.rate("step", "handgrad") <= 20.0
    assert taken.rates_of_all("step") == {
        "handgrad": pytest.approx(np.quantile(rates, ALONE)),
        "a": pytest.approx(1 + 0.85),  # between the third and the fourth of four
    }


def test_the_strongest_peer_is_the_fastest_one_when_left_alone():
    """Peer b is slower in most turns, because others were at work, but not when it was left alone."""
    taken = in_turns({"handgrad": [30.0] * 40, "a": [10.0] * 40, "b": [2.0] * 30 + [15.0] * 10})
    compared = taken.compare("step")
    assert (compared["strongest"], compared["ratio"], compared["turns"]) == ("b", 2.0, 40)


def test_a_peer_far_behind_leaves_after_the_trial(undisturbed):
    """One that is slower than the strongest by less than FAR stays, and is found to be the stronger one later."""
    order, near, far = [], 1 / (turns.FAR - 0.05), 1 / (turns.FAR + 0.05)
    rates = {"handgrad": [3.0] * 12, "a": [1.0] * 12, "b": [near] * 5 + [1.5] * 7, "c": [far] * 5}
    runners = [Scripted(label, values, order) for label, values in rates.items()]
    taken = take_turns(runners, ["step"], 0.0, 12)
    assert {label: values.count(None) for label, values in taken.pieces["step"].items()} == {
        **dict.fromkeys("ab", 0),
        "c": 7,
        "handgrad": 0,
    }
    assert taken.racing() == {"step": ["handgrad", "b"]}  # a has fallen behind since, and who left stays away
    assert taken.compare("step")["strongest"] == "b" and taken.compare("step")["ratio"] == pytest.approx(2.0)
    assert taken.rate("step", "c") == pytest.approx(far)


@pytest.mark.parametrize("more", [1, 7])
def test_who_left_is_not_the_strongest_however_the_others_do_later(undisturbed, more):
    """Its few turns were others than those that the ratio is taken over."""
    rates = {"handgrad": [2.0] * 5 + [80.0] * more, "a": [1.4] * 5 + [16.0] * more, "b": [1.0] * 5}
    taken = take_turns([Scripted(label, values, []) for label, values in rates.items()], ["step"], 0.0, 5 + more)
    compared = taken.compare("step")
    assert (compared["strongest"], compared["turns"]) == ("a", 5 + more) and taken.near("step") == ["handgrad", "a"]
    assert compared["ratio"] == pytest.approx(np.quantile(rates["handgrad"], ALONE) / np.quantile(rates["a"], ALONE))


def test_disturbances_do_not_change_the_ratio():
    """Each side is slow at other times, but has been left alone for more than a tenth of its windows."""
    ours, theirs = [3.0] * 20 + [1.0] * 20, [0.4] * 20 + [1.0] * 20
    assert in_turns({"handgrad": ours, "a": theirs}).compare("step")["ratio"] == pytest.approx(3.0)


def test_each_process_has_its_ratio():
    """The third of four processes has no turn that counts."""
    theirs = [1.0] * 5 + [0.5] * 6 + [9.0] + [0.25] * 7
    taken = in_turns({"handgrad": [1.0] * 19, "a": theirs}, disturbed={11}, starts=[0, 5, 11, 12])
    compared = taken.compare("step")
    assert compared["processes"] == [1.0, 2.0, 4.0] and compared["turns"] == 18
    assert compared["ratio"] == 1.0  # of the fastest windows, wherever they are


def test_how_well_a_ratio_is_known():
    """Three visits, whose ratios are 1, 2 and 4 and without one of them 1, 1 and 2 but for interpolation.

    Their own deviations are -1, 0 and 1 times ln 2; those of the others are -1, -1 and 2 thirds of it, which makes the
    larger standard error, 2 / 3 ln 2. When one visit is slow, the others do not miss it, and its own ratio tells.
    """
    rates = {"handgrad": [1.0] * 300, "a": [1.0] * 100 + [0.5] * 100 + [0.25] * 100}
    compared = in_turns(rates, starts=[0, 100, 200]).compare("step")
    error = math.log(2) * 2 / 3
    assert compared["uncertainty"] == pytest.approx(error)
    slow = in_turns({"handgrad": [1.0] * 300, "a": [1.0] * 200 + [0.5] * 100}, starts=[0, 100, 200])
    assert slow.compare("step")["uncertainty"] == pytest.approx(math.log(2) / 3)
    assert compared["lower"] == pytest.approx(compared["ratio"] * math.exp(-2 * error))
    assert compared["upper"] == pytest.approx(compared["ratio"] * math.exp(2 * error))
    compared = in_turns(rates).compare("step")
    assert compared["uncertainty"] is None and compared["lower"] == compared["ratio"] == compared["upper"]


@pytest.mark.parametrize(
    ("ours", "theirs", "counts"),
    [
        (0.001, 0.001, (10, 10)),
        (0.0015, 0.0088, (7, 1)),
        (0.001, 0.014, (14, 1)),
        (0.030, 0.012, (1, 2)),
        (0.009, 0.025, (3, 1)),
    ],
)
def test_windows_are_as_long_for_all(ours, theirs, counts):
    """As 10 ms or the longest call; not as a slow moment's, a disturbed turn's, or a call of b, which has left."""
    slow, disturbed = [(1, 0.5)] * 9, [(1, 0.9)] * 99
    turns_of = {"handgrad": [(1, ours)] * 90 + slow, "a": slow + [(1, theirs)] * 90}
    pieces = {label: [turn, disturbed, turn] for label, turn in turns_of.items()} | {"b": [[(1, 2.0)], None, None]}
    taken = Turns({"step": pieces}, disturbed={1})
    assert (taken.in_window("step", "handgrad"), taken.in_window("step", "a")) == counts
    assert taken.in_window("step", "b") == 1


def test_windows_are_of_neighbours():
    """A rest at the end is left out, and what is shorter than a window is one."""
    pieces = [(3, 1.0), (1, 1.0), (2, 1.0), (4, 2.0), (9, 1.0)]
    assert turns.window_rates(pieces, 2) == [2.0, 2.0]
    assert turns.window_rates(pieces, 7) == [19 / 6]


def test_a_short_quiet_moment_is_nobodys_advantage():
    """Every other 2 seconds are slow; this engine's calls fit in between, those of a do not.

    Cut at 2 seconds, this engine's rate would be 3.
    """
    ours, theirs = [(6, 2.0), (2, 2.0)] * 10, [(6, 4.0)] * 10
    taken = Turns({"step": {"handgrad": [ours] * 3, "a": [theirs] * 3}})
    assert taken.rates_of_all("step") == {"handgrad": 2.0, "a": 1.5}
    assert taken.compare("step")["ratio"] == pytest.approx(4 / 3)


def test_a_ratio_is_that_of_the_same_turns():
    """A peer that was not there when this engine had its best moments is not blamed for it."""
    taken = in_turns({"handgrad": [4.0, 4.0, 9.0], "a": [2.0, 2.0, None]}, failed={"a": {2}})
    assert taken.compare("step")["ratio"] == 2.0


@pytest.mark.parametrize(("failed", "expected"), [({}, "a"), ({"b": set(range(10, 30))}, "b")])
def test_who_could_not_run_has_not_left(failed, expected):
    """The stronger peer b runs in the first of three processes alone: because it left, or because it failed later."""
    theirs = {"a": [1.0] * 30, "b": [1.5] * 10 + [None] * 20, "c": [2.0] * 5 + [None] * 25}
    taken = in_turns({"handgrad": [3.0] * 30, **theirs}, starts=[0, 10, 20], failed=failed)
    assert taken.compare("step")["strongest"] == expected
    assert ("b" in taken.near("step")) == bool(failed) and "c" not in taken.near("step")


def test_disturbed_turns_do_not_count(monkeypatch):
    bad = iter([0, 0, turns.TRIES, 0, 0, 2, 0, 0])
    monkeypatch.setattr(turns, "quietly", lambda measure, prepare: (measure(), next(bad)))
    runners = [Scripted("handgrad", [2.0, 2.0, 2.0, 2.0], []), Scripted("a", [1.0, 9.0, 1.0, 1.0], [])]
    taken = take_turns(runners, ["step"], 0.0, 4)
    assert taken.count() == 4 and taken.disturbed == {1} and taken.rejected == turns.TRIES + 2
    assert taken.compare("step")["ratio"] == 2.0 and taken.compare("step")["turns"] == 3
    assert taken.rates_of_all("step") == {"handgrad": 2.0, "a": 1.0}


def test_a_machine_that_is_never_quiet_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(turns, "quietly", lambda measure, prepare: (measure(), turns.TRIES))
    taken = take_turns([Scripted(label, [1.0, 2.0, 3.0], []) for label in "AB"], ["step"], 0.0, 3)
    assert taken.count() == 3 and taken.compare("step")["turns"] == 3


def test_each_kind_has_its_own_race(undisturbed):
    """A peer runs what it takes part in, and nothing at all where that is nothing."""
    asked = []

    class Asked(Scripted):
        def turn(self, kinds, seconds):
            asked.append((self.label, kinds))
            return super().turn(kinds, seconds)

    racing = {"step": ["handgrad", "a"], "forward": ["handgrad", "b"]}
    runners = [Asked(label, [1.0, 1.0], []) for label in ("handgrad", "a", "b", "c")]
    taken = take_turns(runners, ["step", "forward"], 0.0, 1, racing)
    assert asked == [("handgrad", ["step", "forward"]), ("a", ["step"]), ("b", ["forward"])]
    assert taken.pieces["forward"] == {"handgrad": [[(1.0, 1.0)]], "a": [None], "b": [[(1.0, 1.0)]], "c": [None]}
    assert taken.compare("forward")["strongest"] == "b"
