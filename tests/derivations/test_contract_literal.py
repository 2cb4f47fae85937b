"""The code of every derivation keeps its contract: tags match equations, and literal functions are plain loops."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil
import re
import tokenize
from pathlib import Path

import pytest

import handgrad.derivations

NAMES = sorted(m.name for m in pkgutil.iter_modules(handgrad.derivations.__path__) if m.name != "notation")
INITIALIZERS = {"he", "xavier"}
ENTRANCES = ("forward", "backward", "update", "fan_out", "running", *sorted(INITIALIZERS))
TAGS = re.compile(r"\(([a-z][a-z0-9_]*\.[0-9]+)\)")
TAGS_AT_THE_END = re.compile(r"#( \([a-z][a-z0-9_]*\.[0-9]+\))+$")


def equations(name):
    return importlib.import_module(f"handgrad.derivations.{name}").EQUATIONS


def source(name):
    return (Path(handgrad.derivations.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")


def literal_functions(text):
    """The functions at the entrances of a module and those of the same module that they call, by name."""
    defined = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    found, waiting = {}, [name for name in ENTRANCES if name in defined]
    while waiting:
        name = waiting.pop()
        found[name] = defined[name]
        called = {node.func.id for node in calls(defined[name]) if isinstance(node.func, ast.Name)}
        waiting += sorted((called & defined.keys()) - found.keys())
    return found


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def tagged_lines(text):
    """(number of the line, tag) for every tag in a comment, which must stand behind code and hold nothing else."""
    lines = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and TAGS.search(token.string):
            assert TAGS_AT_THE_END.fullmatch(token.string), f"line {token.start[0]}: {token.string}"
            assert token.line[: token.start[1]].strip(), f"line {token.start[0]}: a tag without code"
            lines += [(token.start[0], tag) for tag in TAGS.findall(token.string)]
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_every_computed_equation_has_a_line_and_every_line_its_equation(name):
    text = source(name)
    literal = literal_functions(text).values()
    tags = tagged_lines(text)
    for number, tag in tags:
        inside = [node.name for node in literal if node.lineno <= number <= node.end_lineno]
        assert inside, f"line {number} of {name}.py carries ({tag}) outside the literal code"
    computed = {equation.tag for equation in equations(name) if equation.computed}
    assert {tag for _, tag in tags} == computed


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_in_the_text_is_to_an_equation_that_exists(name):
    known = {equation.tag for other in NAMES for equation in equations(other)}
    assert set(TAGS.findall(source(name))) <= known


@pytest.mark.parametrize("name", NAMES)
def test_literal_code_is_plain_loops_on_exact_numbers(name):
    literal = literal_functions(source(name))
    assert "update" in literal or {"forward", "backward"} <= literal.keys() or literal.keys() == INITIALIZERS
    for function in literal.values():
        where = f"{name}.{function.name}"
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                assert node.id not in {"np", "float", "sum", "max", "min", "abs"}, f"{where} uses {node.id}"
            if isinstance(node, ast.Constant):
                assert not isinstance(node.value, float), f"{where} contains {node.value}, which is not exact"
            if isinstance(node, ast.BinOp):
                assert not isinstance(node.op, ast.MatMult), f"{where} multiplies whole matrices"
        for node in calls(function):
            assert isinstance(node.func, ast.Name), f"{where} calls the method {ast.unparse(node.func)}"


@pytest.mark.parametrize("name", NAMES)
def test_backward_stands_directly_under_forward(name):
    order = [node.name for node in ast.parse(source(name)).body if isinstance(node, ast.FunctionDef)]
    if "forward" in order:
        assert order[order.index("forward") + 1] == "backward"


def test_the_contract_notices_what_it_forbids():
    """The checks above are themselves checked on a module that breaks them."""
    text = "def forward(x):\n    return helper(x)  # (a.1)\n\n\ndef helper(x):\n    return np.sum(x)\n"
    assert set(literal_functions(text)) == {"forward", "helper"}
    assert tagged_lines(text) == [(2, "a.1")]
    with pytest.raises(AssertionError, match="tag without code"):
        tagged_lines("# (a.1)\n")
    with pytest.raises(AssertionError, match="line 1"):
        tagged_lines("x = 1  # (a.1) and some words\n")
