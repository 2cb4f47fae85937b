"""Mean squared error: the loss of a regression, whose output may be any real number.

p[n,k] is value k of the prediction for sample n and t[n,k] its target, any real number here. Each sample may
have any shape; k runs over its K elements. The mean is taken over all N K elements, not over the samples
alone. That is PyTorch's convention; with it the loss does not grow with the number of outputs.

Sources
-------
S0 9.3 and the "Layers to x Properties Table", dL/dp_i = 2/n (p_i - l_i); S3 "Mean squared error". Slips are
corrected: S0's formula of the loss in 9.3 has lost its Σ, and its table calls the same number N and n. In the
notes a sample has one output, K = 1, so n is N.

Worked example
--------------
S3's input .3 with the target .8, for a net that multiplies by the weight 2: the residual is .6 - .8.

>>> from fractions import Fraction
>>> p, t = np.array([[Fraction(6, 10)]]), np.array([[Fraction(8, 10)]])
>>> forward(p, t)
Fraction(1, 25)
>>> backward(p, t).tolist()
[[Fraction(-2, 5)]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros


def forward(p, t):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    p, t : arrays of one shape (N, ...)
        Prediction and target.

    Returns
    -------
    number
    """
    NK = p.size
    L = 0
    for position in positions(*p.shape):
        residual = p[position] - t[position]
        L += residual * residual / NK  # (mean_squared_error.1)
    return L


def backward(p, t):
    """Gradient of the loss with respect to the prediction.

    Parameters
    ----------
    p, t
        As in :func:`forward`.

    Returns
    -------
    dL_dp : array of the shape of p
    """
    NK = p.size
    dL_dp = zeros(*p.shape)
    for position in positions(*p.shape):
        dL_dp[position] = 2 * (p[position] - t[position]) / NK  # (mean_squared_error.2)
    return dL_dp


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    N, K = 3, 4
    return SimpleNamespace(p=rng.normal(size=(N, K)), t=rng.normal(size=(N, K)), N=N, K=K)


def _derivatives_of_squares(s):
    """∂(p[n,k] - t[n,k])²/∂p[n,k] for every n and k."""
    return np.einsum("nknk->nk", derivative(lambda p: (p - s.t) ** 2, s.p))


EQUATIONS = (
    Equation(
        "mean_squared_error.1",
        "L = 1 / (N K) Σ_n Σ_k (p[n,k] - t[n,k])²",
        r"L = \frac{1}{N K} \sum_n \sum_k (p_{nk} - t_{nk})^2",
        "Definition: squared, every deviation counts as positive, and large ones more than in proportion.",
        (lambda s: forward(s.p, s.t), lambda s: np.mean((s.p - s.t) ** 2)),
    ),
    Equation(
        "mean_squared_error.2",
        "∂L/∂p[n,k] = 1 / (N K) ∂(p[n,k] - t[n,k])²/∂p[n,k] = 2 (p[n,k] - t[n,k]) / (N K)",
        r"\frac{\partial L}{\partial p_{nk}} = \frac{1}{N K}"
        r" \frac{\partial (p_{nk} - t_{nk})^2}{\partial p_{nk}} = \frac{2 (p_{nk} - t_{nk})}{N K}",
        "Of the sum only one term contains p[n,k]; power rule and chain rule.",
        (
            lambda s: derivative(lambda p: forward(p, s.t), s.p),
            lambda s: _derivatives_of_squares(s) / (s.N * s.K),
            lambda s: 2 / (s.N * s.K) * (s.p - s.t),
        ),
    ),
)
