"""Turns: the order alternates, ratios are taken within a turn, weak peers leave, and disturbed ones do not count."""

from __future__ import annotations

import math

import pytest

from handgrad.benchmarks import turns
from handgrad.benchmarks.turns import Turns, take_turns, uncertainty, uncertainty_of_mean


class Scripted:
    """A runner whose rates are given."""

    def __init__(self, label, rates, order):
        self.label, self._rates, self._order = label, iter(rates), order

    def turn(self, kinds, seconds):
        self._order.append(self.label)
        rate = next(self._rates)
        return dict.fromkeys(kinds, rate)


@pytest.fixture
def undisturbed(monkeypatch):
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), 1))
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)


def test_order_alternates_and_rejections_are_counted(undisturbed):
    order = []
    runners = [Scripted(label, [1.0] * 9, order) for label in "ABC"]
    taken = take_turns(runners, ["step"], 0.0, 3)
    assert "".join(order) == "ABCCBAABC"
    assert taken.count() == 3 and taken.rejected == 9


def test_ratios_are_those_to_the_peer_that_is_mostly_the_faster_one():
    """Peer b is the faster one in a single turn, but a is in most of them; the one lucky turn of b does not count."""
    rates = {"handgrad": [10.0, 20.0, 30.0], "a": [5.0, 5.0, 10.0], "b": [2.0, 20.0, 6.0]}
    compared = Turns({"step": rates}).compare("step")
    assert (compared["strongest"], compared["turns"]) == ("a", 3)
    assert (compared["ratio"], compared["lower"], compared["upper"]) == pytest.approx((3.0, 2.5, 3.5))


def test_a_peer_far_behind_leaves_after_the_trial(undisturbed):
    """One that is slower than the strongest by less than FAR stays, and is found to be the stronger one later."""
    order, near, far = [], 1 / (turns.FAR - 0.05), 1 / (turns.FAR + 0.05)
    rates = {"handgrad": [3.0] * 12, "a": [1.0] * 5 + [0.5] * 7, "b": [near] * 12, "c": [far] * 5}
    runners = [Scripted(label, values, order) for label, values in rates.items()]
    taken = take_turns(runners, ["step"], 0.0, 12)
    assert {label: values.count(None) for label, values in taken.rates["step"].items()} == {
        **dict.fromkeys("ab", 0),
        "c": 7,
        "handgrad": 0,
    }
    assert taken.racing() == {"step": ["handgrad", "b"]}  # a has fallen behind since, and who left stays away
    assert taken.strongest("step") == "b" and taken.compare("step")["ratio"] == pytest.approx(3.0 / near)
    assert taken.medians("step")["c"] == far


def test_who_left_is_not_the_strongest_however_the_others_do_later(undisturbed):
    """Its few turns were others than those that the ratio is taken over."""
    rates = {"handgrad": [2.0] * 12, "a": [1.4] * 5 + [0.7] * 7, "b": [1.0] * 5}
    taken = take_turns([Scripted(label, values, []) for label, values in rates.items()], ["step"], 0.0, 12)
    compared = taken.compare("step")
    assert (compared["strongest"], compared["turns"]) == ("a", 12)
    assert compared["ratio"] == pytest.approx(2.0 / 0.7)


def test_a_machine_that_changes_its_speed_does_not_change_the_ratio(undisturbed):
    speed = [1.0, 0.5, 0.7, 0.9, 0.3]
    runners = [Scripted("handgrad", [3.0 * s for s in speed], []), Scripted("a", speed, [])]
    taken = take_turns(runners, ["step"], 0.0, 5)
    assert taken.compare("step")["ratio"] == pytest.approx(3.0)
    assert taken.count() == 5


