"""Flatten layer: the numbers of all feature maps in one column, ready for a dense layer.

The order is row-major, the last index fastest: first the rows of channel 0 one after another, then channel 1.
Nothing is computed, so the backward pass puts every gradient back where its value came from. Position k has
the digits c, a, b in a number system of mixed radix, and the code builds it as one reads a number, digit by
digit (Horner's scheme); so it takes any other number of dimensions as well.

Sources
-------
S3 "Input layer" (28 x 28 becomes 784), "Drawbacks of MLPs" and "Putting convolutional & pooling together"
(5·5·40 = 1,000); S2 "Problems with MLP", "Model Construction" (Flatten). A slip is corrected: S3 calls the
inputs of the example below x_1 … x_6; there are sixteen.

Worked example
--------------
S3's white square on a black background. Once flattened, its neighbours are four places apart:

>>> image = np.array([[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], dtype=object)
>>> forward(image).tolist()
[1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
>>> len(forward(zeros(40, 5, 5)))
1000
>>> backward(forward(image), image)[0].tolist() == image.tolist()
True
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros


def place(position, shape):
    """Return k, where the value at this position of an array of this shape goes: k = (c H + a) W + b."""
    k = 0
    for digit, radix in zip(position, shape, strict=True):
        k = k * radix + digit
    return k


def forward(x):
    """Put all values of one sample in a column.

    Parameters
    ----------
    x : array of shape (C, H, W)

    Returns
    -------
    array of shape (C H W,)
    """
    z = zeros(x.size)
    for position in positions(*x.shape):
        z[place(position, x.shape)] = x[position]  # (flatten.1)
    return z


def backward(dL_dz, x):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C H W,)
    x : array
        As in :func:`forward`; only its shape matters.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    dL_dx = zeros(*x.shape)
    for position in positions(*x.shape):
        dL_dx[position] = dL_dz[place(position, x.shape)]  # (flatten.2)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(x=rng.normal(size=(2, 3, 4)), dL_dz=rng.normal(size=24))


def _gathered(s, column):
    """column[(c H + a) W + b] for every c, a, b."""
    (C, H, B) = s.x.shape
    c, a, b = np.meshgrid(np.arange(C), np.arange(H), np.arange(B), indexing="ij")
    return column[(c * H + a) * B + b]


EQUATIONS = (
    Equation(
        "flatten.1",
        "z[(c H + a) W + b] = x[c,a,b]",
        r"z_{(cH + a)W + b} = x_{cab}",
        "Definition: before (c, a, b) lie c whole channels of H W values, a whole rows of W, and b values.",
        (lambda s: _gathered(s, forward(s.x)), lambda s: s.x),
    ),
    Equation(
        "flatten.2",
        "∂L/∂x[c,a,b] = Σ_k ∂L/∂z[k] ∂z[k]/∂x[c,a,b] = ∂L/∂z[(c H + a) W + b]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_k \frac{\partial L}{\partial z_k}"
        r" \frac{\partial z_k}{\partial x_{cab}} = \frac{\partial L}{\partial z_{(cH + a)W + b}}",
        "Chain rule: by (flatten.1) x[c,a,b] occurs in one z alone, with factor 1.",
        (
            lambda s: derivative(lambda x: sum(s.dL_dz * forward(x)), s.x),
            lambda s: np.einsum("k,kcab->cab", s.dL_dz, derivative(forward, s.x)),
            lambda s: _gathered(s, s.dL_dz),
        ),
    ),
)
