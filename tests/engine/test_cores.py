"""Cores: how many there are, and that threads which are woken up do not end behind the one that wakes them."""

from __future__ import annotations

import os
import threading

import pytest

from handgrad.engine import cores

affinity = pytest.mark.skipif(
    cores._current_core() is None or cores.available_cores() < 2, reason="needs Linux and two cores"
)


@pytest.fixture
def sleeper():
    """The native number of a thread that waits for the end of the test."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    yield thread.native_id
    end.set()
    thread.join()


def test_there_is_a_core():
    assert cores.available_cores() >= 1


def test_the_system_has_a_function_that_yields():
    assert cores.yield_function()() in (0, 1)  # sched_yield returns 0; SwitchToThread whether there was somebody


@affinity
def test_sleeping_threads_are_kept_off_the_core_of_the_caller(sleeper, monkeypatch):
    every = os.sched_getaffinity(0)
    here = min(every)
    monkeypatch.setattr(cores, "_current_core", lambda: lambda: here)
    assert cores.keep_apart([sleeper]) == {sleeper: every}
    assert os.sched_getaffinity(sleeper) == every - {here}
    assert os.sched_getaffinity(0) == every and cores.available_cores() == len(every)
    cores.allow({sleeper: every})
    assert os.sched_getaffinity(sleeper) == every


@affinity
def test_a_thread_that_is_kept_apart_knows_how_many_cores_there_are():
    found, count = [], cores.available_cores()

    def look():
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(own)})
        found.append(cores.available_cores())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [count]


def test_where_there_is_one_core_or_no_such_function_nothing_is_done(sleeper, monkeypatch):
    before = os.sched_getaffinity(sleeper) if hasattr(os, "sched_getaffinity") else None
    monkeypatch.setattr(cores, "_current_core", lambda: None)
    assert cores.keep_apart([sleeper]) == {}
    if before is not None:
        monkeypatch.setattr(cores, "_current_core", lambda: lambda: 7)
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {7})
        assert cores.keep_apart([sleeper]) == {}
        monkeypatch.undo()
        assert os.sched_getaffinity(sleeper) == before


@affinity
def test_a_thread_that_has_ended_does_not_matter(monkeypatch):
    def fail(thread, cores):
        raise ProcessLookupError

    monkeypatch.setattr(os, "sched_setaffinity", fail)
    assert cores.keep_apart([threading.get_native_id()]) == {}
    cores.allow({threading.get_native_id(): {0}})
