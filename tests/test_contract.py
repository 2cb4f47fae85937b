"""The contract between equations and lines: a computed equation has its line in the engine, and a tag its equation.

A tag ``# (conv2d.7)`` stands in a comment at the end of the line of code that computes (conv2d.7).
"""

from __future__ import annotations

import importlib
import io
import pkgutil
import re
import tokenize
from pathlib import Path

import pytest

import handgrad.derivations
import handgrad.engine

ENGINE = Path(handgrad.engine.__file__).parent
TAG = re.compile(r"\(([a-z]\w*\.\d+)\)")
HOMES = ("layers", "losses", "optimizers")
ELSEWHERE = {
    "add.4": "passes.py",  # the sum over the readers of a node is the graph's work, not the layer's
    "initializers.5": "initializers.py",
    "initializers.9": "initializers.py",
}


def equations():
    """Return {tag: whether a program computes it} for every equation of every derivation."""
    names = [module.name for module in pkgutil.iter_modules(handgrad.derivations.__path__) if module.name != "notation"]
    modules = [importlib.import_module(f"handgrad.derivations.{name}") for name in names]
    return {equation.tag: equation.computed for module in modules for equation in module.EQUATIONS}


def engine_files():
    """Return {path below engine/: text}."""
    return {
        path.relative_to(ENGINE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ENGINE.rglob("*.py"))
    }


def tags(text):
    """Return (line, tag, whether code stands before it) for every tag in a comment."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            before = token.line[: token.start[1]].strip()
            found += [(token.start[0], tag, bool(before)) for tag in TAG.findall(token.string)]
    return found


def violations(known, files):
    """Return a line for every breach of the contract.

    Parameters
    ----------
    known : dict of str to bool
        Every equation's tag, and whether a program computes it.
    files : dict of str to str
        Text of the engine's files.
    """
    found, lines = [], {}
    for path, text in files.items():
        for line, tag, has_code in tags(text):
            if tag not in known:
                found.append(f"engine/{path}:{line} is tagged ({tag}), and there is no such equation")
            elif not known[tag]:
                found.append(f"engine/{path}:{line} is tagged ({tag}), an equation marked as not computed")
            elif not has_code:
                found.append(f"engine/{path}:{line} has ({tag}) in a line without code")
            else:
                lines.setdefault(tag, set()).add(path)
    for tag, computed in known.items():
        name = tag.partition(".")[0]
        homes = [ELSEWHERE[tag]] if tag in ELSEWHERE else [f"{folder}/{name}.py" for folder in HOMES]
        if computed and not lines.get(tag, set()) & set(homes):
            expected = " or ".join(f"engine/{path}" for path in homes if path in files or tag in ELSEWHERE)
            found.append(f"({tag}) is computed by no line of {expected or f'any file called {name}.py'}")
    return found


def test_every_computed_equation_has_its_line_and_every_tag_its_equation():
    assert violations(equations(), engine_files()) == []


def test_there_is_something_to_check():
    known, files = equations(), engine_files()
    assert sum(known.values()) >= 40 and not all(known.values())
    assert {"dense.1", "conv2d.7", "adam.5", "add.4"} <= {tag for text in files.values() for _, tag, _ in tags(text)}


KNOWN = {"relu.1": True, "relu.2": False, "relu.3": True, "add.4": True}
RELU = "a = z  # (relu.1)\nfor k in z:\n    b = a + (\n        1\n    )  # (relu.3)\n"
PASSES = "total += part  # (add.4)\n"


@pytest.mark.parametrize(
    ("relu", "passes", "found"),
    [
        (RELU, PASSES, []),
        (RELU + "c = d  # faster than (relu.1), see above\n", PASSES, []),
        (RELU + 's = "# (relu.9)"\n', PASSES, []),
        (RELU.replace("  # (relu.1)", ""), PASSES, ["(relu.1) is computed by no line of engine/layers/relu.py"]),
        (RELU.replace("(relu.3)", "relu.3"), PASSES, ["(relu.3) is computed by no line of engine/layers/relu.py"]),
        (RELU.replace("  # (relu.1)", "\n# (relu.1)"), PASSES, [
            "engine/layers/relu.py:2 has (relu.1) in a line without code",
            "(relu.1) is computed by no line of engine/layers/relu.py",
        ]),
        (RELU + "c = 1  # (relu.7)\n", PASSES, ["engine/layers/relu.py:6 is tagged (relu.7), and there is no such equation"]),
        (RELU + "c = 1  # (relu.2)\n", PASSES, ["engine/layers/relu.py:6 is tagged (relu.2), an equation marked as not computed"]),
        (RELU + "c = 1  # (add.4)\n", "", ["(add.4) is computed by no line of engine/passes.py"]),
        ("a = z  # (relu.1)\n", PASSES + "b = a  # (relu.3)\n", ["(relu.3) is computed by no line of engine/layers/relu.py"]),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(relu, passes, found):
    assert violations(KNOWN, {"layers/relu.py": relu, "passes.py": passes}) == found


def test_an_equation_without_any_file():
    assert violations({"gelu.1": True}, {}) == ["(gelu.1) is computed by no line of any file called gelu.py"]
