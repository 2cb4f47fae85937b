"""Rectified linear unit: what is positive passes, the rest becomes 0.

Every element is treated alone, so k runs over the elements of z, whatever its shape.

At the kink z = 0 there is no derivative: the slope is 0 on its left and 1 on its right. Every number between
them is a subgradient, and 0 is taken, as PyTorch does. A unit whose z is negative for all samples gets no
gradient and never changes again: it is dead.

The code says ``0 if z < 0 else z`` rather than max(0, z). Both are the same for numbers, but NaN is neither
below nor above 0, so the former keeps it and an error stays visible, where a maximum might turn it into 0.

Sources
-------
S3 "Activator functions" (5), f(x) = max(0, x); S1 "Activation Functions", y = max(0, x), "the default choice
for deep nets"; S4 "Building Blocks" ("overcomes vanishing gradient issues": an active unit has slope 1).
S0 9.2 demands that activation functions be differentiable; this one is so everywhere but at the kink.

Worked example
--------------
>>> z = np.array([-2, 0, 3, float("nan")], dtype=object)
>>> forward(z).tolist()
[0, 0, 3, nan]
>>> backward(np.array([5, 5, 5], dtype=object), z[:3])[0].tolist()
[0, 0, 5]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros


def forward(z):
    """Return a = max(0, z), element by element.

    Parameters
    ----------
    z : array of any shape

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        a[k] = 0 if z[k] < 0 else z[k]  # (relu.1)
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
    dL_dz = zeros(*z.shape)
    for k in positions(*z.shape):
        dL_dz[k] = 0 if z[k] <= 0 else dL_da[k]  # (relu.3)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, away from the kink."""
    z = np.array([-1.0, 1.0, -1.0, 1.0, 1.0]) * rng.uniform(0.1, 2.0, size=5)
    return SimpleNamespace(z=z, dL_da=rng.normal(size=5))


def _da_dz(s):
    """∂a[k]/∂z[k] of every element: the diagonal of the Jacobian."""
    return np.diagonal(derivative(forward, s.z))


EQUATIONS = (
    Equation(
        "relu.1",
        "a[k] = max(0, z[k])",
        r"a_k = \max(0, z_k)",
        "Definition: two straight lines that meet at 0.",
        (lambda s: forward(s.z), lambda s: np.maximum(0, s.z)),
    ),
    Equation(
        "relu.2",
        "∂a[k]/∂z[k] = [z[k]>0]",
        r"\frac{\partial a_k}{\partial z_k} = [z_k > 0]",
        "The slope of (relu.1) is 0 on the left of the kink and 1 on its right; at the kink 0 by convention.",
        (_da_dz, lambda s: np.heaviside(s.z, 0)),
        computed=False,
    ),
    Equation(
        "relu.3",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = ∂L/∂a[k] [z[k]>0]",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k}"
        r" = \frac{\partial L}{\partial a_k}\, [z_k > 0]",
        "Chain rule with (relu.2): the gradient passes where the value passed.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * forward(z)), s.z),
            lambda s: s.dL_da * _da_dz(s),
            lambda s: np.where(s.z > 0, s.dL_da, 0),
        ),
    ),
)
