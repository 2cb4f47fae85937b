"""The process that measures on a GPU, and the one that waits for it.

A ``Section`` yields pieces, and each piece rows. ``Worker`` makes them in a second process, so that a crash, a broken
context or a kernel that never ends costs the piece that was being made, and nothing else: a new process goes on with
the next one. ``measure`` divides the time among the sections and collects the report. What goes to the other process
is found there by its module's name, so it is here and in ``gpu_sections``, not in the file that ``python -m`` starts.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import islice

import numpy as np

from .. import __version__
from ..engine import cuda
from ..engine.checks import DeviceError

SECONDS_IN_ALL = 480.0
RESERVE = 10.0  # of these stay for the last table and the file
GRACE = 20.0  # that a section may go on beyond its share with what it has begun, before its process is ended
START = 120.0  # to import everything and to find the GPU
RESTARTS = 4  # of a section's process
PACKAGES = ("numba", "numba-cuda", "numpy", "torch", "cuda-bindings", "cuda-core")

Row = dict[str, object]
Piece = tuple[str, Callable[[], Iterable[Row]]]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Attributes
    ----------
    data_dir : str or None
        Folder with MNIST; by default ``$HANDGRAD_DATA``.
    torch_device : str
        Where PyTorch computes; "cpu" only where there is no GPU to be measured, in tests.
    """

    data_dir: str | None = None
    torch_device: str = "cuda"


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes
    ----------
    run : callable
        From an Asked to pieces.
    share : float
        Seconds of the whole when all sections run; what one leaves is divided among the others.
    fresh : bool
        Whether it wants a process in which nothing has been compiled.
    shown : callable, optional
        Which rows the text shows; the file has all.
    """

    run: Callable[[Asked], Iterator[Piece]]
    share: float
    fresh: bool = False
    shown: Callable[[list[Row]], list[Row]] = list


def one_line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def facts() -> dict[str, object]:
    """Return what is known of the machine, and the versions of everything that takes part."""
    device = cuda.device()
    found: dict[str, object] = {"device": device.name}
    if isinstance(device, cuda.Gpu):
        gpu, context = device.cuda.get_current_device, device.cuda.current_context
        found |= {
            "compute capability": known(lambda: "{}.{}".format(*gpu().compute_capability)),
            "multiprocessors": known(lambda: gpu().MULTIPROCESSOR_COUNT),
            "clock, MHz": known(lambda: gpu().CLOCK_RATE / 1e3),
            "second cache, MiB": known(lambda: gpu().L2_CACHE_SIZE / 2**20),
            "memory, GiB": known(lambda: context().get_memory_info().total / 2**30),
            "driver": driver_version(),
        }
    found |= {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    return found | {"handgrad": __version__} | {name: known(partial(metadata.version, name)) for name in PACKAGES}


def known(read: Callable[[], object]) -> object:
    """Return what a function reads, or None where it cannot: a fact that is missing must not stop a measurement."""
    try:
        return read()
    except Exception:
        return None


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, where its own tool is installed."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0] or None
    except (OSError, subprocess.SubprocessError):
        return None


def perform(run: Callable[[Asked], Iterator[Piece]], asked: Asked, skip: int, seconds: float, send: Callable) -> None:
    """Make a section's pieces from some number on, as long as there is time, and tell of everything that happens.

    Parameters
    ----------
    run : callable
        Of a Section.
    asked : Asked
    skip : int
        Pieces that have been made.
    seconds : float
    send : callable
        Gets pairs of a word and a value: "piece" (its title), "row", "failure" (dict), "done", "late" (the title of the
        first piece that was left out), "broken" where the GPU answers no more.
    """
    begin, title = time.perf_counter(), "its beginning"
    try:
        for title, piece in islice(run(asked), skip, None):
            if time.perf_counter() - begin > seconds:
                send(("late", title))
                return
            send(("piece", title))
            try:
                for row in piece():
                    send(("row", row))
            except Exception as error:
                send(("failure", failure(title, one_line(error), traceback.format_exc())))
                if is_broken():
                    send(("broken", None))
                    return
            send(("done", None))
    except Exception as error:
        send(("failure", failure(title, one_line(error), traceback.format_exc())))


def failure(piece: str, reason: str, trace: str = "") -> dict[str, str]:
    """Return what is kept of something that went wrong."""
    return {"piece": piece, "reason": reason, "traceback": trace}


def is_broken() -> bool:
    """Return whether the GPU answers no more: after an access outside of its memory it refuses everything."""
    try:
        cuda.device().put(np.zeros(1))
        cuda.device().synchronize()
    except Exception:
        return True
    return False


def serve(connection) -> None:
    """Make the sections that another process asks for, until it asks no more."""
    try:
        connection.send(("ready", facts()))
    except DeviceError as error:
        connection.send(("refused", str(error)))
        return
    while True:
        try:
            section, asked, skip, seconds = connection.recv()
        except EOFError:
            return
        perform(section, asked, skip, seconds, connection.send)
        connection.send(("end", None))


class Worker:
    """A process that measures.

    Attributes
    ----------
    facts : dict
        As ``facts`` returns them.
    is_usable : bool
        Whether it can be asked for another section.

    Raises
    ------
    DeviceError
        Where there is no GPU.
    """

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there,))
        self.process.start()
        there.close()
        self.is_usable = True
        for word, value in self._events(START):
            self.facts = value
            if word != "ready":
                self.stop()
                raise DeviceError(value if word == "refused" else f"device cuda: {value}")
            return

    def events(self, run, asked: Asked, skip: int, seconds: float, most: float) -> Iterator[tuple[str, object]]:
        """Yield what ``perform`` sends, then "end"; or "died" or "hung" with a reason.

        Parameters
        ----------
        run, asked, skip, seconds
            As ``perform`` takes them.
        most : float
            Seconds after which the process is ended.
        """
        self.connection.send((run, asked, skip, seconds))
        for word, value in self._events(most):
            yield word, value
            self.is_usable = self.is_usable and word not in ("broken", "died", "hung", "failure")
            if word == "end":
                return

    def _events(self, most: float) -> Iterator[tuple[str, object]]:
        end = time.perf_counter() + most
        while True:
            try:
                if not self.connection.poll(max(0.0, end - time.perf_counter())):
                    self.stop()
                    yield "hung", f"ended after {most:.0f} s without an answer"
                    return
                message = self.connection.recv()
            except (EOFError, OSError):
                self.process.join(10)
                yield "died", f"its process ended with exit code {self.process.exitcode}"
                return
            yield message

    def stop(self) -> None:
        """End the process."""
        self.is_usable = False
        self.process.kill()
        self.process.join()
        self.connection.close()


def measure(
    names: Sequence[str],
    asked: Asked,
    seconds: float = SECONDS_IN_ALL,
    *,
    sections: dict[str, Section],
    make_worker: Callable[[], Worker] = Worker,
    finished: Callable[[dict, str], None] = lambda report, name: None,
) -> dict:
    """Make some sections, each in its share of the time that is left, and return the report.

    Parameters
    ----------
    names : sequence of str
    asked : Asked
    seconds : float
        For everything.
    sections : dict of str to Section
        Among them those of these names.
    make_worker : callable
    finished : callable
        Called with the report and a name after each section.

    Raises
    ------
    DeviceError
        Where there is no GPU at the beginning.
    """
    end, worker = time.perf_counter() + seconds - RESERVE, make_worker()
    report = {"status": "measured on a GPU", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    report |= {"machine": worker.facts, "seconds_in_all": seconds, "sections": {}}
    try:
        for position, name in enumerate(names):
            section, start = sections[name], time.perf_counter()
            left = sum(sections[other].share for other in names[position:])
            record = {"status": "ok", "seconds": 0.0, "rows": [], "notes": [], "failures": []}
            report["sections"][name] = record
            if section.fresh and position:
                worker.stop()
            soft = start + (end - start) * section.share / left
            worker = make_section(section, record, asked, worker, make_worker, soft, end, name)
            record["seconds"] = time.perf_counter() - start
            record["status"] = status_of(record)
            finished(report, name)
    finally:
        worker.stop()
    return report


def make_section(section: Section, record: dict, asked: Asked, worker, make_worker, soft: float, end: float, name: str):
    """Fill a section's record and return the worker that did; where one breaks down, the next goes on behind it.

    Parameters
    ----------
    section : Section
    record : dict
    asked : Asked
    worker, make_worker
    soft, end : float
        When no new piece is begun, and when all has to be over, on the clock ``time.perf_counter``.
    name : str
    """
    skip = 0
    for _ in range(RESTARTS + 1):
        now = time.perf_counter()
        if now >= soft:
            record["failures"].append(failure("", "out of time"))
            return worker
        title, is_over = "its beginning", True
        try:
            if not worker.is_usable:
                worker.stop()
                worker = make_worker()
            most = min(soft + GRACE, end) - time.perf_counter()
            for word, value in worker.events(section.run, asked, skip, soft - time.perf_counter(), most):
                if word == "piece":
                    title = value
                    print(f"handgrad: {name}: {title}", file=sys.stderr, flush=True)
                elif word == "row":
                    if "note" in value:
                        record["notes"] += [value["note"]] if value["note"] not in record["notes"] else []
                    else:
                        record["rows"].append(value)
                elif word == "failure":
                    record["failures"].append(value)
                elif word == "late":
                    record["failures"].append(failure(value, "out of time"))
                elif word in ("hung", "died"):
                    record["failures"].append(failure(title, "out of time" if word == "hung" else value, value))
                skip += word in ("done", "broken", "died")
                is_over = word not in ("broken", "died")
        except DeviceError as error:
            record["failures"].append(failure(title, one_line(error)))
            return worker
        if is_over:
            return worker
    record["failures"].append(failure("", f"given up after {RESTARTS} new processes"))
    return worker


def status_of(record: dict) -> str:
    """Return "ok", "failed", "out of time" or "left out", the worst that is true."""
    wrong = sum(row.get("ok") is False for row in record["rows"])
    if wrong:
        record["failures"].append(failure("", f"{wrong} of {len(record['rows'])} rows are wrong"))
    reasons = {entry["reason"] for entry in record["failures"]}
    if reasons - {"out of time"}:
        return "failed"
    if reasons:
        return "out of time"
    return "ok" if record["rows"] else "left out"
