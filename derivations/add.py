"""Add layer: the element-wise sum of M branches of the graph, and its mirror image, the fan-out.

x_m is the input from branch number m; k runs over the elements, whatever their shape. Forward, branches are
added; backward, each of them gets the whole gradient. Where one value y is read by several layers it is the
other way round: forward, it is copied; backward, the gradients of the copies y_m are added (add.4).

Together they make the skip connection of a ResNet, z = f(x) + x: the input x fans out to f and to the sum, so
its gradient is the one that comes back through f plus dL/dz itself. However small the former, the latter
arrives undiminished; that is why very deep residual networks can be trained.

Sources
-------
S3 "ResNet" (relu(f(x) + x), "allows the gradient to be directly backpropagated"); S1 "Deep Residual
Networks"; S0, "Layers to x Properties Table" (layer to layer: the sum over all readers). The line of Keras
code in S3, ``Add([x, x_shortcut])``, lacks a pair of parentheses: ``Add()([x, x_shortcut])``.

Worked example
--------------
A skip connection around f(x) = 3 x: z = 3 x + x, so dL/dx is 4 times dL/dz.

>>> x = np.array([1, 2], dtype=object)
>>> forward(3 * x, x).tolist()
[4, 8]
>>> dL_df, dL_dskip = backward(np.array([10, 100], dtype=object), 3 * x, x)
>>> fan_out(3 * dL_df, dL_dskip).tolist()                     # through f, and past it
[40, 400]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (
    ("x_m", "input number m"),
    ("y, y_m", "a value that several layers read; the copy that reader m has"),
)


def forward(*inputs):
    """Return the sum of the inputs, element by element.

    Parameters
    ----------
    *inputs : arrays of one shape

    Returns
    -------
    array of the same shape
    """
    z = zeros(*inputs[0].shape)
    for x in inputs:
        for k in positions(*x.shape):
            z[k] += x[k]  # (add.1)
    return z


def backward(dL_dz, *inputs):
    """Gradient of the loss with respect to every input.

    Parameters
    ----------
    dL_dz : array of the shape of each input
    *inputs
        As in :func:`forward`; only their number and shape matter.

    Returns
    -------
    tuple of arrays, dL/dx for one input after the other
    """
    gradients = []
    for x in inputs:
        dL_dx = zeros(*x.shape)
        for k in positions(*x.shape):
            dL_dx[k] = dL_dz[k]  # (add.3)
        gradients += [dL_dx]
    return tuple(gradients)


def fan_out(*dL_dy):
    """Gradient of the loss with respect to a value that several layers read.

    Parameters
    ----------
    *dL_dy : arrays of one shape
        The gradient that each of the readers sends back.

    Returns
    -------
    array of the same shape
    """
    total = zeros(*dL_dy[0].shape)
    for dL_dy_m in dL_dy:
        for k in positions(*total.shape):
            total[k] += dL_dy_m[k]  # (add.4)
    return total


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: three inputs, three readers of y."""
    return SimpleNamespace(x=rng.normal(size=(3, 4)), dL_dz=rng.normal(size=4), y=rng.normal(size=4))


def _loss_of_three_readers(y_1, y_2, y_3):
    """L as a function of the three copies of y; the first two meet again later on."""
    return np.sum(y_1**2 * y_2 + np.sin(y_3))


EQUATIONS = (
    Equation(
        "add.1",
        "z[k] = Σ_m x_m[k]",
        r"z_k = \sum_m x_{m,k}",
        "Definition.",
        (lambda s: forward(*s.x), lambda s: s.x.sum(axis=0)),
    ),
    Equation(
        "add.2",
        "∂z[k]/∂x_m[k] = 1",
        r"\frac{\partial z_k}{\partial x_{m,k}} = 1",
        "Every input occurs in (add.1) once, with factor 1.",
        (
            lambda s: np.einsum("kmk->mk", derivative(lambda x: forward(*x), s.x)),
            lambda s: np.ones(s.x.shape),
        ),
        computed=False,
    ),
    Equation(
        "add.3",
        "∂L/∂x_m[k] = ∂L/∂z[k] ∂z[k]/∂x_m[k] = ∂L/∂z[k]",
        r"\frac{\partial L}{\partial x_{m,k}} = \frac{\partial L}{\partial z_k}"
        r" \frac{\partial z_k}{\partial x_{m,k}} = \frac{\partial L}{\partial z_k}",
        "Chain rule with (add.2): all inputs get the same gradient, whole and unchanged.",
        (
            lambda s: derivative(lambda x: sum(s.dL_dz * forward(*x)), s.x),
            lambda s: s.dL_dz * np.einsum("kmk->mk", derivative(lambda x: forward(*x), s.x)),
            lambda s: np.tile(s.dL_dz, (3, 1)),
        ),
    ),
    Equation(
        "add.4",
        "∂L/∂y[k] = Σ_m ∂L/∂y_m[k] ∂y_m[k]/∂y[k] = Σ_m ∂L/∂y_m[k]",
        r"\frac{\partial L}{\partial y_k} = \sum_m \frac{\partial L}{\partial y_{m,k}}"
        r" \frac{\partial y_{m,k}}{\partial y_k} = \sum_m \frac{\partial L}{\partial y_{m,k}}",
        "Chain rule over all readers: reader m has a copy y_m of y, which changes as y does, with slope 1.",
        (
            lambda s: derivative(lambda y: _loss_of_three_readers(y, y, y), s.y),
            lambda s: np.einsum(
                "mk,mk->k",
                derivative(lambda copies: _loss_of_three_readers(*copies), np.tile(s.y, (3, 1))),
                np.einsum("mkk->mk", derivative(lambda y: np.tile(y, (3, 1)), s.y)),
            ),
            lambda s: 2 * s.y * s.y + s.y**2 + np.cos(s.y),
        ),
    ),
)
