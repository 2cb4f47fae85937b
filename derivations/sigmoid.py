"""Sigmoid, the logistic function: squashes every number to a probability between 0 and 1.

Every element is treated alone, so k runs over the elements of z, whatever its shape.

The two forms of (sigmoid.1) are equal, but not for a computer: exp(-z) overflows for a large negative z,
exp(z) for a large positive one. The code chooses by the sign of z, so that the exponent is never positive.

The derivative needs no exponential, only the output. It is at most 1/4, at z = 0, and close to 0 where the
unit is saturated: through ten such layers their slopes alone shrink a gradient to a
millionth (4⁻¹⁰) or less.

Sources
-------
S3 "Activator functions" (2); S2 "Back Propagation w.r.t weight", da/dz = a (1 - a); S1 "Artificial Neural
Networks" (one neuron with a sigmoid is logistic regression); S4 "Building Blocks" (binary classification).

Worked example
--------------
>>> forward(np.array([0, -1000, 1000], dtype=object)).tolist()
[0.5, 0.0, 1.0]
>>> backward(np.array([1, 1, 1], dtype=object), np.array([0, -1000, 1000], dtype=object))[0].tolist()
[0.25, 0.0, 0.0]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, positions, zeros


def forward(z):
    """Return a = 1 / (1 + exp(-z)), element by element.

    Parameters
    ----------
    z : array of any shape

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        if z[k] >= 0:
            a[k] = 1 / (1 + exp(-z[k]))  # (sigmoid.1)
        else:
            a[k] = exp(z[k]) / (1 + exp(z[k]))  # (sigmoid.1)
    return a


def backward(dL_da, z):
    """Gradient of the loss with respect to the input.

    Parameters
    ----------
    dL_da : array of the shape of z
    z : array
        As in :func:`forward`.

    Returns
    -------
    dL_dz : tuple of one array of the shape of z
    """
    a, dL_dz = forward(z), zeros(*z.shape)
    for k in positions(*z.shape):
        dL_dz[k] = dL_da[k] * a[k] * (1 - a[k])  # (sigmoid.4)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with both signs of z."""
    z = np.array([-1.0, 1.0, -1.0, 1.0, 1.0]) * rng.uniform(0.1, 3.0, size=5)
    return SimpleNamespace(z=z, dL_da=rng.normal(size=5))


def _a(s):
    return 1 / (1 + np.exp(-s.z))


def _da_dz(s):
    """∂a[k]/∂z[k] of every element: the diagonal of the Jacobian."""
    return np.diagonal(derivative(forward, s.z))


EQUATIONS = (
    Equation(
        "sigmoid.1",
        "a[k] = 1 / (1 + exp(-z[k])) = exp(z[k]) / (1 + exp(z[k]))",
        r"a_k = \frac{1}{1 + e^{-z_k}} = \frac{e^{z_k}}{1 + e^{z_k}}",
        "Definition; the second form is the first with numerator and denominator multiplied by exp(z).",
        (lambda s: forward(s.z), _a, lambda s: np.exp(s.z) / (1 + np.exp(s.z))),
    ),
    Equation(
        "sigmoid.2",
        "∂a[k]/∂z[k] = exp(-z[k]) / (1 + exp(-z[k]))²",
        r"\frac{\partial a_k}{\partial z_k} = \frac{e^{-z_k}}{(1 + e^{-z_k})^2}",
        "Quotient rule on (sigmoid.1); the derivative of the denominator is -exp(-z).",
        (_da_dz, lambda s: np.exp(-s.z) / (1 + np.exp(-s.z)) ** 2),
        computed=False,
    ),
    Equation(
        "sigmoid.3",
        "∂a[k]/∂z[k] = 1 / (1 + exp(-z[k])) · exp(-z[k]) / (1 + exp(-z[k])) = a[k] (1 - a[k])",
        r"\frac{\partial a_k}{\partial z_k} = \frac{1}{1 + e^{-z_k}} \cdot \frac{e^{-z_k}}{1 + e^{-z_k}}"
        r" = a_k (1 - a_k)",
        "Split (sigmoid.2) into two factors: the first is a, and the second is what a lacks to 1.",
        (
            _da_dz,
            lambda s: 1 / (1 + np.exp(-s.z)) * (np.exp(-s.z) / (1 + np.exp(-s.z))),
            lambda s: _a(s) * (1 - _a(s)),
        ),
        computed=False,
    ),
    Equation(
        "sigmoid.4",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = ∂L/∂a[k] a[k] (1 - a[k])",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k}"
        r" = \frac{\partial L}{\partial a_k}\, a_k (1 - a_k)",
        "Chain rule with (sigmoid.3); the forward pass has left a behind, so no exponential is needed.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * forward(z)), s.z),
            lambda s: s.dL_da * _da_dz(s),
            lambda s: s.dL_da * _a(s) * (1 - _a(s)),
        ),
    ),
)
