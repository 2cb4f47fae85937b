"""Leaky ReLU: what is positive passes, and of the rest a small part, so that no unit is ever dead.

Every element is treated alone, so k runs over the elements of z, whatever its shape. ``slope`` is the slope on the
left of the kink, from 0 up to but not including 1; S3 has .01, which is the layer's default. It is not negative:
the "negative slope" of some books, and of S3, means the slope for negative z.

A ReLU whose z is negative for all samples gets no gradient and stays as it is for ever. Here such a unit still
gets a hundredth of the gradient, so it can come back. With slope 0 the layer is a ReLU (apart from z = -∞,
which becomes 0 · ∞ and so NaN), with slope 1 it would be the identity.

At the kink z = 0 there is no derivative. Of the subgradients from ``slope`` to 1 the former is taken, as PyTorch
does. NaN is not above 0, so it takes the branch of the negative numbers and stays NaN.

Sources
-------
S3 "Activator functions" (6): f(x) = max(.01 x, x), and a function leaky_relu(x) that asks whether x < 0. Both
agree, as (leaky_relu.1) shows, but only as long as the slope is below 1: max(2 x, x) would bend the right half,
not the left one. A. L. Maas, A. Y. Hannun, A. Y. Ng, "Rectifier nonlinearities improve neural network acoustic
models", 2013.

Worked example
--------------
>>> from fractions import Fraction
>>> z = np.array([-200, 0, 3, float("nan")], dtype=object)
>>> hundredth = Fraction(1, 100)                                                 # S3's .01
>>> [str(a) for a in forward(z, slope=hundredth)]
['-2', '0', '3', 'nan']
>>> dL_da = np.array([5, 5, 5], dtype=object)
>>> [str(dL_dz) for dL_dz in backward(dL_da, z[:3], slope=hundredth)[0]]
['1/20', '1/20', '5']
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (("slope", "what a negative z is multiplied by, from 0 up to but not including 1"),)


def forward(z, *, slope):
    """Return a = z where z is positive and slope z elsewhere.

    Parameters
    ----------
    z : array of any shape
    slope : number
        From 0 up to but not including 1.

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        a[k] = z[k] if z[k] > 0 else slope * z[k]  # (leaky_relu.1)
    return a


def backward(dL_da, z, *, slope):
    """Gradient of the loss with respect to the input.

    Parameters
    ----------
    dL_da : array of the shape of z
    z, slope
        As in :func:`forward`.

    Returns
    -------
    dL_dz : tuple of one array of the shape of z
    """
    dL_dz = zeros(*z.shape)
    for k in positions(*z.shape):
        dL_dz[k] = dL_da[k] if z[k] > 0 else slope * dL_da[k]  # (leaky_relu.3)
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, away from the kink."""
    z = np.array([-1.0, 1.0, -1.0, 1.0, 1.0]) * rng.uniform(0.1, 2.0, size=5)
    return SimpleNamespace(z=z, slope=rng.uniform(0.01, 0.9), dL_da=rng.normal(size=5))


def _a(s, z=None):
    return forward(s.z if z is None else z, slope=s.slope)


def _da_dz(s):
    """∂a[k]/∂z[k] of every element: the diagonal of the Jacobian."""
    return np.diagonal(derivative(lambda z: _a(s, z), s.z))


EQUATIONS = (
    Equation(
        "leaky_relu.1",
        "a[k] = [z[k]>0] z[k] + [z[k]≤0] slope z[k] = max(slope z[k], z[k])",
        r"a_k = [z_k > 0]\, z_k + [z_k \le 0]\, \mathrm{slope}\, z_k = \max(\mathrm{slope}\, z_k, z_k)",
        "Definition: two straight lines that meet at 0; as slope < 1, the upper one holds on both sides.",
        (
            _a,
            lambda s: (s.z > 0) * s.z + (s.z <= 0) * s.slope * s.z,
            lambda s: np.maximum(s.slope * s.z, s.z),
        ),
    ),
    Equation(
        "leaky_relu.2",
        "∂a[k]/∂z[k] = [z[k]>0] + slope [z[k]≤0]",
        r"\frac{\partial a_k}{\partial z_k} = [z_k > 0] + \mathrm{slope}\, [z_k \le 0]",
        "The slopes of the two lines of (leaky_relu.1); at the kink that of the left one by convention.",
        (_da_dz, lambda s: np.heaviside(s.z, 0) + s.slope * np.heaviside(-s.z, 1)),
        computed=False,
    ),
    Equation(
        "leaky_relu.3",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = ∂L/∂a[k] ([z[k]>0] + slope [z[k]≤0])",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k}"
        r" = \frac{\partial L}{\partial a_k} \left( [z_k > 0] + \mathrm{slope}\, [z_k \le 0] \right)",
        "Chain rule with (leaky_relu.2): the gradient passes as a whole or in part, as the value did.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * _a(s, z)), s.z),
            lambda s: s.dL_da * _da_dz(s),
            lambda s: np.where(s.z > 0, s.dL_da, s.slope * s.dL_da),
        ),
    ),
)
