"""Log-softmax: the logarithms of the probabilities that a softmax makes of K numbers.

y[i] = log p[i] is the output, so y is never positive, and the exponentials of the y sum to 1. m is the largest
of the z, as in softmax; subtracted from all z it changes nothing, and no exponent is positive.

Why not a softmax and then a logarithm: far behind the winner p[i] is smaller than the smallest number that a
computer has, becomes 0, and its logarithm -∞; the gradient dL/dp = -1/p of the cross entropy then divides by 0.
Here no probability is ever computed on the way forward, so y[i] = -1000 is as good a number as any. With the
loss L = -y[label] the gradient (log_softmax.5) is p - t, as in (softmax_cross_entropy.5): S4's network ends with
this layer, and its loss only has to pick the entry of the true class.

Every y depends on every z through the sum, so the derivative is a full matrix, and the chain rule sums over all y.
(log_softmax.5) does so without ever storing the matrix.

Sources
-------
S4 "Using PyTorch" (``F.log_softmax(x, dim=1)``, with a blank in place of the underscore); S4 "Building Blocks:
Output Layer" for the softmax.

Worked example
--------------
The probabilities 1/8, 2/8 and 5/8, and numbers whose exponentials no computer can hold:

>>> z = np.array([log(1), log(2), log(5)], dtype=object)
>>> [round(exp(y), 6) for y in forward(z)]
[0.125, 0.25, 0.625]
>>> forward(np.array([-1000, 0, 9000], dtype=object)).tolist()
[-10000.0, -9000.0, 0.0]

If the loss is -y[0], its gradient is p - t:

>>> [round(dL_dz, 6) for dL_dz in backward(np.array([-1, 0, 0], dtype=object), z)[0]]
[-0.875, 0.25, 0.625]
>>> z = np.array([-1000, 0, 9000], dtype=object)
>>> backward(np.array([-1, 0, 0], dtype=object), z)[0].tolist()
[-1.0, 0.0, 1.0]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, log, zeros

LETTERS = (
    ("y", "output, the logarithm of p"),
    ("m", "the largest z"),
)


def forward(z):
    """Return the logarithms of the probabilities that belong to K numbers.

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
    y = zeros(K)
    for i in range(K):
        y[i] = z[i] - m - log(total)  # (log_softmax.1)
    return y


def backward(dL_dy, z):
    """Gradient of the loss with respect to the input.

    Parameters
    ----------
    dL_dy : array of shape (K,)
    z : array of shape (K,)
        As in :func:`forward`.

    Returns
    -------
    dL_dz : tuple of one array of shape (K,)
    """
    K, y = len(z), forward(z)
    total = 0
    for i in range(K):
        total += dL_dy[i]
    dL_dz = zeros(K)
    for k in range(K):
        p = exp(y[k])  # (log_softmax.2)
        dL_dz[k] = dL_dy[k] - p * total  # (log_softmax.5)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(z=rng.normal(size=4), dL_dy=rng.normal(size=4))


def _p(z):
    return np.exp(z) / np.exp(z).sum()


def _dy_dz(s):
    return derivative(forward, s.z)


def _log_of_the_sum(z):
    return np.log(np.exp(z).sum())


def _dL_dz(s):
    return derivative(lambda z: sum(s.dL_dy * forward(z)), s.z)


EQUATIONS = (
    Equation(
        "log_softmax.1",
        "y[i] = log p[i] = z[i] - log Σ_k exp(z[k]) = z[i] - m - log Σ_k exp(z[k] - m)",
        r"y_i = \log p_i = z_i - \log \sum_k e^{z_k} = z_i - m - \log \sum_k e^{z_k - m}",
        "Definition: the logarithm of (softmax.1), where that of a quotient is a difference and log exp(z) is z.",
        (
            lambda s: forward(s.z),
            lambda s: np.log(_p(s.z)),
            lambda s: s.z - _log_of_the_sum(s.z),
            lambda s: s.z - s.z.max() - _log_of_the_sum(s.z - s.z.max()),
        ),
    ),
    Equation(
        "log_softmax.2",
        "p[k] = exp(y[k]) = exp(z[k] - m) / Σ_i exp(z[i] - m)",
        r"p_k = e^{y_k} = \frac{e^{z_k - m}}{\sum_i e^{z_i - m}}",
        "The exponential undoes the logarithm; y is not positive, so this cannot overflow.",
        (
            lambda s: _p(s.z),
            lambda s: np.exp(forward(s.z).astype(float)),
            lambda s: np.exp(s.z - s.z.max()) / np.exp(s.z - s.z.max()).sum(),
        ),
    ),
    Equation(
        "log_softmax.3",
        "∂y[i]/∂z[k] = ∂z[i]/∂z[k] - ∂(log Σ_j exp(z[j]))/∂z[k] = [i=k] - p[k]",
        r"\frac{\partial y_i}{\partial z_k} = \frac{\partial z_i}{\partial z_k}"
        r" - \frac{\partial \log \sum_j e^{z_j}}{\partial z_k} = [i=k] - p_k",
        "The logarithm of the sum has the derivative exp(z[k]) / Σ_j exp(z[j]), which is p[k], for every i.",
        (
            _dy_dz,
            lambda s: derivative(lambda z: z, s.z) - derivative(_log_of_the_sum, s.z)[None, :],
            lambda s: np.eye(4) - _p(s.z)[None, :],
        ),
        computed=False,
    ),
    Equation(
        "log_softmax.4",
        "∂L/∂z[k] = Σ_i ∂L/∂y[i] ∂y[i]/∂z[k] = Σ_i ∂L/∂y[i] ([i=k] - p[k])",
        r"\frac{\partial L}{\partial z_k} = \sum_i \frac{\partial L}{\partial y_i}"
        r" \frac{\partial y_i}{\partial z_k} = \sum_i \frac{\partial L}{\partial y_i} ([i=k] - p_k)",
        "Chain rule over all outputs, as z[k] acts on every one of them, with (log_softmax.3).",
        (
            _dL_dz,
            lambda s: s.dL_dy @ _dy_dz(s),
            lambda s: s.dL_dy @ (np.eye(4) - _p(s.z)[None, :]),
        ),
        computed=False,
    ),
    Equation(
        "log_softmax.5",
        "∂L/∂z[k] = ∂L/∂y[k] - p[k] Σ_i ∂L/∂y[i]",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial y_k}"
        r" - p_k \sum_i \frac{\partial L}{\partial y_i}",
        "The bracket of (log_softmax.4) leaves the term i = k, and p[k] does not depend on i.",
        (_dL_dz, lambda s: s.dL_dy - _p(s.z) * s.dL_dy.sum()),
    ),
)
