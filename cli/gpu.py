"""What stands between this machine and CUDA: the driver, the extra, the toolkit. Nothing is imported from them."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib import metadata


def driver() -> dict[str, object]:
    """Return what NVIDIA's driver library says.

    Returns
    -------
    dict
        ``library``: its name, None when it was not found. ``status``: of cuInit, 0 for success. ``supports``: the
        newest CUDA that it knows, as 13.0. ``devices``: the names of the GPUs.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    facts: dict[str, object] = {"library": None, "status": None, "supports": None, "devices": []}
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return facts
    facts |= {"library": library, "status": cuda.cuInit(0)}
    number, text = ctypes.c_int(), ctypes.create_string_buffer(100)
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
        facts["supports"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if facts["status"] == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0:
        for device in range(number.value):
            if cuda.cuDeviceGetName(text, len(text), device) == 0:
                facts["devices"].append(text.value.decode(errors="replace"))
    return facts


def toolkit() -> dict[str, list[str]]:
    """Return the installed packages of NVIDIA's CUDA toolkit by the major version of CUDA that they belong to."""
    by_major: dict[str, set[str]] = {}
    for package in metadata.distributions():
        name, version = (package.metadata["Name"] or "").lower(), package.version or ""
        suffix = re.search(r"^nvidia-.*-cu(\d\d)$", name)
        if suffix or re.match(r"(cuda-(toolkit|bindings)|nvidia-(cuda-\w+|nvjitlink|nvvm))$", name):
            major = suffix[1] if suffix else version.partition(".")[0]
            by_major.setdefault(major, set()).add(f"{name} {version}")
    return {major: sorted(packages) for major, packages in sorted(by_major.items())}


def explain(facts: dict) -> tuple[str, str]:
    """Return one paragraph and, only where CUDA was wanted and something is wrong with it, a remedy.

    Parameters
    ----------
    facts : dict
        What ``driver`` returns, and ``numba_cuda`` (its version or None), ``toolkit`` (as ``toolkit`` returns it) and
        ``refusal`` (why handgrad refuses ``--device cuda``, or empty).
    """
    if facts["library"] is None:
        parts = ["no NVIDIA driver: its library libcuda was not found"]
    elif facts["status"] != 0:
        parts = [f"NVIDIA's driver is installed, but cuInit fails with {facts['status']}"]
    else:
        devices = ", ".join(facts["devices"]) or "no GPU"
        parts = [f"{devices}; the driver supports CUDA up to {facts['supports']}"]
    extra = facts["numba_cuda"]
    parts.append(f"numba-cuda {extra}" if extra else 'the extra "cuda" (numba-cuda) is not installed')
    count = sum(map(len, facts["toolkit"].values()))
    parts.append(
        f"{count} toolkit packages for CUDA {' and '.join(facts['toolkit'])}" if count else "no toolkit packages"
    )
    sentences = ["; ".join(parts), facts["refusal"] or "--device cuda can be used"]
    if not facts["devices"]:
        sentences.append("The CPU is all that handgrad needs")
    return ". ".join(sentences) + ".", _remedy(facts) if extra else ""


def _remedy(facts: dict) -> str:
    """Return what helps when numba-cuda is installed; empty when nothing is wrong."""
    packages = facts["toolkit"]
    if len(packages) > 1:
        fewest = min(packages.values(), key=len)
        shown = ", ".join(fewest[:3]) + (", ..." if len(fewest) > 3 else "")
        return (
            f"packages for two versions of CUDA are mixed ({shown} do not fit the others) and may load the wrong "
            'libraries: pip install "handgrad[cuda]" in a fresh virtual environment'
        )
    if facts["library"] is None:
        return "install NVIDIA's driver, if this machine has one of its GPUs"
    if facts["status"] != 0:
        return "make nvidia-smi work first: reboot, or install the driver again"
    if not packages:
        return 'pip install "handgrad[cuda]" brings the toolkit, too'
    (major,) = packages
    if facts["supports"] and int(facts["supports"].partition(".")[0]) < int(major):
        return f"the driver is too old for CUDA {major}: install a newer one"
    return ""
