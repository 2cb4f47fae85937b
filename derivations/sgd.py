"""Gradient descent: every parameter takes a small step against its gradient.

θ_t is the parameter after step number t (t counts steps here, it is no target), g_t the gradient dL/dθ for
it, α the learning rate. (sgd.1) holds for each element by itself. Whether it is batch, stochastic or
mini-batch gradient descent depends on the samples from which g was computed (all, one, or some), not on the
rule.

Why against the gradient: L falls at the rate |g|² there (sgd.2), and no other direction of the same length
makes it fall faster. Why a small step: that rate holds at the start of the step alone. On a parabola of
curvature c the parameter shrinks by the factor 1 - α c in every step (sgd.3): smoothly for α < 1/c, with
changing sign for 1/c < α < 2/c (it oscillates), and for α > 2/c it grows without bound (it diverges).

Sources
-------
S0 9.3, θ ← θ - α dL/dθ; S1 "Training of the Network"; S3 "Gradient descent". Slips are corrected. S2's update
of the weights omits the learning rate, and that of the filter coefficients has lost the minus sign as well.
S3 says that stochastic gradient descent computes the minima of all paths and takes the smallest as the global
minimum; it follows one path, whose noise may carry it out of a shallow minimum, and promises no global one.

Worked example
--------------
S3's knob: input .3, target .8, squared error (.3 w - .8)², so dL/dw = 2·.3 (.3 w - .8). From w = 1 with α = 1
the weight moves towards the goal 8/3:

>>> from fractions import Fraction
>>> x, target, w = Fraction(3, 10), Fraction(8, 10), np.array([Fraction(1)])
>>> for _ in range(3):
...     w = update(w, 2 * x * (x * w - target), learning_rate=1)
...     print(round(float(w[0]), 4))
1.3
1.546
1.7477
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, zeros

LETTERS = (
    ("t", "number of a step"),
    ("c", "a number above 0, the curvature of the loss c/2 θ²"),
)


def update(theta, g, learning_rate):
    """Return the parameters after one step.

    Parameters
    ----------
    theta, g : arrays of shape (K,)
        Parameters and their gradients.
    learning_rate : number

    Returns
    -------
    array of shape (K,)
    """
    stepped = zeros(*theta.shape)
    for k in range(len(theta)):
        stepped[k] = theta[k] - learning_rate * g[k]  # (sgd.1)
    return stepped


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with the gradient of the loss ``_L``."""
    theta = rng.normal(size=4)
    g = np.cos(theta) + 2 * theta * np.sum(theta**2)
    return SimpleNamespace(theta=theta, g=g, alpha=0.1, c=rng.uniform(1, 25), steps=5)


def _L(theta):
    """A loss that is not linear and couples its parameters."""
    return np.sum(np.sin(theta)) + np.sum(theta**2) ** 2 / 2


def _L_after_a_step(s, alpha):
    return _L(update(s.theta, s.g, alpha).astype(float))


def _on_a_parabola(s):
    """θ after some steps of the literal code on L = c/2 Σ θ², whose gradient is c θ."""
    theta = s.theta
    for _ in range(s.steps):
        theta = update(theta, s.c * theta, s.alpha)
    return theta


EQUATIONS = (
    Equation(
        "sgd.1",
        "θ_t = θ_(t-1) - α g_t",
        r"\theta_t = \theta_{t-1} - \alpha\, g_t",
        "Definition: a step whose length is the learning rate times that of the gradient.",
        (lambda s: update(s.theta, s.g, s.alpha), lambda s: s.theta - s.alpha * s.g),
    ),
    Equation(
        "sgd.2",
        "dL(θ - α g)/dα (at α=0) = -Σ_k ∂L/∂θ[k] g[k] = -Σ_k g[k]²",
        r"\left. \frac{d L(\theta - \alpha g)}{d \alpha} \right|_{\alpha=0}"
        r" = -\sum_k \frac{\partial L}{\partial \theta_k}\, g_k = -\sum_k g_k^2",
        "Chain rule: Taylor's first-order term is negative, so a small step lowers L unless g is 0.",
        (
            lambda s: derivative(lambda alpha: _L_after_a_step(s, alpha[0]), np.zeros(1))[0],
            lambda s: -derivative(_L, s.theta) @ s.g,
            lambda s: -np.sum(s.g**2),
        ),
        computed=False,
    ),
    Equation(
        "sgd.3",
        "θ_t = (1 - α c)^t θ_0 (on L=c/2 θ²)",
        r"\theta_t = (1 - \alpha c)^t\, \theta_0 \quad \left(\text{on } L=\frac{c}{2} \theta^2\right)",
        "There g is c θ, so (sgd.1) multiplies θ by 1 - α c, and does so in every step.",
        (_on_a_parabola, lambda s: (1 - s.alpha * s.c) ** s.steps * s.theta),
        computed=False,
    ),
)
