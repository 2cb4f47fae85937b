"""Gradient descent with momentum: kernel, literal code, PyTorch and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import momentum as derivation
from handgrad.engine import SGD, Momentum
from handgrad.engine.checks import ConfigurationError


@given(st.integers(1, 50), st.floats(1e-4, 1), st.floats(0, 0.99), st.integers(0, 99))
def test_kernel_is_the_literal_code_for_several_steps(close, size, rate, mu, seed):
    rng = np.random.default_rng(seed)
    theta, optimizer = rng.normal(size=size), Momentum(rate, mu)
    literal, v = theta.astype(object), np.zeros(size).astype(object)
    for _ in range(4):
        g = rng.normal(size=size)
        optimizer.update("w", theta, g)
        literal, v = derivation.update(literal, g.astype(object), v, rate, mu)
        close(theta, literal, 1e-13)
        close(optimizer.state["w"]["v"], v, 1e-13)


def test_float32_is_float64_but_for_rounding(rng):
    """Two roundings per velocity and two per parameter in five steps, velocities below 10 · 4: 20 eps · 40 α."""
    theta, optimizer, reference = rng.normal(size=50).astype(np.float32), Momentum(0.1), Momentum(0.1)
    exact = theta.astype(np.float64)
    for _ in range(5):
        g = np.clip(rng.normal(size=50), -4, 4).astype(np.float32)
        optimizer.update("w", theta, g)
        reference.update("w", exact, g)
    assert np.abs(theta - exact).max() <= 20 * np.finfo(np.float32).eps * 40 * 0.1


def test_ravine_of_the_notes():
    theta, optimizer, velocities = np.zeros(2), Momentum(1.0, 0.5), []
    for t in range(4):
        optimizer.update("w", theta, np.array([1.0, (-1.0) ** t]))
        velocities.append(optimizer.state["w"]["v"].tolist())
    assert velocities == [[1, 1], [3 / 2, -1 / 2], [7 / 4, 3 / 4], [15 / 8, -5 / 8]]
    assert theta.tolist() == [-(1 + 3 / 2 + 7 / 4 + 15 / 8), -(1 - 1 / 2 + 3 / 4 - 5 / 8)]


def test_without_momentum_it_is_gradient_descent(rng):
    one, g = rng.normal(size=(2, 20))
    other, with_momentum, without = one.copy(), Momentum(0.1, 0), SGD(0.1)
    for _ in range(3):
        with_momentum.update("w", one, g)
        without.update("w", other, g)
    np.testing.assert_array_equal(one, other)


def test_a_changed_rate_acts_on_the_whole_step_at_once():
    theta, optimizer = np.zeros(1), Momentum(0.1, 0.5)
    optimizer.update("w", theta, np.ones(1))
    before, optimizer.learning_rate = theta[0], 1.0
    optimizer.update("w", theta, np.zeros(1))
    assert theta[0] - before == -0.5  # the velocity alone, times the new rate


@pytest.mark.parity
def test_pytorch_agrees(close, rng):
    torch = pytest.importorskip("torch")
    theta = rng.normal(size=30)
    theirs = torch.nn.Parameter(torch.tensor(theta))
    optimizer, reference = Momentum(0.1, 0.9), torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for _ in range(5):
        g = rng.normal(size=30)
        optimizer.update("w", theta, g)
        theirs.grad = torch.tensor(g)
        reference.step()
        close(theta, theirs.detach().numpy(), 1e-14)


@pytest.mark.parametrize("bad", [1, -0.1, 1.5, float("nan"), True, "0.9"])
def test_momentum_is_checked(bad):
    with pytest.raises(ConfigurationError) as caught:
        Momentum(0.1, bad)
    assert str(caught.value) == f"Momentum: momentum: got {bad!r}, expected a number from 0 up to below 1"
