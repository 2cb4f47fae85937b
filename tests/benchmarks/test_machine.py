"""The machine's peak, its noise, and kernels outside of the engine."""

from __future__ import annotations

import pytest

from handgrad.benchmarks import machine


def test_peak_is_more_than_any_kernel_reaches():
    assert machine.peak_gflops(1, passes=50_000) > 1


class Scripted(machine.Cores):
    """Cores whose speeds are given; each look takes a hundredth of a second."""

    def __init__(self, speeds):
        self.peak, self.now, self.looks, self._speeds = 100.0, 0.0, 0, iter(speeds)

    def gflops(self, passes=machine.PASSES):
        self.now, self.looks = self.now + 0.01, self.looks + 1
        speed = next(self._speeds)
        self.peak = max(self.peak, speed)
        return speed


@pytest.mark.parametrize(
    ("speeds", "looks"),
    [
        ([100.0] * 9, 4),
        ([60.0, 90.0, 90.0, 60.0, *[90.0] * 9], 8),
        ([90.0, 90.0, 110.0, 90.0, *[110.0] * 9], 8),  # a new peak, of which 90 is too little
        ([60.0] * 99, 50),
    ],
)
def test_the_cores_are_waited_for(monkeypatch, speeds, looks):
    """Until they are good four times in a row, or half a second is over."""
    cores = Scripted(speeds)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: cores.now)
    cores.wait()
    assert cores.looks == looks


def test_openmp_has_time_to_sleep(monkeypatch):
    cores = Scripted([100.0] * 99)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: cores.now / 10)
    cores.wait()
    assert cores.looks * 0.001 >= machine.SHORTEST and cores.looks == 20


def test_cores_know_their_peak():
    cores = machine.Cores(1)
    assert cores.peak == 0
    reached = [cores.gflops(50_000) for _ in range(3)]
    assert cores.peak == max(reached) and min(reached) > 0


def test_a_noisy_measurement_is_repeated_and_counted(monkeypatch):
    busy = iter([0.0, 9.0, 9.0, 9.0 + 1e-9])
    monkeypatch.setattr(machine, "busy_seconds", lambda: 1.0 + next(busy))
    values = iter([1.0, 2.0])
    prepared = []
    assert machine.quietly(lambda: next(values), lambda: prepared.append(1)) == (2.0, 1)
    assert len(prepared) == 2


def test_of_noisy_measurements_alone_the_quietest_counts(monkeypatch):
    noise = iter([9.0, 8.0, 5.0, 6.0, 7.0, 9.0])
    now = {"busy": 1.0}

    def measure():
        now["busy"] += next(noise)
        return now["busy"]

    monkeypatch.setattr(machine, "busy_seconds", lambda: now["busy"])
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
    clock = iter(range(100))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(clock)))
    assert machine.quietly(measure) == (1.0 + 9 + 8 + 5, machine.TRIES)


def test_a_function_runs_at_least_once():
    calls = []
    assert machine.runs_per_second(lambda: calls.append(1), 0.0) > 0
    assert calls == [1]


def test_a_changed_kernel_is_not_found_in_the_cache(tmp_path):
    """The cache knows a kernel by its qualified name, which here holds a hash of the file."""
    names = set()
    for body in ("x + 1", "x + 2", "x + 1"):
        path = tmp_path / "kernel_of_a_test.py"
        path.write_text(f"def f(x):\n    return {body}\n")
        scope = {}
        exec(compile(path.read_text(), str(path), "exec"), scope)
        names.add(machine.measured(scope["f"]).py_func.__qualname__)
    assert len(names) == 2
