"""Turns: the order alternates, ratios are taken within a turn, weak peers leave, and there are enough turns."""

from __future__ import annotations

import pytest

from handgrad.benchmarks import turns
from handgrad.benchmarks.turns import Turns, take_turns, uncertainty


class Scripted:
    """A runner whose rates are given."""

    def __init__(self, label, rates, order):
        self.label, self._rates, self._order = label, iter(rates), order

    def rate(self, kind, seconds):
        self._order.append(self.label)
        return next(self._rates)


@pytest.fixture
def undisturbed(monkeypatch):
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), 1))
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)


def test_order_alternates_and_rejections_are_counted(undisturbed):
    order = []
    runners = [Scripted(label, [1.0] * 9, order) for label in "ABC"]
    taken = take_turns(runners, ["step"], 0.0, 3)
    assert "".join(order) == "ABCCBAABC"
    assert taken.count("step") == 3 and taken.rejected == 9


def test_ratios_are_those_to_the_peer_with_the_least_median():
    """Peer b is the faster one in a single turn, but a is in most of them; the one lucky turn of b does not count."""
    rates = {"handgrad": [10.0, 20.0, 30.0], "a": [5.0, 5.0, 10.0], "b": [2.0, 20.0, 6.0]}
    compared = Turns({"step": rates}).compare("step")
    assert (compared["strongest"], compared["turns"]) == ("a", 3)
    assert (compared["ratio"], compared["lower"], compared["upper"]) == (3.0, 2.5, 3.5)


def test_a_peer_far_behind_leaves_after_the_trial(undisturbed):
    """One that is slower than the strongest by less than FAR stays, and is found to be the stronger one later."""
    order, near, far = [], 1 / (turns.FAR - 0.05), 1 / (turns.FAR + 0.05)
    rates = {"handgrad": [3.0] * 12, "a": [1.0] * 5 + [0.5] * 7, "b": [near] * 12, "c": [far] * 5}
    runners = [Scripted(label, values, order) for label, values in rates.items()]
    taken = take_turns(runners, ["step"], 0.0, 12)
    assert {label: len(values) for label, values in taken.rates["step"].items()} == {
        **dict.fromkeys("ab", 12),
        "c": 5,
        "handgrad": 12,
    }
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
    assert taken.count("step") == 5


def test_turns_go_on_while_the_median_is_uncertain(undisturbed):
    wild = [1.0, 2.0, 1.5, 1.0, 2.0, 1.5, 1.0, 2.0, 1.5]
    runners = [Scripted("handgrad", wild, []), Scripted("a", [1.0] * 9, [])]
    assert take_turns(runners, ["step"], 0.0, 3).count("step") == 9
    alone = [Scripted("handgrad", wild, [])]
    assert take_turns(alone, ["step"], 0.0, 3).count("step") == 3


def test_uncertainty_of_a_normal_sample(rng):
    """The standard error of the median of n normal numbers is 1.25 σ / √n; a factor of 1.3 for the estimate itself."""
    values = rng.normal(10, 1, size=400)
    assert 1 / 1.3 < uncertainty(list(values)) / (1.25 / 20 / 10) < 1.3


def test_disturbed_turns_do_not_count(monkeypatch):
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    bad = iter([0, 0, turns.TRIES, 0, 0, 2, 0, 0, 0, 0])
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), next(bad, 0)))
    runners = [Scripted("handgrad", [2.0, 2.0, 2.0, 2.0, 2.0], []), Scripted("a", [1.0, 9.0, 1.0, 1.0, 1.0], [])]
    taken = take_turns(runners, ["step"], 0.0, 3)
    assert taken.count("step") == 4 and taken.quiet("step") == [0, 2, 3] and taken.rejected == turns.TRIES + 2
    assert taken.compare("step")["lower"] == 2.0 and taken.compare("step")["turns"] == 3
    assert taken.medians("step") == {"handgrad": 2.0, "a": 1.0}


def test_a_machine_that_is_never_quiet_is_not_measured_for_ever(monkeypatch):
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(turns, "quietly", lambda measure: (measure(), turns.TRIES))
    runners = [Scripted(label, [1.0, 2.0, 3.0] * 3, []) for label in "AB"]
    taken = take_turns(runners, ["step"], 0.0, 3)
    assert taken.count("step") == 3 and taken.compare("step")["turns"] == 3


def test_a_kind_whose_ratio_is_steady_takes_no_more_turns(undisturbed):
    class Kinds(Scripted):
        def rate(self, kind, seconds):
            return 1.0 if kind == "step" else super().rate(kind, seconds)

    wild = [1.0, 2.0, 1.5] * 3
    taken = take_turns([Kinds("handgrad", wild, []), Kinds("a", [1.0] * 9, [])], ["step", "forward"], 0.0, 3)
    assert (taken.count("step"), taken.count("forward")) == (3, 9)
