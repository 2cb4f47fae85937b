"""Max pooling layer: of every window only the largest value is kept, channel by channel.

There is nothing to learn. The gradient of an output belongs to the one pixel that won its window, and the
other pixels of the window, which could change a little without any effect, get nothing.

f, s, p may differ for rows and columns, and the padding for each side (p is then the padding above and left);
stride None means s = f, windows side by side. The number of windows is (conv2d.2) with d = 1. Two
conventions, both PyTorch's: the border is -∞, not 0, so that it never wins, and a window must hold at least
one pixel; of equal values the first in row-major order wins, which is a choice of a subgradient, as at the
kink of a ReLU.

a*, b* is the position of the winner; it depends on c, h, q.

Sources
-------
S1 "Pooling Layer"; S2 "Pooling" and "From Pooling to Conv layer ..."; S3 "Max Pooling Vs Average Pooling"
(windows of 2 x 2 with stride 2 make a map of 4 x 4 one of 2 x 2); S4 "Pooling Operation". The paper on
AlexNet that S1 cites has overlapping windows (3 x 3, stride 2).

Worked example
--------------
The image of S2's average pooling. Each gradient goes to its winner:

>>> x = np.array([[[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]], dtype=object)
>>> forward(x, size=2).tolist()
[[[9, 2], [6, 3]]]
>>> backward(np.array([[[10, 20], [30, 40]]], dtype=object), x, size=2)[0].tolist()
[[[0, 0, 20, 0], [0, 10, 0, 0], [0, 0, 0, 40], [0, 30, 0, 0]]]

With 3 x 3 windows and stride 1 the 9 wins twice above and twice below, and its gradients add up:

>>> forward(x, size=3, stride=1).tolist()
[[[9, 9], [9, 9]]]
>>> backward(np.array([[[10, 20], [30, 40]]], dtype=object), x, size=3, stride=1)[0][0, 1, 1]
100
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, four_sides, output_size, pair, positions, windows, zeros

LETTERS = (("a*, b*", "position of the largest value of the window (h, q) of channel c"),)


def winner(plane, h, q, size, stride, sides):
    """Return the position (row, column) of the largest value in the window (h, q) of one channel."""
    (H, B), best = plane.shape, None
    for _, row in windows(h, H, size[0], stride[0], sides[0]):  # row = s h + i - p, where it is inside
        for _, column in windows(q, B, size[1], stride[1], sides[2]):
            value = plane[row, column]
            if best is None or value > plane[best] or value != value:  # NaN differs from itself, and wins
                best = row, column
    if best is None:
        raise ValueError(f"maxpool2d: window ({h}, {q}) of {size} holds no pixel, expected at least one")
    return best


def forward(x, size, stride=None, padding=0):
    """Keep the largest value of every window of one sample.

    Parameters
    ----------
    x : array of shape (C, H, W)
    size : int or (rows, columns)
    stride : int or (rows, columns), optional
        By default the size.
    padding : int, (rows, columns) or (top, bottom, left, right)

    Returns
    -------
    array of shape (C, P, Q)
    """
    (C, H, B), f, s = x.shape, pair(size), pair(size if stride is None else stride)
    top, bottom, left, right = sides = four_sides(padding)
    z = zeros(C, output_size(H, f[0], s[0], top, bottom), output_size(B, f[1], s[1], left, right))
    for c, h, q in positions(*z.shape):
        row, column = winner(x[c], h, q, f, s, sides)
        z[c, h, q] = x[c, row, column]  # (maxpool2d.1)
    return z


def backward(dL_dz, x, size, stride=None, padding=0):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C, P, Q)
    x, size, stride, padding
        As in :func:`forward`.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    f, s, sides = pair(size), pair(size if stride is None else stride), four_sides(padding)
    dL_dx = zeros(*x.shape)
    for c, h, q in positions(*dL_dz.shape):
        row, column = winner(x[c], h, q, f, s, sides)
        dL_dx[c, row, column] += dL_dz[c, h, q]  # (maxpool2d.3)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with overlapping windows.

    All values are negative, so that a border of zeros would win.
    """
    options = {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}
    x, dL_dz = -rng.uniform(1, 9, size=(2, 6, 5)), rng.normal(size=(2, 3, 5))
    return SimpleNamespace(x=x, dL_dz=dL_dz, options=options)


def _z(s, x=None):
    return forward(s.x if x is None else x, **s.options)


def _windows(s):
    """All windows of the image in its border of -∞, one row of values for each: (C, P, Q, f f)."""
    (fh, fw), (sh, sw), (top, bottom, left, right) = s.options.values()
    x = np.pad(s.x, ((0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(x, (fh, fw), axis=(1, 2))[:, ::sh, ::sw]
    return view.reshape(*view.shape[:3], fh * fw)


def _winners(s):
    """Return a* and b* for every output (c, h, q)."""
    (_, fw), (sh, sw), (top, _, left, _) = s.options.values()
    _, h, q = np.indices(s.dL_dz.shape)
    i, j = np.divmod(_windows(s).argmax(axis=3), fw)
    return sh * h + i - top, sw * q + j - left


def _dz_dx(s):
    """[a=a*] [b=b*] for every output (c, h, q) and every pixel (a, b) of the same channel."""
    (a, b), (_, H, B) = _winners(s), s.x.shape
    return np.einsum("chqa,chqb->chqab", np.eye(H)[a], np.eye(B)[b])


EQUATIONS = (
    Equation(
        "maxpool2d.1",
        "z[c,h,q] = max_i max_j x[c, s h + i - p, s q + j - p] = x[c,a*,b*]",
        r"z_{chq} = \max_i \max_j x_{c,\, sh + i - p,\, sq + j - p} = x_{c a^* b^*}",
        "Definition: of the window that belongs to (h, q) the largest value, which stands at (a*, b*).",
        (
            _z,
            lambda s: _windows(s).max(axis=3),
            lambda s: s.x[(np.indices(s.dL_dz.shape)[0], *_winners(s))],
        ),
    ),
    Equation(
        "maxpool2d.2",
        "∂z[c,h,q]/∂x[c,a,b] = [a=a*] [b=b*]",
        r"\frac{\partial z_{chq}}{\partial x_{cab}} = [a = a^*]\, [b = b^*]",
        "As long as the winner stays the winner, z is a copy of it and the other pixels do not matter.",
        (lambda s: np.einsum("chqcab->chqab", derivative(lambda x: _z(s, x), s.x)), _dz_dx),
        computed=False,
    ),
    Equation(
        "maxpool2d.3",
        "∂L/∂x[c,a,b] = Σ_h Σ_q ∂L/∂z[c,h,q] ∂z[c,h,q]/∂x[c,a,b] = Σ_h Σ_q ∂L/∂z[c,h,q] [a=a*] [b=b*]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_h \sum_q \frac{\partial L}{\partial z_{chq}}"
        r" \frac{\partial z_{chq}}{\partial x_{cab}} = \sum_h \sum_q \frac{\partial L}{\partial z_{chq}}"
        r"\, [a = a^*]\, [b = b^*]",
        "Chain rule with (maxpool2d.2): a pixel collects the gradients of all windows that it has won.",
        (
            lambda s: derivative(lambda x: (s.dL_dz * _z(s, x)).sum(), s.x),
            lambda s: np.einsum("chq,chqcab->cab", s.dL_dz, derivative(lambda x: _z(s, x), s.x)),
            lambda s: np.einsum("chq,chqab->cab", s.dL_dz, _dz_dx(s)),
        ),
    ),
)
