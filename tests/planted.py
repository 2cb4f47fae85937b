"""Runs tests with one bug of ``mutations.py`` planted in the engine, in memory; no file is changed.

``python tests/planted.py relu-nan-swallowed`` shows how the tests notice a bug, and takes other tests as further
arguments. Kernels come from the cache as always, except those that contain planted text: they are compiled anew. A
process with a bug in it writes nothing into the cache.
"""

from __future__ import annotations

import ast
import difflib
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
from mutations import ENGINE, MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
EVERYTHING = "everything"  # in place of names: the bug stands in a constant or an import
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


def names_with_a_bug(right: str, wrong: str) -> set[str]:
    """Return the functions and classes of the outermost level in which two texts of one file differ."""
    names = set()
    for text, other in ((right, wrong), (wrong, right)):
        lines, others = text.splitlines(), other.splitlines()
        blocks = difflib.SequenceMatcher(None, lines, others, autojunk=False).get_matching_blocks()
        different = set(range(1, len(lines) + 1)).difference(*(range(b.a + 1, b.a + b.size + 1) for b in blocks))
        for node in ast.parse(text).body:
            first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
            if different.intersection(range(first, node.end_lineno + 1)):
                names.add(getattr(node, "name", EVERYTHING))
    return names


def compiled_into(kernel, found: set | None = None) -> set:
    """Return a kernel and all functions that it calls, as plain Python functions."""
    found = set() if found is None else found
    function = getattr(kernel, "py_func", getattr(kernel, "_defn", kernel))  # the latter of Numba's intrinsics
    if inspect.isfunction(function) and function not in found:
        found.add(function)
        variables = inspect.getclosurevars(function)
        for other in (*variables.globals.values(), *variables.nonlocals.values()):
            compiled_into(other, found)
    return found


def may_contain(kernel, module: str, names: set[str]) -> bool:
    """Return whether a bug in the named functions and classes of a module may be a part of a kernel."""
    parts = [function for function in compiled_into(kernel) if function.__module__ == module]
    if kernel.__module__ != module:  # which formula of the module a choice by dtype calls cannot be seen
        return EVERYTHING in names or bool(parts)
    return EVERYTHING in names or any(function.__qualname__.split(".")[0] in names for function in parts)


def plant(mutation: Mutation) -> None:
    """Let the module be imported with the bug, and keep the bug and the kernel cache apart."""
    assert mutation.module not in sys.modules, f"{mutation.module} is imported already"
    if not mutation.on_gpu:
        os.environ["HANDGRAD_TEST_WITHOUT_CUDA"] = "1"  # read by conftest.py: the simulator is slow
    path = ENGINE / mutation.file
    right = path.read_text(encoding="utf-8")
    wrong = mutation.planted_in(right)
    names = names_with_a_bug(right, wrong)
    sys.meta_path.insert(0, Planter(mutation.module, str(path), wrong))

    from handgrad.engine.backend import KernelCache

    load = KernelCache.load_overload

    def load_overload(self, sig, target_context):
        return None if may_contain(self._py_func, mutation.module, names) else load(self, sig, target_context)

    KernelCache.load_overload = load_overload
    KernelCache.save_overload = lambda self, sig, data: None


def pytest_configure(config):
    """Spare the search for the smallest example: here it is enough that there is one."""
    phases, profile = (Phase.explicit, Phase.generate), settings.get_profile("handgrad")
    settings.register_profile("planted", profile, phases=phases, report_multiple_bugs=False)
    settings.load_profile("planted")


def pytest_exception_interact(call, report):
    """Say which test has noticed; text that is no program is no bug."""
    kind, message = call.excinfo.type, " ".join(call.excinfo.exconly(tryshort=True).split())
    if issubclass(kind, (NameError, SyntaxError)) or kind.__module__.startswith("numba"):
        pytest.exit(f"the planted text does not compile: {message}", returncode=NO_BUG)
    print(f"\nnoticed by {report.nodeid}: {message[:150]}")


def run(mutation: Mutation | None, tests: tuple[str, ...], folder: Path | None = None) -> None:
    """Run tests with a bug in this process, which must be new, and end it with pytest's exit code.

    Parameters
    ----------
    mutation : Mutation or None
        None plants nothing.
    tests : tuple of str
        From the root of the repository.
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
    if mutation is not None:
        plant(mutation)
    sys.exit(pytest.main([*options, *tests], plugins=[sys.modules[__name__]]))


if __name__ == "__main__":
    chosen = {mutation.id: mutation for mutation in MUTATIONS}[sys.argv[1]]
    run(chosen, (*sys.argv[2:],) or chosen.tests)
