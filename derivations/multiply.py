"""Multiplication layer: the element-wise product of M inputs.

One input can act as a gate for another: where it is 1 the other passes, where it is 0 the other is blocked.
Since both are factors, each one's value is the other's slope. A gate that is shut therefore lets no gradient
through to what it blocks, yet gets a gradient itself, so that it can learn to open.

x_m is input number m; k runs over the elements, whatever their shape. With three inputs or more the gradient
of one is multiplied by all the others. (multiply.4) would get it from z by a division, and it is not used: if
x_m is 0 it is 0/0, though the product of the others is a number like any other. If two factors are 0, no
factor has a slope.

If one value is used as two factors, Multiply()(x, x), it collects both their gradients by the rule for a
fan-out, (add.4): x + x, which is the derivative of x².

Sources
-------
S1 "Deep Residual Networks" calls residual networks "a special case of Highway networks"; the formula of the
latter, z = t f(x) + (1 - t) x with a gate t between 0 and 1, is not in the notes. It stands in R. K.
Srivastava, K. Greff, J. Schmidhuber, "Highway Networks", 2015. Both its products are this layer.

Worked example
--------------
A gate that is open, half open, shut. What it blocks has no gradient; the gate has:

>>> t, f = np.array([1, 0.5, 0], dtype=object), np.array([6, 6, 6], dtype=object)
>>> forward(t, f).tolist()
[6, 3.0, 0]
>>> dL_dt, dL_df = backward(np.array([10, 10, 10], dtype=object), t, f)
>>> dL_dt.tolist(), dL_df.tolist()
([60, 60, 60], [10, 5.0, 0])

Three factors, of which none, one and two are 0:

>>> x_1, x_2, x_3 = (np.array(x, dtype=object) for x in ([2, 0, 0], [3, 3, 0], [5, 5, 5]))
>>> forward(x_1, x_2, x_3).tolist()
[30, 0, 0]
>>> [gradient.tolist() for gradient in backward(np.array([1, 1, 1], dtype=object), x_1, x_2, x_3)]
[[15, 15, 0], [10, 0, 0], [6, 0, 0]]

The derivative of x² is 2 x:

>>> x = np.array([3, -4], dtype=object)
>>> first, second = backward(np.array([1, 1], dtype=object), x, x)
>>> (first + second).tolist()
[6, -8]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (("x_m, x_i", "inputs number m and i"),)


def forward(*x):
    """Return the product of the inputs, element by element.

    Parameters
    ----------
    *x : arrays of one shape

    Returns
    -------
    array of the same shape
    """
    z = zeros(*x[0].shape)
    for k in positions(*z.shape):
        product = 1
        for x_m in x:
            product *= x_m[k]
        z[k] = product  # (multiply.1)
    return z


def backward(dL_dz, *x):
    """Gradient of the loss with respect to every input.

    Parameters
    ----------
    dL_dz : array of the shape of each input
    *x
        As in :func:`forward`.

    Returns
    -------
    tuple of arrays, dL/dx_m for one input after the other
    """
    gradients = []
    for m in range(len(x)):
        dL_dx_m = zeros(*dL_dz.shape)
        for k in positions(*dL_dz.shape):
            others = 1
            for i in range(len(x)):
                if i != m:
                    others *= x[i][k]
            dL_dx_m[k] = dL_dz[k] * others  # (multiply.3)
        gradients += [dL_dx_m]
    return tuple(gradients)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: three factors, none of them close to 0."""
    x = rng.choice([-1, 1], size=(3, 4)) * rng.uniform(0.5, 2, size=(3, 4))
    return SimpleNamespace(x=x, dL_dz=rng.normal(size=4))


def _dz_dx(s):
    """∂z[k]/∂x_m[k] from its definition; the derivatives by other elements are left out, for they are 0."""
    return np.einsum("kmk->mk", derivative(lambda x: forward(*x), s.x))


def _others(s):
    """Π_{i≠m} x_i[k] for each of the three inputs m."""
    return np.stack([s.x[1] * s.x[2], s.x[0] * s.x[2], s.x[0] * s.x[1]])


EQUATIONS = (
    Equation(
        "multiply.1",
        "z[k] = Π_m x_m[k]",
        r"z_k = \prod_m x_{m,k}",
        "Definition.",
        (lambda s: forward(*s.x), lambda s: s.x.prod(axis=0)),
    ),
    Equation(
        "multiply.2",
        "∂z[k]/∂x_m[k] = Π_{i≠m} x_i[k]",
        r"\frac{\partial z_k}{\partial x_{m,k}} = \prod_{i \ne m} x_{i,k}",
        "Every input is a factor of (multiply.1), and the other factors do not change with it.",
        (_dz_dx, _others),
        computed=False,
    ),
    Equation(
        "multiply.3",
        "∂L/∂x_m[k] = ∂L/∂z[k] ∂z[k]/∂x_m[k] = ∂L/∂z[k] Π_{i≠m} x_i[k]",
        r"\frac{\partial L}{\partial x_{m,k}} = \frac{\partial L}{\partial z_k}"
        r" \frac{\partial z_k}{\partial x_{m,k}} = \frac{\partial L}{\partial z_k} \prod_{i \ne m} x_{i,k}",
        "Chain rule with (multiply.2).",
        (
            lambda s: derivative(lambda x: sum(s.dL_dz * forward(*x)), s.x),
            lambda s: s.dL_dz * _dz_dx(s),
            lambda s: s.dL_dz * _others(s),
        ),
    ),
    Equation(
        "multiply.4",
        "∂L/∂x_m[k] = ∂L/∂z[k] z[k] / x_m[k]",
        r"\frac{\partial L}{\partial x_{m,k}} = \frac{\partial L}{\partial z_k} \frac{z_k}{x_{m,k}}",
        "The product of the others is z without one factor; this fails where that factor is 0.",
        (lambda s: s.dL_dz * _others(s), lambda s: s.dL_dz * forward(*s.x) / s.x),
        computed=False,
    ),
)
