"""Linear activation function: the identity, for where an activation function is expected and none wanted.

Every element is treated alone, so k runs over the elements of z, whatever its shape.

A network whose activation functions are all linear is no deeper than one layer: W₂ (W₁ x + b₁) + b₂ is again
one matrix times x plus one vector, (W₂ W₁) x + (W₂ b₁ + b₂). It therefore belongs at the output, where a
regression wants every real number.

Sources
-------
S1 "Activation Functions" ("What happens if we don't use activation function?"); S3 "Activation function
selection" (regression: none); S4 "Building Blocks: Output Layer" (regression: a single node, linear
activation).

Worked example
--------------
Two linear layers with slopes 3 and 2 and biases 1 and 4 are one layer with slope 6 and bias 6:

>>> x = np.array([-1, 0, 5], dtype=object)
>>> (2 * forward(3 * x + 1) + 4).tolist() == (6 * x + 6).tolist()
True
>>> [dL_dz.tolist() for dL_dz in backward(np.array([7, 8, 9], dtype=object), x)]
[[7, 8, 9]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros


def forward(z):
    """Return a = z.

    Parameters
    ----------
    z : array of any shape

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        a[k] = z[k]  # (linear.1)
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
        dL_dz[k] = dL_da[k]  # (linear.2)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(z=rng.normal(size=5), dL_da=rng.normal(size=5))


EQUATIONS = (
    Equation(
        "linear.1",
        "a[k] = z[k]",
        r"a_k = z_k",
        "Definition: the identity.",
        (lambda s: forward(s.z), lambda s: s.z),
    ),
    Equation(
        "linear.2",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = ∂L/∂a[k]",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k}"
        r" = \frac{\partial L}{\partial a_k}",
        "Chain rule, where the slope of the identity is 1.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * forward(z)), s.z),
            lambda s: s.dL_da * np.diagonal(derivative(forward, s.z)),
            lambda s: s.dL_da,
        ),
    ),
)
