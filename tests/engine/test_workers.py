"""Workers: everybody runs, everybody meets, sums have one order, and a failure never hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

from handgrad.engine import Dense, Input, Network
from handgrad.engine.arrays import add_into
from handgrad.engine.backend import kernel
from handgrad.engine.checks import ConfigurationError
from handgrad.engine.cores import _current_core, available_cores
from handgrad.engine.program import Program
from handgrad.engine.workers import WorkerError, Workers, shared_workers

every_size = pytest.mark.parametrize("size", [1, 2, 3, 4])


@kernel
def add_one_below(total, limit):
    """Add 1, or fail."""
    if total[0] >= limit[0]:
        raise ValueError("at the limit")
    total[0] += 1


@pytest.fixture(autouse=True)
def limited():
    """Dump the stacks and stop where a test hangs: a barrier that is never reached would wait for ever."""
    import faulthandler

    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@every_size
def test_every_rank_runs_once_and_in_its_own_thread(size):
    workers, ranks, threads = Workers(size), [], set()

    def note(rank):
        ranks.append(rank)
        threads.add(threading.get_ident())
        workers.barrier()  # so that no thread is done before the last has begun

    for run in range(1, 4):
        workers.run(note)
        assert sorted(ranks) == sorted([*range(size)] * run)
    assert len(threads) == size and threading.get_ident() in threads


@every_size
def test_rank_0_is_the_calling_thread(size):
    owner = {}
    Workers(size).run(lambda rank: owner.setdefault(rank, threading.get_ident()))
    assert owner[0] == threading.get_ident()


@every_size
def test_nobody_passes_a_barrier_before_all_have_come(size):
    workers, come = Workers(size), np.zeros(50, dtype=int)
    lock, seen = threading.Lock(), []

    def meet(rank):
        for turn in range(50):
            if (turn + rank) % 7 == 0:
                time.sleep(0.0005)
            with lock:
                come[turn] += 1
            workers.barrier()
            seen.append(come[turn])

    workers.run(meet)
    assert seen == [size] * (50 * size)


@every_size
def test_nobody_passes_a_meeting_before_all_have_come(size):
    workers, come = Workers(size), np.zeros(size, dtype=int)

    def meet(rank):
        for turn in range(1, 21):
            come[rank] = turn
            workers.meet()
            assert (come >= turn).all()
            workers.meet()

    for _ in range(3):
        workers.run(meet)


def test_a_team_meets_without_the_others():
    """Worker 2 of three is late; the first two need not wait for it."""
    workers, times = Workers(3), {}

    def meet(rank):
        if rank == 2:
            time.sleep(0.3)
        else:
            workers.meet(2)
            times[rank] = time.perf_counter()

    start = time.perf_counter()
    workers.run(meet)
    assert sorted(times) == [0, 1] and max(times.values()) - start < 0.25


def test_a_failure_frees_those_who_wait_in_a_kernel_and_the_crew_works_on():
    workers = Workers(2)

    def fail(rank):
        if rank == 1:
            time.sleep(0.05)
            raise ZeroDivisionError("the cause")
        workers.meet()

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="the cause"):
            workers.run(fail)
        workers.run(lambda rank: workers.meet())


@every_size
def test_run_returns_when_all_have_finished(size):
    done = []

    def work(rank):
        time.sleep(0.01 * rank)
        done.append(rank)

    workers = Workers(size)
    for run in (1, 2):
        workers.run(work)
        assert len(done) == run * size


@every_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_reduce_sum_adds_in_the_order_of_the_ranks(size, dtype):
    parts = np.random.default_rng(0).normal(size=(size, 100)).astype(dtype)
    expected = parts[0].copy()
    for part in parts[1:]:
        expected += part
    workers = Workers(size)
    for _ in range(5):
        arrays = parts.copy()
        workers.run(lambda rank, arrays=arrays: workers.all_reduce_sum(rank, arrays[rank]))
        for array in arrays:
            np.testing.assert_array_equal(array, expected)  # to the last bit


@every_size
def test_all_reduce_sum_several_times_in_one_run(size):
    workers, totals = Workers(size), np.zeros((size, 20))

    def work(rank):
        for turn in range(20):
            array = np.array([float(rank + turn)])
            workers.all_reduce_sum(rank, array)
            totals[rank, turn] = array[0]

    workers.run(work)
    np.testing.assert_array_equal(totals, [[size * (size - 1) / 2 + size * turn for turn in range(20)]] * size)


@pytest.mark.parametrize("team", [1, 2, 3])
def test_a_team_of_the_first_workers_adds_up_while_the_others_do_something_else(team):
    workers = Workers(4)
    for turn in range(5):
        arrays, late = np.arange(4.0)[:, None] + turn, []

        def work(rank, arrays=arrays, late=late):
            if rank < team:
                workers.all_reduce_sum(rank, arrays[rank], team)
                workers.all_reduce_sum(rank, arrays[rank], team=team)
            else:
                late.append(rank)
            workers.barrier()

        workers.run(work)
        once = sum(range(team)) + team * turn
        assert arrays[:, 0].tolist() == [team * once] * team + [rank + turn for rank in range(team, 4)]
        assert sorted(late) == list(range(team, 4))


@every_size
def test_a_failure_is_raised_by_run_and_stops_the_others(size):
    workers = Workers(size)
    for bad in range(size):
        passed = []

        def fail(rank, bad=bad, passed=passed):
            if rank == bad:
                raise ValueError(f"worker {rank} is tired")
            workers.barrier()
            passed.append(rank)

        with pytest.raises(ValueError, match=f"^worker {bad} is tired$"):
            workers.run(fail)
        assert passed == []


@every_size
def test_workers_can_be_used_after_a_failure(size):
    workers = Workers(size)
    with pytest.raises(ZeroDivisionError):
        workers.run(lambda rank: 1 // 0)
    for _ in range(3):
        total = np.ones((size, 1))
        workers.run(lambda rank, total=total: workers.all_reduce_sum(rank, total[rank]))
        assert (total == size).all()


@every_size
def test_even_an_exit_is_handed_over(size):
    def leave(rank):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Workers(size).run(leave)


def test_the_first_cause_is_raised_and_not_its_consequence():
    workers = Workers(3)

    def fail(rank):
        if rank == 2:
            time.sleep(0.02)
            raise KeyError("cause")
        workers.barrier()

    with pytest.raises(KeyError, match="cause"):
        workers.run(fail)
    assert issubclass(WorkerError, RuntimeError)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize("fails", [False, True])
def test_those_that_are_woken_up_have_another_core_for_one_run(fall_asleep, fails):
    """And know all the same that everybody has a core; where the system has such functions at all."""
    workers, there, can_meet = Workers(2), {}, []

    def look(rank):
        there[rank] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0, 1}
        can_meet.append(workers.can_meet)
        if rank and fails:
            raise ValueError("tired")

    workers.run(lambda rank: None)
    fall_asleep(workers)
    with pytest.raises(ValueError, match="tired") if fails else nullcontext():
        workers.run(look)
    assert can_meet == [True, True]
    assert len(there[0]) - len(there[1]) == (_current_core() is not None), there
    if _current_core() is not None:
        assert os.sched_getaffinity(workers._threads[0].native_id) == there[0]


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_what_those_that_are_woken_up_note_down_is_without_python(fall_asleep):
    x, workers = Input((40,)), shared_workers(2)
    network = Network(x, Dense(3)(Dense(50)(x)), threads=2)
    workers.run(lambda rank: None)
    network.forward(np.ones((64, 40)))
    fall_asleep(workers)
    network.backward(np.ones((64, 3)))
    assert all(part.programs["backward"].job is not None for part in network.last_pass.active)


def test_where_there_are_more_workers_than_cores_all_may_use_every_core(fall_asleep, monkeypatch):
    workers, calls = Workers(3), []
    monkeypatch.setattr("handgrad.engine.workers.available_cores", lambda: 2)
    monkeypatch.setattr("handgrad.engine.workers.keep_apart", lambda threads: calls.append(threads) or {})
    workers.run(lambda rank: None)
    fall_asleep(workers)
    workers.run(lambda rank: None)
    assert not calls
    monkeypatch.setattr("handgrad.engine.workers.available_cores", lambda: 3)
    fall_asleep(workers)
    workers.run(lambda rank: None)
    assert len(calls) == 1


def test_no_thread_starts_before_it_is_needed():
    before = threading.active_count()
    Workers(4)
    Workers(1).run(lambda rank: None)
    assert threading.active_count() == before


def test_default_size_is_the_number_of_cores():
    assert Workers().size == available_cores() >= 1


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_size_is_checked(size):
    with pytest.raises(ConfigurationError) as caught:
        Workers(size)
    assert str(caught.value) == f"workers: threads: got {size!r}, expected an integer of at least 1"


def test_networks_of_one_size_share_their_threads():
    before = threading.active_count()
    for _ in range(20):
        x = Input((3,))
        network = Network(x, Dense(2)(x), threads=3)
        network.forward(np.ones((40, 3)))
    assert threading.active_count() <= before + 2


def test_two_threads_that_use_the_same_workers_take_turns():
    workers, sums = Workers(2), []

    def count():
        for _ in range(50):
            ranks = []
            workers.run(ranks.append)
            sums.append(sorted(ranks))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sums == [[0, 1]] * 150


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_live_on_after_a_fork():
    script = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"  # Python warns that threads do not survive; that is the point
        "from handgrad.engine.workers import Workers\n"
        "workers = Workers(2)\n"
        "workers.run(lambda rank: None)\n"
        "child = os.fork()\n"
        "ranks = []\n"
        "workers.run(ranks.append)\n"
        "assert sorted(ranks) == [0, 1]\n"
        "if child == 0: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.parametrize("where", ["_start", "call", "until", "_give_up", "_set_up"])
def test_an_interrupt_in_the_middle_of_a_dispatch_does_not_block_the_next(monkeypatch, where):
    """What Ctrl-C does in a notebook: KeyboardInterrupt in the calling thread, wherever it happens to be."""
    workers, ranks = Workers(3), []
    if where != "_start":
        workers.run(lambda rank: None)
    if where in ("_give_up", "_set_up"):  # a second interrupt, while the first is being mended
        interrupt_once(monkeypatch, workers._crew, "until")
        with pytest.raises(KeyboardInterrupt):
            workers.run(lambda rank: None)
    interrupt_once(monkeypatch, workers if where.startswith("_") else workers._crew, where)
    with pytest.raises(KeyboardInterrupt):
        workers.run(lambda rank: None)
    for _ in range(3):
        ranks.clear()
        workers.run(ranks.append)
        assert sorted(ranks) == [0, 1, 2]


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["waiting", "in a long kernel"])
def test_a_worker_that_is_left_behind_before_a_barrier_disturbs_nobody(monkeypatch, seconds):
    """The caller is interrupted before its own part begins; the others come to a sum that it never joins."""
    workers, left, sums = Workers(2), [], np.zeros(2)

    def work(rank):
        time.sleep(seconds)
        left.append(threading.current_thread())
        workers.all_reduce_sum(rank, np.full(1, 1000.0))
        left.append("the sum of an interrupted dispatch was finished")

    def add_ranks(rank):
        time.sleep(2 * seconds * rank)
        array = np.array([rank + 1.0])
        workers.all_reduce_sum(rank, array)
        sums[rank] = array[0]

    workers.run(lambda rank: None)
    interrupt_once(monkeypatch, workers._crew, "call")
    with pytest.raises(KeyboardInterrupt):
        workers.run(work)
    workers.run(add_ranks)
    assert sums.tolist() == [3, 3]
    left[0].join(timeout=10)
    assert len(left) == 1 and not left[0].is_alive(), "it neither waits for ever nor burns a core"


def interrupt_once(monkeypatch, workers, name):
    method, interrupted = getattr(type(workers), name), []

    def interrupt(*arguments, **options):
        if threading.current_thread() is threading.main_thread() and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return method(workers, *arguments, **options)

    monkeypatch.setattr(workers, name, interrupt)


@every_size
@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_programs_run_on_every_worker_whether_it_waits_or_sleeps(size, pause):
    """A function in between comes in its turn, too."""
    workers, totals, one = Workers(size), np.zeros((size, 4)), np.ones(4)
    programs = [Program.of([(True, lambda rank=rank: add_into(totals[rank], one))]) for rank in range(size)]
    for k in range(20):
        workers.run_programs(programs)
        assert (totals == 2 + 2 * k).all()
        time.sleep(pause)
        workers.run(lambda rank: add_into(totals[rank], one))


def test_programs_with_python_in_them_run_in_python():
    workers, ranks, total = Workers(2), [], np.zeros(1)
    pieces = [(True, lambda: add_into(total, np.ones(1))), (False, lambda: ranks.append(threading.current_thread()))]
    programs = [Program.of(pieces), Program()]
    assert programs[0].job is None and programs[1].job[0] == 0
    for _ in range(3):
        workers.run_programs(programs)
    assert total[0] == 4 and ranks == [threading.main_thread()] * 4
    workers.run_programs(programs[::-1])
    assert total[0] == 5 and ranks[-1] is not threading.main_thread()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_in_a_program_is_raised_and_frees_those_who_meet(failing):
    workers = Workers(2)
    totals, limits, programs = np.zeros((2, 1)), np.full((2, 1), 100.0), [None, None]

    def note(rank):
        pieces = [(True, lambda: add_one_below(totals[rank], limits[rank])), (True, workers.meet)]
        programs[rank] = Program.of([*pieces, (True, lambda: add_one_below(totals[rank], limits[rank]))])

    workers.run(note)
    limits[failing] = 2
    with pytest.raises(ValueError, match="at the limit"):
        workers.run_programs(programs)
    assert totals[failing] == 2 and totals[1 - failing] in (2, 3), "the other one is stopped where it waits"
    limits[:] = 100
    before = totals.copy()
    for k in range(3):
        workers.run_programs(programs)
        assert (totals == before + 2 + 2 * k).all()


def test_an_interrupt_in_the_middle_of_a_program_leaves_the_others_behind(monkeypatch):
    """The caller never comes to the meeting; who waits there in a kernel goes home, and later programs have new ones."""
    workers, total = Workers(2), np.zeros(1)

    def note(programs):
        def work(rank):
            programs[rank] = Program.of([(True, workers.meet)])

        workers.run(work)
        return [programs[rank] for rank in range(2)]

    programs = note({})
    crew, threads = workers.crew, workers._threads
    interrupt_once(monkeypatch, crew, "call")
    with pytest.raises(KeyboardInterrupt):
        workers.run_programs(programs)
    assert workers.crew is not crew
    threads[0].join(timeout=10)
    assert not threads[0].is_alive()
    workers.run_programs(note({}))
    workers.run(lambda rank: rank and add_into(total, np.ones(1)))
    assert total[0] == 1
