"""A pytest plugin that plants one bug of ``mutations.py`` into the engine while it is imported; no file is changed.

From the root of the repository: ``HANDGRAD_MUTATION=relu-nan-swallowed PYTHONPATH=tests python -m pytest -p planted
tests/layers/test_relu.py``. Without a name in the variable nothing is planted.

Kernels come from the cache as always, except those that contain planted text: they are compiled anew. A process with a
bug in it writes nothing into the cache.
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

import pytest
from hypothesis import Phase, settings
from mutations import ENGINE, HARMLESS, MUTATIONS

EVERYTHING = "everything"  # in place of names: the bug stands in a constant or an import
NO_BUG = 6  # exit code where the planted text does not even compile


class PlantedFile(SourceFileLoader):
    """Loads a module from a text in memory, under the name of its file."""

    def __init__(self, name: str, path: str, text: str):
        super().__init__(name, path)
        self.text = text
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # tracebacks show the bug

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec", dont_inherit=True)


class Planter(MetaPathFinder):
    """Finds one module, and leaves all others to those who come after."""

    def __init__(self, name: str, path: str, text: str):
        self.name, self.path, self.text = name, path, text

    def find_spec(self, fullname, path, target=None):
        if fullname != self.name:
            return None
        loader = PlantedFile(self.name, self.path, self.text)
        return importlib.util.spec_from_file_location(self.name, self.path, loader=loader)


def names_with_a_bug(old: str, new: str) -> set[str]:
    """Return the functions and classes of the outermost level in which two texts of one file differ."""
    names = set()
    for text, other in ((old, new), (new, old)):
        lines, others = text.splitlines(), other.splitlines()
        blocks = difflib.SequenceMatcher(None, lines, others, autojunk=False).get_matching_blocks()
        same = {block.a + k + 1 for block in blocks for k in range(block.size)}
        for node in ast.parse(text).body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if not same.issuperset(range(first, node.end_lineno + 1)):
                names.add(getattr(node, "name", EVERYTHING))
    return names


def reaches(function, module: str, names: set[str], seen: set | None = None) -> bool:
    """Return whether a kernel, or a function that is compiled into it, is one of the named ones of a module."""
    seen = set() if seen is None else seen
    function = getattr(function, "py_func", function)
    if EVERYTHING in names:
        return True
    if not inspect.isfunction(function) or function in seen:
        return False
    seen.add(function)
    if function.__module__ == module and function.__qualname__.split(".")[0] in names:
        return True
    variables = inspect.getclosurevars(function)
    used = [*variables.globals.values(), *variables.nonlocals.values()]
    return any(reaches(other, module, names, seen) for other in used)


def plant(mutation) -> None:
    """Let the module be imported with the bug, and keep the bug and the kernel cache apart."""
    assert mutation.module not in sys.modules, f"{mutation.module} is imported already"
    path = ENGINE / mutation.file
    right = path.read_text(encoding="utf-8")
    wrong = mutation.planted_in(right)
    names = names_with_a_bug(right, wrong)
    sys.meta_path.insert(0, Planter(mutation.module, str(path), wrong))

    from handgrad.engine.backend import KernelCache

    load = KernelCache.load_overload

    def load_overload(self, sig, target_context):
        return None if reaches(self._py_func, mutation.module, names) else load(self, sig, target_context)

    KernelCache.load_overload = load_overload
    KernelCache.save_overload = lambda self, sig, data: None


def pytest_configure(config):
    """Spare the search for the smallest example: here it is enough that there is one."""
    settings.register_profile("planted", settings.get_profile("handgrad"), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("planted")


def pytest_exception_interact(call, report):
    """Say which test has noticed; text that is no program is no bug."""
    kind = call.excinfo.type
    if issubclass(kind, (NameError, SyntaxError)) or kind.__module__.startswith("numba"):
        pytest.exit(f"the planted text does not compile: {call.excinfo.exconly()}", returncode=NO_BUG)
    print(f"\nnoticed by {report.nodeid}: {call.excinfo.exconly(tryshort=True).splitlines()[0]}")


wanted = os.environ.get("HANDGRAD_MUTATION")
if wanted:
    plant({mutation.id: mutation for mutation in (*MUTATIONS, HARMLESS)}[wanted])
