"""Every "=" of every derivation is evaluated at random points, and the worked examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import handgrad.derivations

NAMES = sorted(m.name for m in pkgutil.iter_modules(handgrad.derivations.__path__) if m.name != "notation")
MODULES = {name: importlib.import_module(f"handgrad.derivations.{name}") for name in NAMES}
EQUATIONS = [(name, equation) for name, module in MODULES.items() for equation in module.EQUATIONS]


@pytest.mark.parametrize(("name", "equation"), EQUATIONS, ids=[equation.tag for _, equation in EQUATIONS])
def test_every_equals_sign_holds(name, equation):
    for seed in range(3):
        point = MODULES[name].sample(np.random.default_rng(seed))
        first, *others = [np.asarray(side(point), dtype=np.float64) for side in equation.sides]
        scale = max(1.0, np.abs(first).max(initial=0))
        for position, other in enumerate(others, start=2):
            assert other.shape == first.shape, f"side {position} of ({equation.tag})"
            # a side is often a central difference with h = 1e-5: truncation and rounding are both near 1e-10
            np.testing.assert_allclose(
                other, first, rtol=0, atol=1e-7 * scale, err_msg=f"side {position} of ({equation.tag})"
            )


@pytest.mark.parametrize(("name", "equation"), EQUATIONS, ids=[equation.tag for _, equation in EQUATIONS])
def test_one_side_per_relation_sign_and_a_readable_text(name, equation):
    assert equation.text.count(" = ") == len(equation.sides) - 1 >= 1
    assert equation.reason.endswith(".")
    assert equation.latex.count("{") == equation.latex.count("}")
    assert equation.tag.startswith(name + ".")


@pytest.mark.parametrize("name", NAMES)
def test_tags_are_numbered_without_gaps(name):
    tags = [equation.tag for equation in MODULES[name].EQUATIONS]
    assert tags == [f"{name}.{number}" for number in range(1, len(tags) + 1)]


@pytest.mark.parametrize("name", [*NAMES, "notation"])
def test_worked_examples(name):
    module = importlib.import_module(f"handgrad.derivations.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    if name != "notation":
        assert result.attempted > 0, "a derivation shows at least one worked example"
