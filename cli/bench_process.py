"""The processes that measure for ``handgrad bench``, each a module of ``handgrad.benchmarks``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress

from ..engine.checks import HandgradError

# memory that is freed stays with the process: what peers and this engine allocate in every step costs no system calls
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
COMPILING = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # PyTorch's compiler starts no processes that then wait beside us
ISAS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx,+sse4.2,+bmi,+bmi2,+popcnt",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    }
}


def restricted_to(isa: str | None) -> dict[str, str]:
    """Return the variables that restrict a process to some instructions.

    PyTorch's compiler takes from its cache what it has compiled for others; that computes nonsense, or crashes.
    """
    if isa is None:
        return {}
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "torchinductor-handgrad"))
    return ISAS[isa] | {"TORCHINDUCTOR_CACHE_DIR": f"{folder}-{isa}"}


class Process:
    """A module of ``handgrad.benchmarks`` that runs in a process of its own and prints JSON objects, one in a line.

    Parameters
    ----------
    module : str
    words : list of str
        Its command line.
    isa : str or None
        Of ISAS.
    what : str
        What it measures, for messages.
    """

    def __init__(self, module: str, words: list[str], isa: str | None, what: str):
        self._what, self._errors = what, tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__.partition('.')[0]}.benchmarks.{module}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env=os.environ | MALLOC | COMPILING | restricted_to(isa),
        )

    def ask(self, request: object = None) -> dict:
        """Send a request, which not every module reads, and return the JSON object that is printed next.

        Raises
        ------
        HandgradError
            When the process ends instead.
        """
        with suppress(OSError):  # it has ended; its last words say why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            with suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    return found
        raise HandgradError(f"bench: {self._what} failed: {self._last_words()}")

    def _last_words(self) -> str:
        """Return why the process ended."""
        code = self._process.wait()
        if code <= 0:
            return f"ended by signal {-code}" if code else "printed no results"
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or [f"no message, exit code {code}"])[-1]

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._errors):
            stream.close()
        with suppress(OSError):  # what it has not read is lost
            self._process.stdin.close()


def run_module(module: str, words: list[str], isa: str | None, what: str) -> dict:
    """Run a module in a process of its own and return the JSON object that it prints."""
    process = Process(module, words, isa, what)
    try:
        return process.ask()
    finally:
        process.end()
