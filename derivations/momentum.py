"""Gradient descent with momentum: the step follows a velocity, in which past gradients live on.

θ_t, v_t are parameter and velocity after step number t (t counts steps here, it is no target), v_0 = 0; g_t
is the gradient for step t, α the learning rate, μ the momentum, the share of the velocity that is kept. All
equations hold for each element by itself.

The convention is PyTorch's: the velocity is a sum of gradients and contains no learning rate, which
multiplies it in (momentum.2). A change of α then acts on the whole step at once. As long as α stays the same
this is the other usual form, in which the velocity term is added to the plain step (momentum.3).

Sources
-------
S3 4.7 "Gradient Descent with Momentum" (W_new = W_old - learning rate x gradient + velocity term). S3 calls
the velocity the weighted average of the past gradients; it is a weighted sum, whose weights add up to nearly
1 / (1 - μ) by (momentum.5), so with μ = .9 steps become ten times as long, where gradients agree.

Worked example
--------------
S3's picture of a ravine: one gradient always points the same way, the other changes sign in every step. With
μ = 1/2 the first velocity grows to almost twice its gradient, the second shrinks to two thirds of it in the
long run:

>>> from fractions import Fraction
>>> theta, v = zeros(2), zeros(2)
>>> for t in range(4):
...     g = np.array([1, (-1) ** t], dtype=object)
...     theta, v = update(theta, g, v, learning_rate=1, momentum=Fraction(1, 2))
...     print([str(velocity) for velocity in v])
['1', '1']
['3/2', '-1/2']
['7/4', '3/4']
['15/8', '-5/8']
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, zeros

LETTERS = (
    ("t, j", "number of a step; of an earlier one"),
    ("v", "velocity"),
    ("μ", "share of the velocity that is kept"),
)


def update(theta, g, v, learning_rate, momentum):
    """Return parameters and velocities after one step.

    Parameters
    ----------
    theta, g, v : arrays of shape (K,)
        Parameters, their gradients, and their velocities before the step.
    learning_rate, momentum : numbers

    Returns
    -------
    theta, v : arrays of shape (K,)
    """
    stepped, velocity = zeros(*theta.shape), zeros(*theta.shape)
    for k in range(len(theta)):
        velocity[k] = momentum * v[k] + g[k]  # (momentum.1)
        stepped[k] = theta[k] - learning_rate * velocity[k]  # (momentum.2)
    return stepped, velocity


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: a start and the gradients of five steps."""
    return SimpleNamespace(theta=rng.normal(size=3), g=rng.normal(size=(5, 3)), alpha=0.1, mu=0.9)


def _after(s, gradients):
    """θ and v after as many steps of the literal code as there are gradients."""
    theta, v = s.theta, np.zeros(3)
    for g in gradients:
        theta, v = update(theta, g, v, s.alpha, s.mu)
    return theta, v


EQUATIONS = (
    Equation(
        "momentum.1",
        "v_t = μ v_(t-1) + g_t",
        r"v_t = \mu\, v_{t-1} + g_t",
        "Definition: a share μ of the old velocity stays, and the gradient is added.",
        (lambda s: _after(s, s.g)[1], lambda s: s.mu * _after(s, s.g[:-1])[1] + s.g[-1]),
    ),
    Equation(
        "momentum.2",
        "θ_t = θ_(t-1) - α v_t",
        r"\theta_t = \theta_{t-1} - \alpha\, v_t",
        "Definition: (sgd.1) with the velocity in place of the gradient.",
        (
            lambda s: _after(s, s.g)[0],
            lambda s: _after(s, s.g[:-1])[0] - s.alpha * _after(s, s.g)[1],
        ),
    ),
    Equation(
        "momentum.3",
        "θ_t = θ_(t-1) - α g_t - α μ v_(t-1)",
        r"\theta_t = \theta_{t-1} - \alpha\, g_t - \alpha \mu\, v_{t-1}",
        "(momentum.1) in (momentum.2): the plain step plus a velocity term, as S3 writes it.",
        (
            lambda s: _after(s, s.g)[0],
            lambda s: _after(s, s.g[:-1])[0] - s.alpha * s.g[-1] - s.alpha * s.mu * _after(s, s.g[:-1])[1],
        ),
        computed=False,
    ),
    Equation(
        "momentum.4",
        "v_t = Σ_(j=1…t) μ^(t-j) g_j",
        r"v_t = \sum_{j=1}^{t} \mu^{t-j}\, g_j",
        "(momentum.1) put into itself: a gradient is multiplied by μ once in every step that follows it.",
        (lambda s: _after(s, s.g)[1], lambda s: s.mu ** np.arange(4, -1, -1) @ s.g),
        computed=False,
    ),
    Equation(
        "momentum.5",
        "v_t = g Σ_(j=1…t) μ^(t-j) = g (1 - μ^t) / (1 - μ) (if every g_j=g)",
        r"v_t = g \sum_{j=1}^{t} \mu^{t-j} = g\, \frac{1 - \mu^t}{1 - \mu} \quad (\text{if every } g_j=g)",
        "(momentum.4) with a constant gradient is a geometric sum, which tends to g / (1 - μ).",
        (
            lambda s: _after(s, [s.g[0]] * 5)[1],
            lambda s: s.g[0] * np.sum(s.mu ** np.arange(5)),
            lambda s: s.g[0] * (1 - s.mu**5) / (1 - s.mu),
        ),
        computed=False,
    ),
)
