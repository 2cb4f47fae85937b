"""What is installed: every folder of shipped code is listed, and looking at an error loads no compiler."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import handgrad

ROOT = Path(handgrad.__file__).parent
NOT_SHIPPED = {"tests", "build", "dist", "runs"}


def shipped_folders(root):
    """Return the packages that hold Python files, as setuptools names them."""
    packages = set()
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts[:-1]
        hidden = any(part.startswith(".") or part.endswith(".egg-info") or part == "__pycache__" for part in parts)
        if not hidden and not (parts and parts[0] in NOT_SHIPPED):
            packages.add(".".join(["handgrad", *parts]))
    return packages


def test_the_list_of_packages_is_that_of_the_folders():
    """An editable install finds a folder that is not listed; a real one does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed)) and set(listed) == shipped_folders(ROOT)


def test_a_folder_that_is_not_listed_is_found(tmp_path):
    for path in (
        "__init__.py",
        "engine/a.py",
        "engine/new/b.py",
        "tests/c.py",
        ".venv/d.py",
        "build/lib/e.py",
        "docs/f.md",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert shipped_folders(tmp_path) == {"handgrad", "handgrad.engine", "handgrad.engine.new"}


def test_every_package_has_its_init():
    for package in shipped_folders(ROOT):
        assert (ROOT.joinpath(*package.split(".")[1:]) / "__init__.py").is_file(), package


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("handgrad", ("numpy", "numba")),
        ("handgrad.engine", ("numpy", "numba")),
        ("handgrad.engine.checks", ("numpy", "numba", "llvmlite")),
        ("handgrad.engine.folders", ("numpy", "numba")),
        ("handgrad.derivations.conv2d", ("numba", "llvmlite", "sympy", "handgrad.engine")),
        ("handgrad.datasets", ("numba", "llvmlite", "mlxtend")),
        ("handgrad.engine.network", ("torch", "matplotlib", "sympy", "click", "handgrad.cli", "handgrad.datasets")),
    ],
)
def test_what_an_import_does_not_load(module, heavy):
    program = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_name_of_the_engine_can_be_imported():
    import handgrad.engine as engine

    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Dens'"):
        engine.Dens  # noqa: B018
