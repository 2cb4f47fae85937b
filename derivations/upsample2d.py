"""Upsampling layer: every feature map becomes s times as high and s times as wide, channel by channel.

Pooling makes images smaller; a network that answers pixel by pixel must make them larger again. There is
nothing to learn. Every output pixel is a weighted mean of input pixels, and the weights of its rows and of its
columns can be found independently: u[h,a] says how much row a of the input counts in row h of the
output, and v[q,b] the same for columns. Two methods differ in these weights alone.

- nearest: the output is s x s copies of every pixel.
- bilinear: pixels are squares whose values sit in their centres, that of row a at a + 1/2.
  Counted in rows of the input, from the centre of its first row, the centre of output row h lies
  at y, (upsample2d.3), mostly between two rows, and of these the nearer one counts more. Beyond
  the outermost centres there is nothing to interpolate, so y is clamped, and the border's value
  is repeated. This is what PyTorch calls "align_corners=False", and Keras does the same.

Backward, each input pixel collects the gradients of all output pixels in which it occurs, with the same
weights: the transposed matrices. Since the weights of each output pixel add up to 1, a constant image stays
constant, and the sum of the gradient is neither more nor less after the layer than before, (upsample2d.7).

s is the scale; rows and columns may have different ones, s_h and s_w. P and Q are s_h H and s_w W. The matrix
v follows from the equations of u with W for H, and q, b for h, a. ⌊y⌋ is the largest whole number up to y.

Sources
-------
The notes do not describe it: S0 "Buzzword List" names fully convolutional networks, and those need upsampling. J.
Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015.

Worked example
--------------
Twice as high, three times as wide:

>>> x = np.array([[[1, 2], [3, 4]]], dtype=object)
>>> forward(x, scale=(2, 3)).tolist()
[[[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4], [3, 3, 3, 4, 4, 4]]]
>>> backward(zeros(1, 4, 6) + 1, x, scale=(2, 3))[0].tolist()
[[[6, 6], [6, 6]]]

One row of two pixels, twice as wide. The centres lie at -1/4 (clamped to 0), 1/4, 3/4 and 5/4 (clamped to 1):

>>> row = np.array([[[1, 5]]], dtype=object)
>>> forward(row, scale=(1, 2), method="bilinear").astype(float).tolist()
[[[1.0, 2.0, 4.0, 5.0]]]
>>> dL_dz = np.array([[[1, 10, 100, 1000]]], dtype=object)
>>> (dL_dx,) = backward(dL_dz, row, scale=(1, 2), method="bilinear")
>>> dL_dx.astype(float).tolist()
[[[33.5, 1077.5]]]

The sum of the gradient was 1111, and it still is: 33.5 + 1077.5.
"""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, pair, positions, zeros

LETTERS = (
    ("s", "scale: how many times as many rows (columns) z has"),
    ("u, v", "how much a row (a column) of x counts in a row (a column) of z"),
    ("y", "centre of row h of z, in rows of x from the centre of the first one on"),
)


