"""Softmax: turns K numbers into K probabilities, all positive and 1 in sum.

m is the largest of the z. Any number could be subtracted from all z without effect, as (softmax.1) shows;
with the largest one no exponent is positive, so nothing overflows, and the sum is at least 1.

Every probability depends on every z, for if one grows the others shrink. So its derivative is a full matrix,
the Jacobian, and the chain rule sums over all probabilities. (softmax.4) does so without ever storing the
matrix.

Sources
-------
S3 "Activator functions" (3); S4 "Building Blocks: Output Layer"; S0, "Layers to x Properties Table"
("Slightly different for softmax": the sum over k). A slip is corrected: the third probability of the example
below is .2052, so .21, where S3 prints .20 (perhaps since .46 + .34 + .20 is 1; three rounded numbers need
not add up to it).

Worked example
--------------
>>> z = np.array([1.2, 0.9, 0.4], dtype=object)
>>> [round(p, 4) for p in forward(z)]
[0.4566, 0.3383, 0.2052]
>>> [round(p, 2) for p in forward(z)]
[0.46, 0.34, 0.21]
>>> forward(np.array([0, 1000, 1000], dtype=object)).tolist()
[0.0, 0.5, 0.5]

If the loss asks for more of the first probability, the first z must grow and the others must shrink:

>>> [round(dL_dz, 2) for dL_dz in backward(np.array([-1, 0, 0], dtype=object), z)[0]]
[-0.25, 0.15, 0.09]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, zeros

LETTERS = (("m", "the largest z"),)


def forward(z):
    """Return the probabilities that belong to K numbers.

    Parameters
    ----------
    z : array of shape (K,)

    Returns
    -------
    array of shape (K,)
    """
    K = len(z)
    m = z[0]
    for k in range(1, K):
        if z[k] > m:
            m = z[k]
    total = 0
    for k in range(K):
        total += exp(z[k] - m)
    p = zeros(K)
    for i in range(K):
        p[i] = exp(z[i] - m) / total  # (softmax.1)
    return p


def backward(dL_dp, z):
    """Gradient of the loss with respect to the input.

    Parameters
    ----------
    dL_dp : array of shape (K,)
    z : array of shape (K,)
        As in :func:`forward`.

    Returns
    -------
    dL_dz : tuple of one array of shape (K,)
    """
    K, p = len(z), forward(z)
    mean = 0
    for i in range(K):
        mean += dL_dp[i] * p[i]
    dL_dz = zeros(K)
    for k in range(K):
        dL_dz[k] = p[k] * (dL_dp[k] - mean)  # (softmax.4)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(z=rng.normal(size=4), dL_dp=rng.normal(size=4))


def _p(s):
    return np.exp(s.z) / np.exp(s.z).sum()


def _dp_dz(s):
    return derivative(forward, s.z)


def _dL_dz(s):
    return derivative(lambda z: sum(s.dL_dp * forward(z)), s.z)


def _log(z):
    return np.log(forward(z).astype(float))


EQUATIONS = (
    Equation(
        "softmax.1",
        "p[i] = exp(z[i]) / Σ_k exp(z[k]) = exp(z[i] - m) / Σ_k exp(z[k] - m)",
        r"p_i = \frac{e^{z_i}}{\sum_k e^{z_k}} = \frac{e^{z_i - m}}{\sum_k e^{z_k - m}}",
        "Definition; the second form is the first with numerator and denominator divided by exp(m).",
        (
            lambda s: forward(s.z),
            _p,
            lambda s: np.exp(s.z - s.z.max()) / np.exp(s.z - s.z.max()).sum(),
        ),
    ),
    Equation(
        "softmax.2",
        "∂p[i]/∂z[k] = p[i] ∂(log p[i])/∂z[k] = p[i] ([i=k] - p[k])",
        r"\frac{\partial p_i}{\partial z_k} = p_i \frac{\partial \log p_i}{\partial z_k} = p_i ([i=k] - p_k)",
        "Since log p[i] is z[i] minus the log of the sum, whose derivative with respect to z[k] is p[k].",
        (
            _dp_dz,
            lambda s: _p(s)[:, None] * derivative(_log, s.z),
            lambda s: _p(s)[:, None] * (np.eye(4) - _p(s)),
        ),
        computed=False,
    ),
    Equation(
        "softmax.3",
        "∂L/∂z[k] = Σ_i ∂L/∂p[i] ∂p[i]/∂z[k] = Σ_i ∂L/∂p[i] p[i] ([i=k] - p[k])",
        r"\frac{\partial L}{\partial z_k} = \sum_i \frac{\partial L}{\partial p_i}"
        r" \frac{\partial p_i}{\partial z_k} = \sum_i \frac{\partial L}{\partial p_i}\, p_i ([i=k] - p_k)",
        "Chain rule over all probabilities, as z[k] acts on every one of them, with (softmax.2).",
        (
            _dL_dz,
            lambda s: s.dL_dp @ _dp_dz(s),
            lambda s: s.dL_dp @ (np.diag(_p(s)) - np.outer(_p(s), _p(s))),
        ),
        computed=False,
    ),
    Equation(
        "softmax.4",
        "∂L/∂z[k] = p[k] (∂L/∂p[k] - Σ_i ∂L/∂p[i] p[i])",
        r"\frac{\partial L}{\partial z_k} = p_k \left( \frac{\partial L}{\partial p_k}"
        r" - \sum_i \frac{\partial L}{\partial p_i}\, p_i \right)",
        "The bracket of (softmax.3) leaves the term i = k, and p[k] is common to all terms.",
        (_dL_dz, lambda s: _p(s) * (s.dL_dp - s.dL_dp @ _p(s))),
    ),
)
