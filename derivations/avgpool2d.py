"""Average pooling layer: every window is replaced by its mean, channel by channel.

There is nothing to learn. It is a convolution of each channel by itself, with a kernel whose weights are all
1 / (f_h f_w). So its backward pass is that of a convolution, and every pixel of a window gets an equal share
of the window's gradient.

f_h, f_w are rows and columns of the window; s, p may differ for rows and columns, and the padding for each
side (p is then the padding above and left); stride None means s = f, windows side by side. x is 0 outside the
image, and these zeros count: the sum is always divided by the full size of the window (PyTorch's default,
``count_include_pad=True``). The number of windows is (conv2d.2) with d = 1. Global average pooling is the
window f_h = H, f_w = W.

Sources
-------
S1 "Pooling Layer"; S2 "Pooling layer: Average pooling"; S3 "Max Pooling Vs Average Pooling" and "Global
Average Pooling". A slip is corrected: the converted text of S2's example reads 7 for the last mean, and s=7
below it. It is (2 + 3 + 1 + 2) / 4 = 2, and the stride is 2.

Worked example
--------------
>>> x = np.array([[[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]], dtype=object)
>>> forward(x, size=2).tolist()
[[[3.75, 1.25], [4.0, 2.0]]]
>>> backward(np.array([[[4, 8], [12, 16]]], dtype=object), x, size=2)[0].tolist()
[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]]]
>>> forward(x, size=(4, 4)).tolist()                                             # global average pooling
[[[2.75]]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, four_sides, output_size, pair, positions, windows, zeros

LETTERS = (("f_h, f_w", "rows and columns of a window"),)


def forward(x, size, stride=None, padding=0):
    """Replace every window of one sample by its mean.

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
    (C, H, B), (fh, fw) = x.shape, pair(size)
    (sh, sw), (top, bottom, left, right) = pair(size if stride is None else stride), four_sides(padding)
    z = zeros(C, output_size(H, fh, sh, top, bottom), output_size(B, fw, sw, left, right))
    for c, h, q in positions(*z.shape):
        for _, row in windows(h, H, fh, sh, top):  # row = s h + i - p, where it is inside
            for _, column in windows(q, B, fw, sw, left):
                z[c, h, q] += x[c, row, column] / (fh * fw)  # (avgpool2d.1)
    return z


def backward(dL_dz, x, size, stride=None, padding=0):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C, P, Q)
    x, size, stride, padding
        As in :func:`forward`; of x only the shape matters.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    (_, H, B), (fh, fw) = x.shape, pair(size)
    (sh, sw), (top, _, left, _) = pair(size if stride is None else stride), four_sides(padding)
    dL_dx = zeros(*x.shape)
    for c, h, q in positions(*dL_dz.shape):
        for _, row in windows(h, H, fh, sh, top):
            for _, column in windows(q, B, fw, sw, left):
                dL_dx[c, row, column] += dL_dz[c, h, q] / (fh * fw)  # (avgpool2d.3)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with overlapping windows."""
    options = {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}
    return SimpleNamespace(x=rng.normal(size=(2, 6, 5)), dL_dz=rng.normal(size=(2, 3, 5)), options=options)


def _z(s, x=None):
    return forward(s.x if x is None else x, **s.options)


def _windows(s):
    """All windows of the image in its border of zeros: (C, P, Q, f_h, f_w)."""
    (fh, fw), (sh, sw), (top, bottom, left, right) = s.options.values()
    x = np.pad(s.x, ((0, 0), (top, bottom), (left, right)))
    return np.lib.stride_tricks.sliding_window_view(x, (fh, fw), axis=(1, 2))[:, ::sh, ::sw]


def _reached(outputs, n, f, s, before):
    """Σ_i [s h + i - p=a] for every output h and input a of a line: 1 where window h reaches pixel a."""
    first = s * np.arange(outputs)[:, None] - before
    return (first <= np.arange(n)) & (np.arange(n) < first + f)


def _brackets(s):
    """Σ_i [s h + i - p=a] for the rows, and Σ_j [s q + j - p=b] for the columns."""
    (fh, fw), (sh, sw), (top, _, left, _) = s.options.values()
    (_, H, B), (_, P, Q) = s.x.shape, s.dL_dz.shape
    return _reached(P, H, fh, sh, top).astype(float), _reached(Q, B, fw, sw, left).astype(float)


def _scattered(s):
    """Every upstream gradient / (f_h f_w), laid over its window of the padded image without its border."""
    (fh, fw), (sh, sw), (top, bottom, left, right) = s.options.values()
    (C, H, B), (_, P, Q) = s.x.shape, s.dL_dz.shape
    padded = np.zeros((C, top + H + bottom, left + B + right))
    for i, j in np.ndindex(fh, fw):
        padded[:, i : i + sh * P : sh, j : j + sw * Q : sw] += s.dL_dz / (fh * fw)
    return padded[:, top : top + H, left : left + B]


EQUATIONS = (
    Equation(
        "avgpool2d.1",
        "z[c,h,q] = 1 / (f_h f_w) Σ_i Σ_j x[c, s h + i - p, s q + j - p]",
        r"z_{chq} = \frac{1}{f_h f_w} \sum_i \sum_j x_{c,\, sh + i - p,\, sq + j - p}",
        "Definition: the mean of the window that belongs to (h, q), with zeros outside the image.",
        (_z, lambda s: _windows(s).mean(axis=(3, 4))),
    ),
    Equation(
        "avgpool2d.2",
        "∂z[c,h,q]/∂x[c,a,b] = 1 / (f_h f_w) Σ_i [s h + i - p=a] Σ_j [s q + j - p=b]",
        r"\frac{\partial z_{chq}}{\partial x_{cab}} = \frac{1}{f_h f_w} \sum_i [sh + i - p = a]"
        r" \sum_j [sq + j - p = b]",
        "In (avgpool2d.1) the pixel (a, b) occurs once if the window (h, q) reaches it, and otherwise not.",
        (
            lambda s: np.einsum("chqcab->chqab", derivative(lambda x: _z(s, x), s.x)),
            lambda s: np.einsum("ha,qb,c->chqab", *_brackets(s), np.ones(2)) / 6,
        ),
        computed=False,
    ),
    Equation(
        "avgpool2d.3",
        "∂L/∂x[c,a,b] = 1 / (f_h f_w) Σ_h Σ_q ∂L/∂z[c,h,q] Σ_i [s h + i - p=a] Σ_j [s q + j - p=b]",
        r"\frac{\partial L}{\partial x_{cab}} = \frac{1}{f_h f_w} \sum_h \sum_q"
        r" \frac{\partial L}{\partial z_{chq}} \sum_i [sh + i - p = a] \sum_j [sq + j - p = b]",
        "Chain rule with (avgpool2d.2): a pixel collects one share from every window that reaches it.",
        (lambda s: derivative(lambda x: (s.dL_dz * _z(s, x)).sum(), s.x), _scattered),
    ),
)
