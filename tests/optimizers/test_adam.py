"""Adam: kernel, literal code, PyTorch and numbers by hand agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handgrad.derivations import adam as derivation
from handgrad.engine import Adam
from handgrad.engine.checks import ConfigurationError


@given(st.integers(1, 50), st.floats(1e-4, 1), st.sampled_from([(0.9, 0.999), (0, 0), (0.5, 0.99)]), st.integers(0, 99))
def test_kernel_is_the_literal_code_for_several_steps(close, size, rate, betas, seed):
    rng = np.random.default_rng(seed)
    theta, optimizer = rng.normal(size=size), Adam(rate, *betas)
    literal, m, v = theta.astype(object), np.zeros(size).astype(object), np.zeros(size).astype(object)
    for t in range(1, 6):
        g = rng.normal(size=size)
        optimizer.update("w", theta, g)
        literal, m, v = derivation.update(literal, g.astype(object), m, v, t, rate, *betas, 1e-8)
        close(theta, literal, 1e-10)
        close(optimizer.state["w"]["m"], m, 1e-10)
        close(optimizer.state["w"]["v"], v, 1e-10)
    assert optimizer.steps == {"w": 5}


def test_float32_is_float64_but_for_rounding(rng):
    """About ten roundings a step. 1 - β2 = 0.001 loses most: rounded to float32 it is off by eps / (2 · 0.001)."""
    theta = rng.normal(size=50).astype(np.float32)
    optimizer, reference, exact = Adam(0.1), Adam(0.1), theta.astype(np.float64)
    for _ in range(5):
        g = rng.normal(size=50).astype(np.float32)
        optimizer.update("w", theta, g)
        reference.update("w", exact, g)
    eps = np.finfo(np.float32).eps
    assert np.abs(theta - exact).max() <= 5 * 0.1 * (10 * eps + eps / (4 * 0.001)) + 5 * 10 * eps


@pytest.mark.parametrize("g", [0.01, -1000.0, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_first_step_is_as_long_as_the_rate(g, dtype):
    theta = np.zeros(1, dtype)
    Adam(0.001).update("w", theta, np.array([g], dtype))
    # ε = 1e-8 against |g| of at least 0.01 shortens it by 1e-6; 1 - β2 in float32 by 3e-5
    assert theta[0] == pytest.approx(-0.001 * np.sign(g), rel=5e-5)


def test_second_step_by_hand(close):
    theta, optimizer = np.zeros(1), Adam(1.0, 0.5, 0.75, 1e-12)
    optimizer.update("w", theta, np.array([2.0]))  # m_hat = 2, v_hat = 4
    close(theta, [-1.0], 1e-11)
    optimizer.update("w", theta, np.array([-6.0]))
    # m = .5 · 1 + .5 · -6 = -2.5, m_hat = -2.5 / .75; v = .75 · 1 + .25 · 36 = 9.75, v_hat = 9.75 / .4375
    close(theta, [-1.0 + (2.5 / 0.75) / np.sqrt(9.75 / 0.4375)], 1e-11)


def test_no_gradient_no_step():
    theta = np.ones(3)
    Adam().update("w", theta, np.zeros(3))
    assert theta.tolist() == [1, 1, 1]  # 0 / (0 + ε), not 0 / 0


@pytest.mark.parity
def test_pytorch_agrees(close, rng):
    torch = pytest.importorskip("torch")
    theta = rng.normal(size=30)
    theirs = torch.nn.Parameter(torch.tensor(theta))
    optimizer = Adam(0.1, 0.8, 0.95, 1e-3)  # a large ε shows that it is outside the root
    reference = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    for _ in range(6):
        g = 0.01 * rng.normal(size=30)
        optimizer.update("w", theta, g)
        theirs.grad = torch.tensor(g)
        reference.step()
        close(theta, theirs.detach().numpy(), 1e-13)


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("bad", [1, -0.1, float("nan"), True, "0.9"])
def test_betas_are_checked(name, bad):
    with pytest.raises(ConfigurationError) as caught:
        Adam(**{name: bad})
    assert str(caught.value) == f"Adam: {name}: got {bad!r}, expected a number from 0 up to below 1"


@pytest.mark.parametrize("bad", [0, -1e-8, float("inf"), "small"])
def test_eps_is_checked(bad):
    with pytest.raises(ConfigurationError) as caught:
        Adam(eps=bad)
    assert str(caught.value) == f"Adam: eps: got {bad!r}, expected a positive number"