def weights(h, n, s, method):
    """Return the pairs (a, u[h,a]) for a line of n pixels, where u is not 0; exact numbers."""
    if method == "nearest":
        return [(h // s, 1)]  # (upsample2d.2)
    if method != "bilinear":
        raise ValueError(f'upsample2d: method: got {method!r}, expected "nearest" or "bilinear"')
    y = Fraction(2 * h + 1 - s, 2 * s)  # (upsample2d.3)
    if y < 0:
        y = Fraction(0)
    if y > n - 1:
        y = Fraction(n - 1)
    a = y // 1
    if y == a:
        return [(a, 1)]
    return [(a, 1 - (y - a)), (a + 1, y - a)]  # (upsample2d.4)


def forward(x, *, scale, method="nearest"):
    """Enlarge one sample.

    Parameters
    ----------
    x : array of shape (C, H, W)
    scale : int or (rows, columns)
    method : {"nearest", "bilinear"}

    Returns
    -------
    array of shape (C, P, Q)
    """
    (C, H, B), (s_h, s_w) = x.shape, pair(scale)
    z = zeros(C, s_h * H, s_w * B)
    for c, h, q in positions(*z.shape):
        for a, u in weights(h, H, s_h, method):
            for b, v in weights(q, B, s_w, method):
                z[c, h, q] += u * v * x[c, a, b]  # (upsample2d.1)
    return z


def backward(dL_dz, x, *, scale, method="nearest"):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C, P, Q)
    x, scale, method
        As in :func:`forward`; of x only the shape matters.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    (_, H, B), (s_h, s_w) = x.shape, pair(scale)
    dL_dx = zeros(*x.shape)
    for c, h, q in positions(*dL_dz.shape):
        for a, u in weights(h, H, s_h, method):
            for b, v in weights(q, B, s_w, method):
                dL_dx[c, a, b] += u * v * dL_dz[c, h, q]  # (upsample2d.6)
    return (dL_dx,)


H, W, S_H, S_W = 3, 4, 2, 3  # of the sample


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, twice as high and three times as wide."""
    return SimpleNamespace(x=rng.normal(size=(2, H, W)), dL_dz=rng.normal(size=(2, S_H * H, S_W * W)))


METHODS = ("nearest", "bilinear")


def _z(x, method):
    return forward(x, scale=(S_H, S_W), method=method)


def _stacked(function):
    """function(s, method) for both methods in one array."""
    return lambda s: np.stack([np.asarray(function(s, method), dtype=float) for method in METHODS])


def _used(n, s, method):
    """u[h,a] as the literal code has it, a matrix of n s rows and n columns."""
    u = np.zeros((n * s, n))
    for h in range(n * s):
        for a, weight in weights(h, n, s, method):
            u[h, a] += weight
    return u


def _y(n, s):
    """Centres of the output rows as seen from the input."""
    return (np.arange(n * s) + 1 / 2) / s - 1 / 2


def _copies(n, s):
    """[s a≤h<s a + s] for every h and a."""
    h, first = np.arange(n * s)[:, None], s * np.arange(n)
    return ((first <= h) & (h < first + s)).astype(float)


def _hats(n, s):
    """max(0, 1 - |y - a|) for every h and a, y clamped."""
    return np.maximum(0, 1 - np.abs(np.clip(_y(n, s), 0, n - 1)[:, None] - np.arange(n)))


def _u_v(method):
    """The matrices u and v from their equations."""
    matrix = _copies if method == "nearest" else _hats
    return matrix(H, S_H), matrix(W, S_W)


def _dz_dx(s, method):
    """∂z[c,h,q]/∂x[c,a,b] from its definition; the derivatives by other channels are left out, for they are 0."""
    return np.einsum("chqcab->chqab", derivative(lambda x: _z(x, method), s.x))


def _dL_dx(s, method):
    return derivative(lambda x: (s.dL_dz * _z(x, method)).sum(), s.x)


EQUATIONS = (
    Equation(
        "upsample2d.1",
        "z[c,h,q] = Σ_a Σ_b u[h,a] v[q,b] x[c,a,b]",
        r"z_{chq} = \sum_a \sum_b u_{ha} v_{qb} x_{cab}",
        "Definition: a weighted mean of pixels, rows and columns weighted independently.",
        (
            _stacked(lambda s, method: _z(s.x, method)),
            _stacked(lambda s, method: np.einsum("ha,qb,cab->chq", *_u_v(method), s.x)),
        ),
    ),
    Equation(
        "upsample2d.2",
        "u[h,a] = [a=⌊h / s⌋] = [s a≤h<s a + s]",
        r"u_{ha} = [a = \lfloor h / s \rfloor] = [sa \le h < sa + s]",
        "Nearest: s rows of the output lie inside row a of the input and copy it.",
        (
            lambda s: _used(H, S_H, "nearest"),
            lambda s: np.eye(H)[np.arange(S_H * H) // S_H],
            lambda s: _copies(H, S_H),
        ),
    ),
    Equation(
        "upsample2d.3",
        "y = (h + 1/2) / s - 1/2 = (2 h + 1 - s) / (2 s)",
        r"y = \frac{h + \frac12}{s} - \frac12 = \frac{2h + 1 - s}{2s}",
        "Bilinear: a centre at h + 1/2 is at (h + 1/2) / s in the input; y counts from the centre of row 0, at 1/2.",
        (
            lambda s: np.interp(np.arange(S_H * H) + 0.5, [0, S_H * H], [-0.5, H - 0.5]),
            lambda s: _y(H, S_H),
            lambda s: (2 * np.arange(S_H * H) + 1 - S_H) / (2 * S_H),
        ),
    ),
    Equation(
        "upsample2d.4",
        "u[h,a] = max(0, 1 - |min(max(y, 0), H - 1) - a|)",
        r"u_{ha} = \max(0,\, 1 - |\min(\max(y, 0),\, H - 1) - a|)",
        "Bilinear: between two rows each counts the more, the nearer it is; outside, the border is repeated.",
        (lambda s: _used(H, S_H, "bilinear"), lambda s: _hats(H, S_H)),
    ),
    Equation(
        "upsample2d.5",
        "∂z[c,h,q]/∂x[c,a,b] = u[h,a] v[q,b]",
        r"\frac{\partial z_{chq}}{\partial x_{cab}} = u_{ha} v_{qb}",
        "x[c,a,b] occurs in (upsample2d.1) once, with this factor.",
        (_stacked(_dz_dx), _stacked(lambda s, method: np.einsum("c,ha,qb->chqab", np.ones(2), *_u_v(method)))),
        computed=False,
    ),
    Equation(
        "upsample2d.6",
        "∂L/∂x[c,a,b] = Σ_h Σ_q ∂L/∂z[c,h,q] ∂z[c,h,q]/∂x[c,a,b] = Σ_h Σ_q u[h,a] v[q,b] ∂L/∂z[c,h,q]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_h \sum_q \frac{\partial L}{\partial z_{chq}}"
        r" \frac{\partial z_{chq}}{\partial x_{cab}} = \sum_h \sum_q u_{ha} v_{qb}"
        r" \frac{\partial L}{\partial z_{chq}}",
        "Chain rule with (upsample2d.5): the same weights, but summed over the output.",
        (
            _stacked(_dL_dx),
            _stacked(lambda s, method: np.einsum("chq,chqab->cab", s.dL_dz, _dz_dx(s, method))),
            _stacked(lambda s, method: np.einsum("ha,qb,chq->cab", *_u_v(method), s.dL_dz)),
        ),
    ),
    Equation(
        "upsample2d.7",
        "Σ_a Σ_b ∂L/∂x[c,a,b] = Σ_h Σ_q ∂L/∂z[c,h,q] Σ_a u[h,a] Σ_b v[q,b] = Σ_h Σ_q ∂L/∂z[c,h,q]",
        r"\sum_a \sum_b \frac{\partial L}{\partial x_{cab}} = \sum_h \sum_q"
        r" \frac{\partial L}{\partial z_{chq}} \sum_a u_{ha} \sum_b v_{qb}"
        r" = \sum_h \sum_q \frac{\partial L}{\partial z_{chq}}",
        "By (upsample2d.6), and as the weights of each output row, and of each column, add up to 1.",
        (
            _stacked(lambda s, method: _dL_dx(s, method).sum(axis=(1, 2))),
            _stacked(lambda s, method: np.einsum("chq,ha,qb->c", s.dL_dz, *_u_v(method))),
            _stacked(lambda s, method: s.dL_dz.sum(axis=(1, 2))),
        ),
        computed=False,
    ),
)