def test_processes_count_alike_and_by_the_mean_of_their_medians():
    """A peer has two speeds, either in a whole process; a median over all turns would be that of most turns, here 4."""
    theirs = [1.0] * 4 + [9.0] + [0.25] * 6 + [9.0] * 5 + [0.25] * 7
    starts, disturbed = [0, 5, 11, 16], {12}
    compared = Turns({"step": {"handgrad": [1.0] * 23, "a": theirs}}, 0, disturbed, starts).compare("step")
    assert compared["medians"] == [1.0, 4.0, 4.0] and compared["turns"] == 18  # the third has too few quiet turns
    assert compared["ratio"] == pytest.approx(16 ** (1 / 3)) and compared["upper"] == 4.0
    assert compared["uncertainty"] == pytest.approx(math.log(4) / 3)  # deviations of ln 4 times (-2, 1, 1) / 3


def test_a_few_turns_of_each_process_are_better_than_none():
    taken = Turns({"step": {"handgrad": [4.0] * 3, "a": [1.0, 2.0, 2.0]}}, disturbed={2}, starts=[0, 1, 2])
    assert taken.compare("step")["medians"] == [4.0, 2.0]


@pytest.mark.parametrize(("failed", "expected"), [({}, "a"), ({"b": 20}, "b")])
def test_who_could_not_run_has_not_left(failed, expected):
    """The stronger peer b runs in the first of three processes alone: because it left, or because it failed later."""
    theirs = {"a": [1.0] * 30, "b": [1.5] * 10 + [None] * 20, "c": [2.0] * 5 + [None] * 25}
    taken = Turns({"step": {"handgrad": [3.0] * 30, **theirs}}, starts=[0, 10, 20], failed=failed)
    assert taken.strongest("step") == expected
    assert ("b" in taken.near("step")) == bool(failed) and "c" not in taken.near("step")


def test_the_strongest_is_the_one_with_the_least_mean_over_the_processes():
    """Peer a has the least median over all turns, but b has the least mean of the two processes."""
    theirs = {"a": [1 / 2] * 7 + [1 / 8] * 5, "b": [1 / 3] * 12}
    taken = Turns({"step": {"handgrad": [1.0] * 12, **theirs}}, starts=[0, 7])
    assert taken.strongest("step") == "b" and taken.near("step") == ["handgrad", "b"]
    assert taken.compare("step")["ratio"] == pytest.approx(3.0)


def test_uncertainty_of_a_mean(rng):
    """The standard error of the mean of n numbers is σ / √n; 1.2 is five of its own, 1 / √800, for 400 numbers."""
    values = rng.normal(10, 0.1, size=400)
    assert 1 / 1.2 < uncertainty_of_mean(list(values)) / (0.01 / 20) < 1.2
    assert uncertainty_of_mean([3.0]) == 0.0


def test_uncertainty_of_a_normal_sample(rng):
    """The standard error of the median of n normal numbers is 1.25 σ / √n; a factor of 1.3 for the estimate itself."""
    values = rng.normal(10, 1, size=400)
    assert 1 / 1.3 < uncertainty(list(values)) / (1.25 / 20 / 10) < 1.3


def test_disturbed_turns_do_not_count(monkeypatch):
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    bad = iter([0, 0, turns.TRIES, 0, 0, 2, 0, 0])
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), next(bad)))
    runners = [Scripted("handgrad", [2.0, 2.0, 2.0, 2.0], []), Scripted("a", [1.0, 9.0, 1.0, 1.0], [])]
    taken = take_turns(runners, ["step"], 0.0, 4)
    assert taken.count() == 4 and taken.disturbed == {1} and taken.rejected == turns.TRIES + 2
    assert taken.compare("step")["lower"] == 2.0 and taken.compare("step")["turns"] == 3
    assert taken.medians("step") == {"handgrad": 2.0, "a": 1.0}


def test_a_machine_that_is_never_quiet_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), turns.TRIES))
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
    assert taken.rates["forward"] == {"handgrad": [1.0], "a": [None], "b": [1.0], "c": [None]}
    assert taken.strongest("forward") == "b"
