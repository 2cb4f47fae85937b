"""Mean absolute error: the loss of a regression in which one wild target shall not outweigh all others.

p[n,k] is value k of the prediction for sample n and t[n,k] its target, any real number. Each sample may have
any shape; k runs over its K elements. The mean is taken over all N K elements, as PyTorch does.

The slope of the absolute value says only on which side of its target a prediction lies, not how far away.
So every deviation pulls with the same force 1 / (N K). With the mean squared error the best constant
prediction of several targets is their mean; here it is their median, which one outlier cannot move far. The
price: the gradient does not shrink near the goal, and steps of constant length jump back and forth across it.

At the kink p = t there is no derivative: the slope is -1 on its left and 1 on its right. Every number between
them is a subgradient, and 0 is taken, as PyTorch does: a prediction without an error needs no change. The code
returns the residual itself there, which is 0, and keeps NaN, which is neither above nor below 0.

Sources
-------
S3 "Relationship between weight & error", error = |w x - y|: "the error in its simplest form". S3 "Mean squared
error" squares the residual instead. The mean over elements and its gradient are not in the notes.

Worked example
--------------
S3's input x = .3 with the target .8: for the weight w = 2 the prediction is .6, the error is .2, and w must grow.
By the chain rule its gradient is ∂L/∂p x: -.3 while the prediction is too small, however large the error is, and .3
once it is too large:

>>> x, t = Fraction(3, 10), np.array([[Fraction(8, 10)]])
>>> for w in (1, 2, 3):
...     p = np.array([[w * x]])
...     print(w, forward(p, t), backward(p, t)[0, 0] * x)
1 1/2 -3/10
2 1/5 -3/10
3 1/10 3/10

The best constant for the targets 1, 2 and 9 is their median 2, where the gradients add up to 0, not their mean 4:

>>> targets = np.array([[1, 2, 9]], dtype=object)
>>> [forward(np.full((1, 3), Fraction(p)), targets) for p in (1, 2, 3, 4)]
[Fraction(3, 1), Fraction(8, 3), Fraction(3, 1), Fraction(10, 3)]
>>> backward(np.full((1, 3), Fraction(2)), targets).tolist()
[[Fraction(1, 3), Fraction(0, 1), Fraction(-1, 3)]]
"""

from __future__ import annotations

from fractions import Fraction
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
        L += absolute(p[position] - t[position]) / NK  # (mean_absolute_error.1)
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
    share = Fraction(1, p.size)  # 1 / (N K), exactly
    dL_dp = zeros(*p.shape)
    for position in positions(*p.shape):
        dL_dp[position] = sign(p[position] - t[position]) * share  # (mean_absolute_error.3)
    return dL_dp


def absolute(residual):
    """Return the residual without its sign."""
    return -residual if residual < 0 else residual


def sign(residual):
    """Return 1 above 0 and -1 below; 0, and what is no number, as it is."""
    if residual > 0:
        return 1
    return -1 if residual < 0 else residual


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, away from the kinks."""
    N, K = 3, 4
    t, sides = rng.normal(size=(N, K)), rng.permutation([-1, 1] * 6).reshape(N, K)
    return SimpleNamespace(p=t + sides * rng.uniform(0.1, 2.0, size=(N, K)), t=t, N=N, K=K)


def _derivatives_of_absolute_values(s):
    """∂|p[n,k] - t[n,k]|/∂p[n,k] for every n and k."""
    return np.einsum("nknk->nk", derivative(lambda p: np.abs(p - s.t), s.p))


EQUATIONS = (
    Equation(
        "mean_absolute_error.1",
        "L = 1 / (N K) Σ_n Σ_k |p[n,k] - t[n,k]|",
        r"L = \frac{1}{N K} \sum_n \sum_k |p_{nk} - t_{nk}|",
        "Definition: without its sign every deviation counts as positive, each in proportion to its size.",
        (lambda s: forward(s.p, s.t), lambda s: np.mean(np.abs(s.p - s.t))),
    ),
    Equation(
        "mean_absolute_error.2",
        "∂|p[n,k] - t[n,k]|/∂p[n,k] = sign(p[n,k] - t[n,k])",
        r"\frac{\partial |p_{nk} - t_{nk}|}{\partial p_{nk}} = \operatorname{sign}(p_{nk} - t_{nk})",
        "Two straight lines of slope -1 and 1 that meet at the kink, where the slope is 0 by convention.",
        (_derivatives_of_absolute_values, lambda s: np.sign(s.p - s.t)),
        computed=False,
    ),
    Equation(
        "mean_absolute_error.3",
        "∂L/∂p[n,k] = 1 / (N K) ∂|p[n,k] - t[n,k]|/∂p[n,k] = sign(p[n,k] - t[n,k]) / (N K)",
        r"\frac{\partial L}{\partial p_{nk}} = \frac{1}{N K} \frac{\partial |p_{nk} - t_{nk}|}{\partial p_{nk}}"
        r" = \frac{\operatorname{sign}(p_{nk} - t_{nk})}{N K}",
        "Of the sum only one term contains p[n,k], and (mean_absolute_error.2) is its slope.",
        (
            lambda s: derivative(lambda p: forward(p, s.t), s.p),
            lambda s: _derivatives_of_absolute_values(s) / (s.N * s.K),
            lambda s: np.sign(s.p - s.t) / (s.N * s.K),
        ),
    ),
)
