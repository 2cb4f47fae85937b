"""Hyperbolic tangent: squashes every number to between -1 and 1, and keeps its sign.

Every element is treated alone, so k runs over the elements of z, whatever its shape.

It is the sigmoid stretched and centred, tanh(z) = 2 sigmoid(2 z) - 1, so that outputs have a mean close to 0
where those of the sigmoid lie around 1/2. Its slope is 1 at z = 0, four times that of the sigmoid, and it too
vanishes where the unit is saturated.

Sources
-------
S3 "Activator functions" (4); S0 9.2 ("classical hidden layer function"); S1 "Activation Functions"; S4
"Building Blocks" (recurrent networks).

Worked example
--------------
>>> forward(np.array([0, 1, -1, 1000], dtype=object)).tolist()
[0.0, 0.7615941559557649, -0.7615941559557649, 1.0]
>>> backward(np.array([1, 1], dtype=object), np.array([0, 1000], dtype=object))[0].tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, tanh, zeros

LETTERS = (("e", "Euler's number, exp(1)"),)


def forward(z):
    """Return a = tanh(z), element by element.

    Parameters
    ----------
    z : array of any shape

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        a[k] = tanh(z[k])  # (tanh.1)
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
        dL_dz[k] = dL_da[k] * (1 - a[k] * a[k])  # (tanh.4)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(z=rng.normal(size=5), dL_da=rng.normal(size=5))


def _da_dz(s):
    """∂a[k]/∂z[k] of every element: the diagonal of the Jacobian."""
    return np.diagonal(derivative(forward, s.z))


def _numerator(s):
    return np.exp(s.z) - np.exp(-s.z)


def _denominator(s):
    return np.exp(s.z) + np.exp(-s.z)


EQUATIONS = (
    Equation(
        "tanh.1",
        "a[k] = tanh(z[k]) = (exp(z[k]) - exp(-z[k])) / (exp(z[k]) + exp(-z[k]))",
        r"a_k = \tanh(z_k) = \frac{e^{z_k} - e^{-z_k}}{e^{z_k} + e^{-z_k}}",
        "Definition: hyperbolic sine by hyperbolic cosine.",
        (lambda s: forward(s.z), lambda s: np.tanh(s.z), lambda s: _numerator(s) / _denominator(s)),
    ),
    Equation(
        "tanh.2",
        "∂a[k]/∂z[k] = ((e^z + e^-z)² - (e^z - e^-z)²) / (e^z + e^-z)² (with z=z[k])",
        r"\frac{\partial a_k}{\partial z_k} = \frac{(e^{z_k} + e^{-z_k})^2 - (e^{z_k} - e^{-z_k})^2}"
        r"{(e^{z_k} + e^{-z_k})^2}",
        "Quotient rule on (tanh.1), where numerator and denominator are each the derivative of the other.",
        (_da_dz, lambda s: (_denominator(s) ** 2 - _numerator(s) ** 2) / _denominator(s) ** 2),
        computed=False,
    ),
    Equation(
        "tanh.3",
        "∂a[k]/∂z[k] = 1 - a[k]²",
        r"\frac{\partial a_k}{\partial z_k} = 1 - a_k^2",
        "Divide each square of (tanh.2) by the denominator: the first gives 1, the second a².",
        (_da_dz, lambda s: 1 - np.tanh(s.z) ** 2),
        computed=False,
    ),
    Equation(
        "tanh.4",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = ∂L/∂a[k] (1 - a[k]²)",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k}"
        r" = \frac{\partial L}{\partial a_k}\, (1 - a_k^2)",
        "Chain rule with (tanh.3); the forward pass has left a behind, so no exponential is needed.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * forward(z)), s.z),
            lambda s: s.dL_da * _da_dz(s),
            lambda s: s.dL_da * (1 - np.tanh(s.z) ** 2),
        ),
    ),
)
