"""The kernel cache saves time and never costs a crash; register tiles of both heights compute the same."""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import config
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.errors import TypingError

from handgrad.engine import backend
from handgrad.engine.layers.tanh import tanh_forward

KERNEL = """
@backend.kernel
def squares{number}(x):
    total = x.dtype.type(0)
    for k in range(x.size):
        total += x[k] * x[k]
    return total
"""
RUN = """
results, hits, misses = set(), 0, 0
for kernel in kernels:
    for dtype in (np.float32, np.float64)[:{types}]:
        results.add(float(kernel(np.arange(4, dtype=dtype))))
    hits, misses = hits + sum(kernel.stats.cache_hits.values()), misses + sum(kernel.stats.cache_misses.values())
print(*results, hits, misses)
"""


class Machine:
    """A cache folder, and scripts with small kernels that run in processes of their own."""

    def __init__(self, folder):
        self.folder, self.cache = folder, folder / "cache"

    def run(self, *, kernels=1, types=1, before="", edit=str, cache=None, **environment):
        """Return (result, hits, misses) of a run; whatever is written to standard error fails the test."""
        script, numbers = self.folder / "script.py", range(kernels)
        text = before + "import numpy as np\nfrom handgrad.engine import backend\n"
        text += "".join(edit(KERNEL.format(number=number)) for number in numbers)
        text += f"kernels = [{', '.join(f'squares{number}' for number in numbers)}]\n" + RUN.format(types=types)
        script.write_text(text)
        environment = os.environ | {"HANDGRAD_CACHE": str(cache or self.cache)} | environment
        done = subprocess.run(
            [sys.executable, "-W", "error", script], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        result, hits, misses = done.stdout.split()
        return float(result), int(hits), int(misses)

    def files(self):
        """Return the files in the cache folder, all of which must be finished kernels."""
        files = sorted(path for path in self.cache.rglob("*") if path.is_file())
        assert all(path.suffix == ".bin" for path in files)
        return files


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_second_process_loads_what_the_first_compiled_for_each_signature(machine):
    assert machine.run(types=2) == (14.0, 0, 2)
    files = machine.files()
    assert len(files) == 2 and all(file.name.startswith("squares0-") for file in files)
    assert {file.parent.parent for file in files} == {machine.cache / "kernels"}
    written = [file.stat().st_mtime_ns for file in files]
    assert machine.run(types=2) == (14.0, 2, 0)
    assert [file.stat().st_mtime_ns for file in machine.files()] == written


def test_an_edited_kernel_has_another_file(machine):
    machine.run()
    assert machine.run(edit=lambda kernel: kernel.replace("x[k] * x[k]", "x[k] + x[k]")) == (12.0, 0, 1)
    assert len(machine.files()) == 2


def test_damaged_files_are_compiled_again_and_mended(machine):
    damages = [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: b"x" * len(content),
        lambda content: hashlib.sha256(b"no pickle").digest() + b"no pickle",
        lambda content: hashlib.sha256(pickle.dumps((1, 2))).digest() + pickle.dumps((1, 2)),
        lambda content: hashlib.sha256(pickle.dumps(None)).digest() + pickle.dumps(None),
    ]
    machine.run(kernels=len(damages) + 2)
    *files, folder, missing = machine.files()
    for file, damage in zip(files, damages, strict=True):
        file.write_bytes(damage(file.read_bytes()))
    for file in (folder, missing):
        file.unlink()
    folder.mkdir()
    assert machine.run(kernels=len(damages) + 2) == (14.0, 0, len(damages) + 2)
    assert machine.run(kernels=len(damages) + 2) == (14.0, len(damages) + 1, 1)  # a folder stays in the way


def test_a_cache_folder_that_cannot_be_made(machine):
    (machine.folder / "file").write_text("in the way")
    assert machine.run(cache=machine.folder / "file") == (14.0, 0, 1)


def test_a_full_disk(machine):
    full = """
import tempfile
def full(*arguments, **options):
    raise OSError(28, "No space left on device")
tempfile.NamedTemporaryFile = full
"""
    assert machine.run(before=full) == (14.0, 0, 1)
    assert machine.files() == []


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(machine):
    full = """
import os
def full(*arguments):
    raise OSError(28, "No space left on device")
os.replace = full
"""
    assert machine.run(before=full) == (14.0, 0, 1)
    assert machine.files() == []


def test_nothing_writable_at_all(machine):
    """Installed by root, run by somebody without a home: Numba itself finds no folder for its own cache."""
    nowhere = """
import numba.core.caching
def read_only(self):
    raise OSError(30, "Read-only file system")
numba.core.caching._CacheLocator.ensure_cache_path = read_only
"""
    assert machine.run(before=nowhere, cache="/dev/null/nowhere") == (14.0, 0, 1)


def test_checked_and_unchecked_kernels_are_not_mixed_up(machine):
    """NUMBA_BOUNDSCHECK=1 must not find kernels that were compiled without it, and the other way round."""
    machine.run()
    assert machine.run(NUMBA_BOUNDSCHECK="1")[1:] == (0, 1)


def test_cache_directory_follows_sources_versions_and_tiles(tmp_path, monkeypatch):
    def directory():
        return backend.cache_directory()

    monkeypatch.setenv("HANDGRAD_CACHE", str(tmp_path / "cache"))
    real = directory()
    assert real.parent == tmp_path / "cache" / "kernels"
    (tmp_path / "engine" / "layers").mkdir(parents=True)
    source, helper = tmp_path / "engine" / "layers" / "a.py", tmp_path / "engine" / "b.py"
    source.write_text("@kernel\ndef f(x): pass\n")
    helper.write_text("x = 1\n")
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "engine" / "backend.py"))
    (tmp_path / "engine" / "backend.py").write_text("")
    seen = {real, directory()}
    assert len(seen) == 2
    source.write_text("@kernel\ndef f(x): return x\n")  # a callee in another file: Numba itself would not notice
    seen.add(directory())
    assert len(seen) == 3
    source.rename(source.with_name("c.py"))
    seen.add(directory())
    monkeypatch.setattr(backend, "TILE", 99)
    seen.add(directory())
    monkeypatch.setattr(backend, "versions", lambda: {"numba": "9"})
    seen.add(directory())
    assert len(seen) == 6
    (tmp_path / "engine" / "backend.py").write_text("# changed")
    seen.add(directory())
    assert len(seen) == 7
    (tmp_path / "engine" / "tiles.py").write_text("")  # what it says is compiled into kernels
    seen.add(directory())
    assert len(seen) == 8
    helper.write_text("x = 2\n")  # no kernel in it
    seen.add(directory())
    assert len(seen) == 8


