"""Gradient descent: kernel, literal code, PyTorch and the notes' numbers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import sgd as derivation
from handgrad.engine import SGD


@given(st.integers(1, 50), st.floats(1e-4, 1), st.integers(0, 99))
def test_kernel_is_the_literal_code_for_several_steps(close, size, rate, seed):
    rng = np.random.default_rng(seed)
    theta, optimizer = rng.normal(size=size), SGD(rate)
    literal = theta.astype(object)
    for _ in range(4):
        g = rng.normal(size=size)
        optimizer.update("w", theta, g)
        literal = derivation.update(literal, g.astype(object), rate)
        close(theta, literal, 1e-14)


def test_float32_is_float64_but_for_rounding(rng):
    """The rate, the product and the difference are rounded: 2 eps of the larger of θ and the step."""
    theta, g = rng.normal(size=(2, 50)).astype(np.float32)
    exact, bound = theta - 0.1 * g.astype(np.float64), 2 * np.finfo(np.float32).eps * (np.abs(theta) + np.abs(0.1 * g))
    SGD(0.1).update("w", theta, g)
    assert (np.abs(theta - exact) <= bound).all()


def test_knob_of_the_notes():
    w, optimizer, seen = np.array([1.0]), SGD(1.0), []
    for _ in range(3):
        optimizer.update("w", w, 2 * 0.3 * (0.3 * w - 0.8))
        seen.append(round(float(w[0]), 4))
    assert seen == [1.3, 1.546, 1.7477]


@pytest.mark.parametrize(("rate", "factor"), [(0.1, 0.8), (0.6, -0.2), (1.1, -1.2)])
def test_parabola_of_curvature_2(close, rate, factor):
    """(sgd.3): θ shrinks smoothly, oscillates, or diverges by the factor 1 - 2 α in every step."""
    theta, optimizer = np.array([1.0, -3.0]), SGD(rate)
    for _ in range(5):
        optimizer.update("w", theta, 2 * theta)
    close(theta, factor**5 * np.array([1.0, -3.0]), 1e-13)


@pytest.mark.parity
def test_pytorch_agrees(close, rng):
    torch = pytest.importorskip("torch")
    theta = rng.normal(size=30)
    theirs = torch.nn.Parameter(torch.tensor(theta))
    optimizer, reference = SGD(0.1), torch.optim.SGD([theirs], lr=0.1)
    for _ in range(5):
        g = rng.normal(size=30)
        optimizer.update("w", theta, g)
        theirs.grad = torch.tensor(g)
        reference.step()
        close(theta, theirs.detach().numpy(), 1e-14)
