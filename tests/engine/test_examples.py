"""Every example in a docstring of the engine runs and gives what it shows."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import handgrad.engine

NAMES = [
    module.name for module in pkgutil.walk_packages(handgrad.engine.__path__, "handgrad.engine.") if not module.ispkg
]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    modules = [importlib.import_module(name) for name in NAMES]
    examples = [test for module in modules for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(examples) >= 15