def test_versions_and_features():
    assert set(backend.versions()) == {"python", "numba", "llvmlite", "numpy"}
    assert backend.versions()["python"] == platform.python_version()
    assert all(isinstance(name, str) for name in backend.cpu_features())


def test_tiles_and_lanes():
    assert backend.LANES == 16
    assert backend.TILE == (8 if "avx512f" in backend.cpu_features() else 4)


def test_features_can_be_forced(monkeypatch):
    monkeypatch.setattr(backend.config, "CPU_FEATURES", "+avx2,-avx512f,+fma")
    assert backend.cpu_features() == {"avx2", "fma"}
    monkeypatch.setattr(backend.config, "CPU_FEATURES", "")
    assert backend.cpu_features() == set()


@pytest.mark.parametrize("setting", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_ENABLE_AVX": "0"}])
def test_settings_of_numba_are_left_alone(setting):
    """What a user has set decides which tiles there are, and is not overruled."""
    program = "from handgrad.engine import backend; print(backend.TILE, '+avx512f' in str(backend.config.CPU_FEATURES))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | setting)
    assert done.stdout.split() == ["4", "False"], done.stdout + done.stderr


@backend.kernel
def turn_around(square):
    """Exchange rows and columns."""
    backend.transpose(square)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transpose(dtype):
    square = np.arange(backend.SQUARE, dtype=dtype).reshape(backend.LANES, -1)
    expected = square.T.copy()
    turn_around(square)
    np.testing.assert_array_equal(square, expected)


def test_compiling_is_counted():
    z = np.zeros(3)
    tanh_forward(z, z.copy())
    ready, seconds = backend.kernels_ready(), backend.compile_seconds()
    assert ready >= 1 and seconds >= 0
    tanh_forward(z, z.copy())
    assert (backend.kernels_ready(), backend.compile_seconds()) == (ready, seconds)


def test_nan_survives_fast_math():
    """The flags that would let the compiler assume that no number is NaN or infinite are not among ours."""
    assert backend.FAST_MATH.isdisjoint({"nnan", "ninf", "fast", "afn"})


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="about x86 processors")
def test_registers_of_avx_512_are_used_whole_on_processors_of_intel(tmp_path):
    """LLVM would rather use half of each, and tiles would not fit; it compiles here as it would for such a machine."""
    program = """
from numba import float32
from handgrad.engine.backend import TILE
from handgrad.engine.layers.dense import forward_kernel
x, W, b = float32[:, :, ::1], float32[:, ::1], float32[::1]
dense_forward = forward_kernel(2)
dense_forward.compile((x, W, b, x))
(code,) = dense_forward.inspect_asm().values()
print(TILE, code.count("zmm") > 100, code.count("(%rsp), %zmm") < 5)
"""
    features = "+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd"
    intel = {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": features}
    intel["HANDGRAD_CACHE"] = str(tmp_path)  # Numba shows no code that it has loaded from a cache
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | intel, timeout=300
    )
    assert done.stdout.split() == ["8", "True", "True"], done.stdout + done.stderr


