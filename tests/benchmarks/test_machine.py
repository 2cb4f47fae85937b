"""The machine's peak, its noise, and kernels outside of the engine."""

from __future__ import annotations

from handgrad.benchmarks import machine


def test_peak_is_more_than_any_kernel_reaches():
    assert machine.peak_gflops(1, turns=50_000) > 1


def test_a_noisy_measurement_is_repeated_and_counted(monkeypatch):
    busy = iter([0.0, 9.0, 9.0, 9.0 + 1e-9])
    monkeypatch.setattr(machine, "busy_seconds", lambda: 1.0 + next(busy))
    values = iter([1.0, 2.0])
    assert machine.quietly(lambda: next(values)) == (2.0, 1)


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
