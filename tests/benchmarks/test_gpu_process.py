"""One section after the other, in this process and in one of their own, and what is told of the machine."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import numpy as np

from handgrad.benchmarks import gpu_process, gpu_sections
from handgrad.benchmarks.gpu_process import Asked, Section, Worker
from handgrad.engine import cuda


class ImitatedGpu(cuda.SimulatedDevice, cuda.Gpu):
    """A simulated device that knows one thing of itself."""

    def __init__(self):
        cuda.SimulatedDevice.__init__(self)
        self.cuda = SimpleNamespace(
            get_current_device=lambda: SimpleNamespace(MULTIPROCESSOR_COUNT=132), current_context=lambda: None
        )


def test_a_fact_that_is_missing_stops_nothing():
    with cuda.launching_on(ImitatedGpu()):
        found = gpu_process.facts()
    assert found["multiprocessors"] == 132 and found["memory, GiB"] is None
    assert gpu_process.known(lambda: 1 / 0) is None


def pieces_of(*pieces):
    return lambda asked: iter(pieces)


def rows(*values):
    return lambda: [{"k": value} for value in values]


def fails():
    yield {"k": 1}
    raise ValueError("on\ntwo lines")


def sent(run, skip=0, seconds=60.0):
    messages = []
    gpu_process.perform(run, Asked(), skip, seconds, messages.append)
    return messages


def test_a_piece_that_fails_is_told_and_the_next_is_made():
    messages = sent(pieces_of(("a", rows(1, 2)), ("b", fails), ("c", rows(3))))
    assert [value["k"] for word, value in messages if word == "row"] == [1, 2, 1, 3]
    (failure,) = [value for word, value in messages if word == "failure"]
    assert (
        failure["piece"] == "b" and failure["reason"] == "ValueError: on two lines" and "raise" in failure["traceback"]
    )
    assert [value for word, value in messages if word == "piece"] == ["a", "b", "c"]
    assert sum(word == "done" for word, _ in messages) == 3


def test_pieces_that_were_made_are_skipped_and_late_ones_left_out():
    run = pieces_of(("a", rows(1)), ("b", rows(2)), ("c", rows(3)))
    assert [value for word, value in sent(run, skip=1) if word == "piece"] == ["b", "c"]
    assert sent(run, seconds=-1.0) == [("late", "a")]


def test_a_section_that_cannot_begin_fails():
    (message,) = sent(lambda asked: [][1])
    assert message[0] == "failure" and message[1]["piece"] == "its beginning"


def test_a_gpu_that_answers_no_more_ends_the_section(monkeypatch):
    monkeypatch.setattr(cuda.device(), "put", lambda array: 1 / 0, raising=False)
    messages = sent(pieces_of(("a", fails), ("b", rows(2))))
    assert [word for word, _ in messages] == ["piece", "row", "failure", "broken"]


class Here:
    """A worker without a process."""

    made = 0

    def __init__(self):
        Here.made += 1
        self.facts, self.is_usable = {"device": "imagined"}, True

    def events(self, run, asked, skip, seconds, most):
        messages = []
        gpu_process.perform(run, asked, skip, seconds, messages.append)
        for word, value in messages:
            yield word, value
            if value == {"k": "crash"}:
                self.is_usable = False
                yield "died", "its process ended with exit code -11"
                return
        yield "end", None

    def stop(self):
        self.is_usable = False


def measured(seconds=60.0, **sections):
    Here.made, told = 0, []
    sections = {name: value if isinstance(value, Section) else Section(value, 10) for name, value in sections.items()}
    report = gpu_process.measure(
        list(sections),
        Asked(),
        seconds,
        sections=sections,
        make_worker=Here,
        finished=lambda report, name: told.append(name),
    )
    assert told == list(sections) and report["machine"] == {"device": "imagined"}
    json.dumps(report)
    return report["sections"]


def test_every_section_has_its_status(capsys):
    found = measured(
        good=pieces_of(("a", rows(1))),
        bad=pieces_of(("a", fails)),
        empty=pieces_of(("a", lambda: [{"note": "nothing here"}] * 2)),
        wrong=pieces_of(("a", lambda: [{"k": 1, "ok": True}, {"k": 2, "ok": False}])),
    )
    assert {name: record["status"] for name, record in found.items()} == {
        "good": "ok", "bad": "failed", "empty": "left out", "wrong": "failed",
    }  # fmt: skip
    assert found["empty"]["notes"] == ["nothing here"] and found["good"]["rows"] == [{"k": 1}]
    assert found["wrong"]["failures"][0]["reason"] == "1 of 2 rows are wrong" and found["good"]["seconds"] > 0
    captured = capsys.readouterr()
    assert captured.err.count("handgrad: good: a") == 1 and captured.out == ""


def test_a_new_process_goes_on_where_one_crashed():
    found = measured(only=pieces_of(("a", rows(1)), ("b", rows(2, "crash")), ("c", rows(3))))
    assert [row["k"] for row in found["only"]["rows"]] == [1, 2, "crash", 3] and Here.made == 2
    (failure,) = found["only"]["failures"]
    assert failure["piece"] == "b" and failure["reason"] == "its process ended with exit code -11"


def test_a_section_that_crashes_always_is_given_up():
    found = measured(only=pieces_of(*[("a", rows("crash"))] * 20), next=pieces_of(("b", rows(1))))
    assert len(found["only"]["rows"]) == gpu_process.RESTARTS + 1 and found["next"]["status"] == "ok"
    assert "given up" in found["only"]["failures"][-1]["reason"]


def test_a_section_may_want_a_fresh_process():
    section = Section(pieces_of(("a", rows(1))), 10, fresh=True)
    measured(first=section)
    assert Here.made == 1  # nothing has been compiled in it
    measured(first=section, second=section)
    assert Here.made == 2


def test_time_is_shared_and_what_is_left_goes_to_the_others(monkeypatch):
    limits = []

    def events(self, run, asked, skip, seconds, most):
        limits.append((seconds, most))
        yield "row", {"k": 1}
        yield "end", None

    monkeypatch.setattr(Here, "events", events)
    measured(
        gpu_process.RESERVE + 100,
        a=Section(None, 10),
        b=Section(None, 30),
        c=Section(None, 10),
    )
    np.testing.assert_allclose([soft for soft, _ in limits], [20, 75, 100], atol=1)  # of 100, 100 and 100 that are left
    np.testing.assert_allclose([most for _, most in limits], [40, 95, 100], atol=1)


def test_out_of_time():
    found = measured(gpu_process.RESERVE, a=pieces_of(("a", rows(1))))
    assert found["a"]["status"] == "out of time" and found["a"]["rows"] == []
    found = measured(
        gpu_process.RESERVE + 0.2, a=lambda asked: ((str(k), lambda: [{"k": time.sleep(0.05)}]) for k in range(20))
    )
    assert found["a"]["status"] == "out of time" and 0 < len(found["a"]["rows"]) < 20


def test_the_process_works_hangs_and_crashes(monkeypatch):
    """Built-in functions stand for sections that never end, and that end everything."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    worker = Worker()
    try:
        assert worker.facts["device"] == "simulator" and worker.is_usable
        words = [word for word, _ in worker.events(gpu_sections.about, Asked(), 0, 60.0, 60.0)]
        assert words[0] == "piece" and words[-2:] == ["done", "end"] and worker.is_usable
        assert [word for word, _ in worker.events(time.sleep, 60, 0, 60.0, 0.3)] == ["hung"]
        assert not worker.is_usable and not worker.process.is_alive()
    finally:
        worker.stop()
    worker = Worker()
    try:
        assert list(worker.events(os._exit, 3, 0, 60.0, 60.0)) == [("died", "its process ended with exit code 3")]
        assert not worker.is_usable
    finally:
        worker.stop()