def test_tiles_of_the_other_height_compute_the_same():
    """4 channels in a tile, as for AVX2, or 8, as for AVX-512: what other readers run is tested here as well."""
    program = f"""
import sys
import pytest
from handgrad.engine import backend
backend.TILE = {12 - backend.TILE}
backend.CACHE_DIRECTORY = backend.cache_directory()
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    tests = [
        "test_dense.py::test_kernel_is_the_literal_code",
        "test_conv2d.py::test_kernel_is_the_literal_code",
        "test_conv2d.py::test_groups_are_separate_convolutions",
        "test_conv_transpose2d.py::test_kernel_is_the_literal_code",
        "test_winograd.py::test_kernels_are_the_literal_code",
    ]
    layers = Path(__file__).parent.parent / "layers"
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(layers / test) for test in tests)],
        cwd=layers.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


ENCLOSED = """
import sys
import numpy as np
from handgrad.engine.backend import kernel
from handgrad.engine.program import Program


def adder(AMOUNT):
    @kernel
    def add_amount(x):
        for k in range(x.size):
            x[k] += AMOUNT

    return add_amount


x = np.zeros(1)
adders = [adder(int(amount)) for amount in sys.argv[1:]]
program = Program()
program.add_kernels(lambda: [add(x) for add in adders])
program.run()  # by the addresses of their machine code
print(int(x[0]))
"""


def test_kernels_of_one_name_that_different_processes_compiled_are_told_apart(tmp_path):
    """Numba numbers functions from 1 in each process; machine code of two must not have one name for two things."""
    script = tmp_path / "enclosed.py"
    script.write_text(ENCLOSED)
    totals = []
    for amounts in (["2"], ["30"], ["2", "30"]):
        # names also hold the options' names, in the order of a set
        environment = {**os.environ, "HANDGRAD_CACHE": str(tmp_path / "cache"), "PYTHONHASHSEED": "0"}
        done = subprocess.run([sys.executable, script, *amounts], env=environment, capture_output=True, text=True)
        totals.append(done.stdout.strip() or done.stderr)
    assert totals == ["4", "60", "64"]


def test_a_kernel_that_does_not_compile_leaves_the_settings_of_the_process_as_they_were():
    @backend.kernel(short_loops=True)
    def wrong(x):
        x[0] = "a word"

    def settings():
        return config.OPT, config.SLP_VECTORIZE, wrong.targetctx.codegen()._library_class

    before = settings()
    with pytest.raises(TypingError):
        wrong(np.zeros(1))
    assert settings() == before


def test_kernels_are_compiled_with_their_own_settings(monkeypatch):
    seen = []
    first = JITCodeLibrary._optimize_functions

    def look(library, module):
        seen.append((int(config.OPT), config.SLP_VECTORIZE))
        first(library, module)

    monkeypatch.setattr(JITCodeLibrary, "_optimize_functions", look)
    for short_loops in (False, True):

        @backend.kernel(short_loops=short_loops)
        def add_one(x):
            x[0] += 1

        add_one._cache = NullCache()
        add_one.compile((backend.typeof(np.zeros(1)),))
        assert set(seen) == {(backend.FIRST_OPTIMIZATIONS, int(short_loops))}
        seen.clear()
