"""Runs tests with one bug of ``mutations.py`` planted in the engine, in memory; no file is changed.

``python tests/planted.py relu-nan-swallowed`` shows how the tests notice a bug, and takes other tests as further
arguments. Kernels come from the cache as always, except those that contain planted text: they are compiled anew. A
process with a bug in it writes nothing into the cache.
"""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from mutations import ENGINE, HARMLESS, MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
NO_BUG = 6  # exit code where the planted text does not even compile
OPTIONS = ("-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not parity")  # the same without PyTorch


class Planter(MetaPathFinder, SourceFileLoader):
    """Finds and loads one module from a text in memory, under the name of its file; leaves all others alone."""

    def __init__(self, name: str, path: str, text: str):
        super().__init__(name, path)
        self.text = text
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # tracebacks show the bug

    def find_spec(self, fullname, path, target=None):
        return importlib.util.spec_from_loader(self.name, self) if fullname == self.name else None

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec", dont_inherit=True)


def contains(function, module: str, seen: set) -> bool:
    """Return whether a kernel, or a function that is compiled into it, stands in a module."""
    function = getattr(function, "py_func", function)
    if not inspect.isfunction(function) or function in seen:
        return False
    seen.add(function)
    variables = inspect.getclosurevars(function)
    used = (*variables.globals.values(), *variables.nonlocals.values())
    return function.__module__ == module or any(contains(other, module, seen) for other in used)


def plant(mutation: Mutation) -> None:
    """Let the module be imported with the bug, and keep the bug and the kernel cache apart."""
    assert mutation.module not in sys.modules, f"{mutation.module} is imported already"
    path = ENGINE / mutation.file
    right = path.read_text(encoding="utf-8")
    wrong = mutation.planted_in(right)
    sys.meta_path.insert(0, Planter(mutation.module, str(path), wrong))

    from handgrad.engine.backend import KernelCache

    load = KernelCache.load_overload

    def load_overload(self, sig, target_context):
        return None if contains(self._py_func, mutation.module, set()) else load(self, sig, target_context)

    KernelCache.load_overload = load_overload
    KernelCache.save_overload = lambda self, sig, data: None


def pytest_configure(config):
    """Spare the search for the smallest example: here it is enough that there is one."""
    settings.register_profile("planted", settings.get_profile("handgrad"), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("planted")


def pytest_exception_interact(call, report):
    """Say which test has noticed; text that is no program is no bug."""
    kind, message = call.excinfo.type, " ".join(call.excinfo.exconly(tryshort=True).split())
    if issubclass(kind, (NameError, SyntaxError)) or kind.__module__.startswith("numba"):
        pytest.exit(f"the planted text does not compile: {message}", returncode=NO_BUG)
    print(f"\nnoticed by {report.nodeid}: {message[:150]}")


def run(name: str, tests=(), folder: Path | None = None) -> None:
    """Run tests with a bug in this process, which must be new, and end it with pytest's exit code.

    Parameters
    ----------
    name : str
        Of the mutation; an empty one plants nothing.
    tests : sequence of str
        From the root of the repository; by default those that must notice.
    folder : pathlib.Path, optional
        Gets all that would be printed, as ``output``, and whatever the tests write.
    """
    os.chdir(ROOT)
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    options = [*OPTIONS]
    if folder is not None:
        sys.dont_write_bytecode = True
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
        options.append(f"--basetemp={folder / 'tests'}")
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, sys.stdout.fileno())
        os.dup2(output, sys.stderr.fileno())
    if name:
        mutation = {mutation.id: mutation for mutation in (*MUTATIONS, HARMLESS)}[name]
        plant(mutation)
        tests = tests or mutation.tests
    sys.exit(pytest.main([*options, *tests], plugins=[sys.modules[__name__]]))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
