"""Concatenation layer: the channels of M inputs one after another, as the channels of one image.

An Inception module looks at one image with several convolutions at once (1 x 1, 3 x 3, 5 x 5) and a pooling,
and stacks all their feature maps: the depths add up, rows and columns must agree. Flat inputs are stacked in
the same way, feature after feature. Nothing is computed. The backward pass cuts the gradient where the
forward pass has glued, so each branch gets the gradient of its own feature maps.

x_m is input number m and C_m its number of channels, with m = 1, ..., M; O is the number of channels of z, and
o_m the first of them that belongs to x_m. Channels are counted from 0. For flat inputs a, b are left out.

Sources
-------
S3 "Inception Modules" ("concatenates depth of all of the outputs"); S1 "GoogLeNet – Inception Module". S3
adds that "Inception modules reduce dimensionality". It is not the concatenation that does so, for it makes
the image deeper, but the 1 x 1 convolutions in front of the larger ones. The sizes of the last example are
those of the paper that S1 cites, C. Szegedy et al., "Going Deeper with Convolutions", 2015, table 1, row
inception (3a).

Worked example
--------------
Two channels of one row each, and one such channel:

>>> x_1, x_2 = np.array([[[1, 2]], [[3, 4]]], dtype=object), np.array([[[5, 6]]], dtype=object)
>>> forward(x_1, x_2).tolist()
[[[1, 2]], [[3, 4]], [[5, 6]]]
>>> dL_dz = np.array([[[10, 20]], [[30, 40]], [[50, 60]]], dtype=object)
>>> dL_dx_1, dL_dx_2 = backward(dL_dz, x_1, x_2)
>>> dL_dx_1.tolist(), dL_dx_2.tolist()
([[[10, 20]], [[30, 40]]], [[[50, 60]]])

The four branches of GoogLeNet's first Inception module, with feature maps of 28 x 28 pixels:

>>> forward(*(zeros(C, 28, 28) for C in (64, 128, 32, 32))).shape
(256, 28, 28)
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (
    ("x_m, C_m; i", "input number m; number of its channels; number of an input before it"),
    ("O, o; o_m", "number of channels of z; one of them; the first one that belongs to x_m"),
)


def forward(*x):
    """Put the channels of the inputs one after another, for one sample.

    Parameters
    ----------
    *x : arrays of shape (C_m, H, W), or (C_m,)

    Returns
    -------
    array of shape (O, H, W), or (O,)
    """
    O = 0
    for x_m in x:
        O += len(x_m)  # (concat.1)
    z, o = zeros(O, *x[0].shape[1:]), 0
    for x_m in x:
        for c, *pixel in positions(*x_m.shape):
            z[o + c, *pixel] = x_m[c, *pixel]  # (concat.3)
        o += len(x_m)  # (concat.2)
    return z


def backward(dL_dz, *x):
    """Gradient of the loss with respect to every input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (O, H, W), or (O,)
    *x
        As in :func:`forward`; only their shapes matter.

    Returns
    -------
    tuple of arrays, dL/dx_m for one input after the other
    """
    gradients, o = [], 0
    for x_m in x:
        dL_dx_m = zeros(*x_m.shape)
        for c, *pixel in positions(*x_m.shape):
            dL_dx_m[c, *pixel] = dL_dz[o + c, *pixel]  # (concat.5)
        o += len(x_m)
        gradients += [dL_dx_m]
    return tuple(gradients)


DEPTHS = (2, 1, 3)  # of the inputs in the sample


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: three images of 2 x 2 pixels."""
    x = [rng.normal(size=(C, 2, 2)) for C in DEPTHS]
    return SimpleNamespace(x=x, dL_dz=rng.normal(size=(sum(DEPTHS), 2, 2)))


def _by_input(s, function):
    """function(x_m) for each input while the others stay, and its derivatives; channels of all m one after another."""
    return [derivative(lambda x, m=m: function(forward(*s.x[:m], x, *s.x[m + 1 :])), x_m) for m, x_m in enumerate(s.x)]


def _dz_dx(s):
    """∂z[o,h,q]/∂x_m[c,a,b] from its definition, with (m, c) as one index: (O, 2, 2, O, 2, 2)."""
    return np.concatenate(_by_input(s, lambda z: z), axis=3)


def _starts(s):
    """o_m for every input, found by looking for its first value in z."""
    z = forward(*s.x)
    return [next(o for o in range(len(z)) if z[o, 0, 0] == x_m[0, 0, 0]) for x_m in s.x]


EQUATIONS = (
    Equation(
        "concat.1",
        "O = Σ_m C_m",
        r"O = \sum_m C_m",
        "Definition: z has all channels of all inputs.",
        (lambda s: len(forward(*s.x)), lambda s: sum(DEPTHS)),
    ),
    Equation(
        "concat.2",
        "o_m = Σ_{i<m} C_i",
        r"o_m = \sum_{i < m} C_i",
        "Definition: the channels of x_m come after those of all inputs before it.",
        (_starts, lambda s: [sum(DEPTHS[:m]) for m in range(3)]),
    ),
    Equation(
        "concat.3",
        "z[o_m + c,a,b] = x_m[c,a,b]",
        r"z_{o_m + c,\, ab} = x_{m, cab}",
        "Definition: channel c of x_m, pixel by pixel.",
        (lambda s: forward(*s.x), lambda s: np.concatenate(s.x)),
    ),
    Equation(
        "concat.4",
        "∂z[o,h,q]/∂x_m[c,a,b] = [o=o_m + c] [h=a] [q=b]",
        r"\frac{\partial z_{ohq}}{\partial x_{m, cab}} = [o = o_m + c]\, [h = a]\, [q = b]",
        "By (concat.3) x_m[c,a,b] occurs in one z alone, with factor 1.",
        (_dz_dx, lambda s: np.einsum("oc,ha,qb->ohqcab", np.eye(6), np.eye(2), np.eye(2))),
        computed=False,
    ),
    Equation(
        "concat.5",
        "∂L/∂x_m[c,a,b] = Σ_o Σ_h Σ_q ∂L/∂z[o,h,q] ∂z[o,h,q]/∂x_m[c,a,b] = ∂L/∂z[o_m + c,a,b]",
        r"\frac{\partial L}{\partial x_{m, cab}} = \sum_o \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r" \frac{\partial z_{ohq}}{\partial x_{m, cab}} = \frac{\partial L}{\partial z_{o_m + c,\, ab}}",
        "Chain rule with (concat.4), of whose sums one term is left: the gradient is cut apart again.",
        (
            lambda s: np.concatenate(_by_input(s, lambda z: (s.dL_dz * z).sum())),
            lambda s: np.einsum("ohq,ohqcab->cab", s.dL_dz, _dz_dx(s)),
            lambda s: np.concatenate([s.dL_dz[o : o + C] for o, C in zip((0, 2, 3), DEPTHS, strict=True)]),
        ),
    ),
)
