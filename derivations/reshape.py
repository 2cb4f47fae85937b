"""Reshape layer: the values of a sample stay as they are and get other positions.

Both shapes are read in row-major order, the last index fastest, and number k of the one becomes number k of
the other: x⟨k⟩ stands for value number k of x. It is the inverse of Flatten where the target is an image (a
column of 784 values becomes 1 x 28 x 28), and Flatten itself where the target has one dimension. A reshape is
no transposition: the values keep their order, and only the places where a line ends move.

One of the sizes may be -1; it is then whatever is left, (reshape.1). |x| is the number of values of x, and
D_1, D_2, ... are the sizes of z, D_m the one that is left open.

Sources
-------
S3 "Input layer" (from 28 x 28 to (1, 784)) for the way there; the way back is not in the notes. Row-major
order and -1 as in NumPy, Keras and PyTorch.

Worked example
--------------
Six values in two rows, then in three:

>>> x = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=object)
>>> forward(x, shape=(3, 2)).tolist()
[[1, 2], [3, 4], [5, 6]]
>>> forward(x, shape=(-1,)).tolist()  # flatten
[1, 2, 3, 4, 5, 6]
>>> forward(zeros(784), shape=(1, 28, -1)).shape
(1, 28, 28)

Every gradient goes back to the place of its value:

>>> backward(np.array([[10, 20], [30, 40], [50, 60]], dtype=object), x, shape=(3, 2))[0].tolist()
[[[10, 20, 30], [40, 50, 60]]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (
    ("k, l", "numbers of values in row-major order: x⟨k⟩ is value number k of x"),
    ("|x|", "number of values of x"),
    ("D_m, D_i", "sizes of z; D_m is the one that is left open"),
)


def sizes(size, shape):
    """Return the target shape with its -1, if it has one, replaced by the size left open."""
    known = 1
    for D in shape:
        if D != -1:
            known *= D
    open_size = size // known  # (reshape.1)
    full = tuple(open_size if D == -1 else D for D in shape)
    if known * (open_size if -1 in shape else 1) != size:
        raise ValueError(f"reshape: {size} values do not fit the shape {shape}")
    return full


def forward(x, *, shape):
    """Give the values of one sample other positions.

    Parameters
    ----------
    x : array of any shape
    shape : tuple of int
        Of the result; one size may be -1.

    Returns
    -------
    array of this shape
    """
    shape = sizes(x.size, shape)
    z = zeros(*shape)
    for place, position in zip(positions(*shape), positions(*x.shape)):  # number k of z, and of x
        z[place] = x[position]  # (reshape.2)
    return z


def backward(dL_dz, x, *, shape):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of the shape of the result
    x, shape
        As in :func:`forward`; of x only the shape matters.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    dL_dx = zeros(*x.shape)
    for place, position in zip(positions(*sizes(x.size, shape)), positions(*x.shape)):
        dL_dx[position] = dL_dz[place]  # (reshape.4)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: (2, 3, 4) becomes (6, 4), one size left open."""
    return SimpleNamespace(x=rng.normal(size=(2, 3, 4)), dL_dz=rng.normal(size=(6, 4)), shape=(6, -1))


def _z(s, x=None):
    return forward(s.x if x is None else x, shape=s.shape)


def _dz_dx(s):
    """∂z⟨l⟩/∂x⟨k⟩ from its definition, a matrix."""
    return derivative(lambda x: _z(s, x).reshape(24), s.x).reshape(24, 24)


EQUATIONS = (
    Equation(
        "reshape.1",
        "D_m = |x| / Π_{i≠m} D_i",
        r"D_m = \frac{|x|}{\prod_{i \ne m} D_i}",
        "No value is lost or made: the sizes of z must have the product |x|, and all but one are known.",
        (lambda s: _z(s).shape[1], lambda s: s.x.size / s.shape[0]),
    ),
    Equation(
        "reshape.2",
        "z⟨k⟩ = x⟨k⟩",
        r"z_{\langle k \rangle} = x_{\langle k \rangle}",
        "Definition: both shapes are read row by row, and value number k stays value number k.",
        (lambda s: [_z(s)[k // 4, k % 4] for k in range(24)], lambda s: list(s.x.flat)),
    ),
    Equation(
        "reshape.3",
        "∂z⟨l⟩/∂x⟨k⟩ = [l=k]",
        r"\frac{\partial z_{\langle l \rangle}}{\partial x_{\langle k \rangle}} = [l = k]",
        "By (reshape.2) x⟨k⟩ occurs in one z alone, with factor 1.",
        (_dz_dx, lambda s: np.eye(24)),
        computed=False,
    ),
    Equation(
        "reshape.4",
        "∂L/∂x⟨k⟩ = Σ_l ∂L/∂z⟨l⟩ ∂z⟨l⟩/∂x⟨k⟩ = ∂L/∂z⟨k⟩",
        r"\frac{\partial L}{\partial x_{\langle k \rangle}} = \sum_l \frac{\partial L}{\partial z_{\langle l \rangle}}"
        r" \frac{\partial z_{\langle l \rangle}}{\partial x_{\langle k \rangle}}"
        r" = \frac{\partial L}{\partial z_{\langle k \rangle}}",
        "Chain rule with (reshape.3): the gradient is reshaped back.",
        (
            lambda s: derivative(lambda x: (s.dL_dz * _z(s, x)).sum(), s.x).reshape(24),
            lambda s: s.dL_dz.reshape(24) @ _dz_dx(s),
            lambda s: list(s.dL_dz.flat),
        ),
    ),
)
