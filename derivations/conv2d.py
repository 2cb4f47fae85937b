"""Two-dimensional convolution layer: the same small kernel is laid over every position of the image.

What deep learning calls a convolution is a cross-correlation: the kernel is not flipped. A true convolution
flips it in both directions; its equation is the same with W[o,c,f-1-i,f-1-j]. The distinction does not matter
for learning (the net learns the flipped weights), and it returns in the backward pass: (conv2d.7) is the true
convolution of the upstream gradient with the kernel.

All letters f, s, p, d may differ for rows and columns, and the padding for each side (p is then the padding
above and left). x is 0 outside the image. With G groups, filter o sees only the C/G channels of its own group:
read x[c, …] as x[g C/G + c, …] with g = floor(o G / O), and W has C/G channels.

Sources
-------
S0 9.4 "Training CNN - Layer Table"; S2 "Summary of convolutions" and "Back Propagation w.r.t. weight"; S3
"What is convolution?". A slip is corrected: the layer-to-layer entry of S0's table sums over the positions x, y
of one output map i alone. Every filter reads the input, so the sum must run over i as well; copied literally
the entry loses the gradient of all filters but one. V. Dumoulin and F. Visin, "A guide to convolution arithmetic
for deep learning", arXiv:1603.07285, for (conv2d.2).

Worked examples
---------------
S3's two windows. The notes' first sum of products, and the edge filter that gives 60:

>>> window = np.array([[[3, 0, 1], [2, 6, 2], [2, 4, 1]]], dtype=object)
>>> kernel = np.array([[[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]]], dtype=object)
>>> forward(window, kernel, zeros(1)).tolist()
[[[-3]]]
>>> window = np.array([[[120, 140, 120], [225, 220, 205], [225, 250, 230]]], dtype=object)
>>> kernel = np.array([[[[0, -1, 0], [-1, 4, -1], [0, -1, 0]]]], dtype=object)
>>> forward(window, kernel, zeros(1)).tolist()
[[[60]]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, four_sides, output_size, pair, positions, windows, windows_over, zeros


def output_shape(x_shape, W_shape, stride=1, padding=0, dilation=1):
    """Return (O, P, Q), the shape of the output for one sample."""
    (_, H, B), (O, _, fh, fw) = x_shape, W_shape
    (sh, sw), (top, bottom, left, right), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    return O, output_size(H, fh, sh, top, bottom, dh), output_size(B, fw, sw, left, right, dw)  # (conv2d.2)


def forward(x, W, b, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlate one sample with every filter.

    Parameters
    ----------
    x : array of shape (C, H, W)
    W : array of shape (O, C / groups, fh, fw)
    b : array of shape (O,)
    stride, dilation : int or (rows, columns)
    padding : int, (rows, columns) or (top, bottom, left, right)
    groups : int

    Returns
    -------
    array of shape (O, P, Q)
    """
    (C, H, B), (O, _, fh, fw) = x.shape, W.shape
    (sh, sw), (top, _, left, _), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    z = zeros(*output_shape(x.shape, W.shape, stride, padding, dilation))
    for o, h, q in positions(*z.shape):
        z[o, h, q] = b[o]
        first = o * groups // O * (C // groups)  # first channel of the group of filter o
        for c in range(C // groups):
            for i, row in windows(h, H, fh, sh, top, dh):  # row = s h + d i - p, where it is inside
                for j, column in windows(q, B, fw, sw, left, dw):
                    z[o, h, q] += W[o, c, i, j] * x[first + c, row, column]  # (conv2d.1)
    return z


def backward(dL_dz, x, W, b, stride=1, padding=0, dilation=1, groups=1):
    """Gradients of the loss with respect to input, weights and biases, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (O, P, Q)
    x, W, b, stride, padding, dilation, groups
        As in :func:`forward`.

    Returns
    -------
    dL_dx, dL_dW, dL_db : arrays of the shapes of x, W, b
    """
    (C, H, B), (O, P, Q), (_, _, fh, fw) = x.shape, dL_dz.shape, W.shape
    (sh, sw), (top, _, left, _), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    dL_dx, dL_dW, dL_db = zeros(*x.shape), zeros(*W.shape), zeros(*b.shape)
    for o in range(O):
        first = o * groups // O * (C // groups)
        for h, q in positions(P, Q):
            dL_db[o] += dL_dz[o, h, q]  # (conv2d.5)
            for c in range(C // groups):
                for i, row in windows(h, H, fh, sh, top, dh):
                    for j, column in windows(q, B, fw, sw, left, dw):
                        dL_dW[o, c, i, j] += dL_dz[o, h, q] * x[first + c, row, column]  # (conv2d.4)
        for c, row, column in positions(C // groups, H, B):
            for i, h in windows_over(row, P, fh, sh, top, dh):  # h = (row + p - d i) / s, where it is one
                for j, q in windows_over(column, Q, fw, sw, left, dw):
                    dL_dx[first + c, row, column] += W[o, c, i, j] * dL_dz[o, h, q]  # (conv2d.7)
    return dL_dx, dL_dW, dL_db


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: two groups, unequal strides and dilations."""
    options = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2}
    x, W, b = rng.normal(size=(4, 5, 6)), rng.normal(size=(4, 2, 2, 3)), rng.normal(size=4)
    dL_dz = rng.normal(size=output_shape(x.shape, W.shape, (2, 1), (1, 0, 2, 1), (1, 2)))
    return SimpleNamespace(x=x, W=W, b=b, dL_dz=dL_dz, options=options)


def _z(s, **changed):
    values = {"x": s.x, "W": s.W, "b": s.b} | changed
    return forward(**values, **s.options).astype(float)


def _loss(s, **changed):
    return (s.dL_dz * _z(s, **changed)).sum()


def _padded(s):
    """The input with its border of zeros, and the channels that each filter sees: (O, C/G, rows, columns)."""
    top, bottom, left, right = s.options["padding"]
    x = np.pad(s.x, ((0, 0), (top, bottom), (left, right)))
    G, O = s.options["groups"], len(s.b)
    return np.repeat(x.reshape(G, -1, *x.shape[1:]), O // G, axis=0)


def _patches(s):
    """x[c, s h + d i - p, s q + d j - p] as one array (O, C/G, fh, fw, P, Q), by slicing the padded image."""
    x, (O, C, fh, fw), (_, P, Q) = _padded(s), s.W.shape, s.dL_dz.shape
    (sh, sw), (dh, dw) = s.options["stride"], s.options["dilation"]
    patches = np.empty((O, C, fh, fw, P, Q))
    for i in range(fh):
        for j in range(fw):
            rows, columns = slice(dh * i, dh * i + sh * P, sh), slice(dw * j, dw * j + sw * Q, sw)
            patches[:, :, i, j] = x[:, :, rows, columns][:, :, :P, :Q]
    return patches


def _dz_dx(s):
    return derivative(lambda x: _z(s, x=x), s.x)


def _weights_that_connect(s):
    """∂z[o,h,q]/∂x[c,a,b] by (conv2d.6): for each pair of positions, the weight between them or 0."""
    (O, C, fh, fw), (_, H, B), (_, P, Q) = s.W.shape, s.x.shape, s.dL_dz.shape
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    result = np.zeros((O, P, Q, *s.x.shape))
    for o, h, q, c, i, j in np.ndindex(O, P, Q, C, fh, fw):
        a, b = sh * h + dh * i - top, sw * q + dw * j - left
        if 0 <= a < H and 0 <= b < B:
            result[o, h, q, o * s.options["groups"] // O * C + c, a, b] += s.W[o, c, i, j]
    return result


def _gathered(s):
    """The right side of (conv2d.7), with the upstream gradient spread out by the stride and bordered by zeros."""
    (O, C, fh, fw), (_, H, B), (_, P, Q) = s.W.shape, s.x.shape, s.dL_dz.shape
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    border = 20
    spread = np.zeros((O, sh * P + 2 * border, sw * Q + 2 * border))
    spread[:, border : border + sh * P : sh, border : border + sw * Q : sw] = s.dL_dz
    dL_dx = np.zeros(s.x.shape)
    for o, c, i, j in np.ndindex(O, C, fh, fw):
        rows = slice(border + top - dh * i, border + top - dh * i + H)
        columns = slice(border + left - dw * j, border + left - dw * j + B)
        dL_dx[o * s.options["groups"] // O * C + c] += s.W[o, c, i, j] * spread[o, rows, columns]
    return dL_dx


EQUATIONS = (
    Equation(
        "conv2d.1",
        "z[o,h,q] = b[o] + Σ_c Σ_i Σ_j W[o,c,i,j] x[c, s h + d i - p, s q + d j - p]",
        r"z_{ohq} = b_o + \sum_c \sum_i \sum_j W_{ocij}\, x_{c,\, sh + di - p,\, sq + dj - p}",
        "Definition: the kernel of filter o is laid over the window that belongs to the position (h, q).",
        (_z, lambda s: s.b[:, None, None] + np.einsum("ocij,ocijhq->ohq", s.W, _patches(s))),
    ),
    Equation(
        "conv2d.2",
        "P = floor((H + 2p - d (f - 1) - 1) / s) + 1",
        r"P = \left\lfloor \frac{H + 2p - d(f-1) - 1}{s} \right\rfloor + 1",
        "The last window starts at most d (f - 1) + 1 rows before the end of the padded image; 2p is above plus below.",
        (
            lambda s: _z(s).shape[1],
            lambda s: len(
                range(
                    0,
                    _padded(s).shape[2] - s.options["dilation"][0] * (s.W.shape[2] - 1),
                    s.options["stride"][0],
                )
            ),
        ),
    ),
    Equation(
        "conv2d.3",
        "∂z[o,h,q]/∂W[o,c,i,j] = x[c, s h + d i - p, s q + d j - p]",
        r"\frac{\partial z_{ohq}}{\partial W_{ocij}} = x_{c,\, sh + di - p,\, sq + dj - p}",
        "In (conv2d.1) the weight occurs once in every output of its filter, multiplied by this pixel.",
        (
            lambda s: np.einsum("ohqocij->ocijhq", derivative(lambda W: _z(s, W=W), s.W)),
            _patches,
        ),
        computed=False,
    ),
    Equation(
        "conv2d.4",
        "∂L/∂W[o,c,i,j] = Σ_h Σ_q ∂L/∂z[o,h,q] ∂z[o,h,q]/∂W[o,c,i,j]"
        " = Σ_h Σ_q ∂L/∂z[o,h,q] x[c, s h + d i - p, s q + d j - p]",
        r"\frac{\partial L}{\partial W_{ocij}} = \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r" \frac{\partial z_{ohq}}{\partial W_{ocij}} = \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r"\, x_{c,\, sh + di - p,\, sq + dj - p}",
        "Weight sharing: one weight works at every position (h, q), so its gradient is the sum over all of them.",
        (
            lambda s: derivative(lambda W: _loss(s, W=W), s.W),
            lambda s: np.einsum("ohq,ohqocij->ocij", s.dL_dz, derivative(lambda W: _z(s, W=W), s.W)),
            lambda s: np.einsum("ohq,ocijhq->ocij", s.dL_dz, _patches(s)),
        ),
    ),
    Equation(
        "conv2d.5",
        "∂L/∂b[o] = Σ_h Σ_q ∂L/∂z[o,h,q]",
        r"\frac{\partial L}{\partial b_o} = \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}",
        "The bias is added at every position with factor 1.",
        (lambda s: derivative(lambda b: _loss(s, b=b), s.b), lambda s: s.dL_dz.sum(axis=(1, 2))),
    ),
    Equation(
        "conv2d.6",
        "∂z[o,h,q]/∂x[c,a,b] = Σ_i Σ_j W[o,c,i,j] [s h + d i - p=a] [s q + d j - p=b]",
        r"\frac{\partial z_{ohq}}{\partial x_{cab}} = \sum_i \sum_j W_{ocij}\, [sh + di - p = a]\,"
        r" [sq + dj - p = b]",
        "The pixel (a, b) reaches the output (h, q) through the one weight whose place in the window it fills, if any.",
        (_dz_dx, _weights_that_connect),
        computed=False,
    ),
    Equation(
        "conv2d.7",
        "∂L/∂x[c,a,b] = Σ_o Σ_h Σ_q ∂L/∂z[o,h,q] ∂z[o,h,q]/∂x[c,a,b]"
        " = Σ_o Σ_i Σ_j W[o,c,i,j] ∂L/∂z[o, (a + p - d i) / s, (b + p - d j) / s]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_o \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r" \frac{\partial z_{ohq}}{\partial x_{cab}} = \sum_o \sum_i \sum_j W_{ocij}\,"
        r" \frac{\partial L}{\partial z_{o,\, (a + p - di)/s,\, (b + p - dj)/s}}",
        "Each bracket of (conv2d.6) leaves one h and one q; a term counts where both are whole numbers inside the map.",
        (
            lambda s: derivative(lambda x: _loss(s, x=x), s.x),
            lambda s: np.einsum("ohq,ohqcab->cab", s.dL_dz, _dz_dx(s)),
            _gathered,
        ),
    ),
)
