"""Transposed convolution layer: every input pixel lays the kernel, multiplied by its value, onto the output.

A convolution reads a window and writes one number; this layer reads one number and writes a window. Where
windows overlap they add up, (conv_transpose2d.1). With stride s the windows lie s pixels apart, so the map
grows by about the factor s: this is how a fully convolutional network comes back to the size of its image.

Both layers are linear (apart from the bias), and the matrix of one is the transpose of the matrix of the
other, (conv_transpose2d.4). So its forward pass has the form of the backward pass of a convolution, and its
backward pass is a convolution. It does not undo a convolution, although it is also called "deconvolution".

All letters f, s, p, d may differ for rows and columns, and the padding for each side. Conventions are
PyTorch's: W has the shape (C, O/G, f, f), input channels first; the padding p cuts rows and columns off the
output, above and left in the formulas; r (``output_padding``) makes the output r rows longer at the bottom and
r columns at the right, with r < s, since s sizes of an output belong to one size of an input. A term counts
where its position is inside the image; an output that no window reaches is b[o]. With G groups, channel c
reaches only the O/G filters of its own group: read z[o, …] as z[g O/G + o, …] with g = floor(c G / C).

Special kernels, each used with stride s: s x s ones repeat every pixel s x s times. For even s, a kernel of 2s x 2s
numbers u[i] u[j] with u[i] = 1 - |i - s + 1/2| / s, i = 0 … 2s - 1, and p = s/2 interpolates bilinearly, as in the
paper of J. Long and others. Where f is not a multiple of s, some outputs lie under more windows than others: a
checkerboard that the weights have to learn away.

Sources
-------
S0, "Buzzword List" ("Fully convolutional networks", without a formula) and "Further Reading", which names V. Dumoulin
and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285: its chapter 4 is on this layer.
J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic segmentation", arXiv:1411.4038.

Worked examples
---------------
Two pixels and a kernel of three weights, two steps apart: 1·(1 10 100) and 2·(1 10 100) meet in the middle.

>>> x, W = np.array([[[1, 2]]], dtype=object), np.array([[[[1, 10, 100]]]], dtype=object)
>>> z = forward(x, W, zeros(1), stride=2)
>>> z.tolist()
[[[1, 10, 102, 20, 200]]]

The convolution with the same W multiplies by the matrix with the rows (1 10 100 0 0) and (0 0 1 10 100), and this
layer by its transpose. So the two scalar products are equal:

>>> y = np.array([[[3, 1, 4, 1, 5]]], dtype=object)
>>> (y * z).sum(), (conv2d.forward(y, W, zeros(1), stride=2) * x).sum()
(1441, 1441)

Bilinear interpolation of the row 0 1 2 to twice its size, in quarters; at the right end it runs out to the 0 outside:

>>> x, W = np.array([[[0, 1, 2]]], dtype=object), np.array([[[[1, 3, 3, 1]]]], dtype=object)
>>> forward(x, W, zeros(1), stride=(1, 2), padding=(0, 1)).tolist()
[[[0, 1, 3, 5, 7, 6]]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from . import conv2d
from .notation import Equation, derivative, four_sides, pair, positions, windows, windows_over, zeros

LETTERS = (
    ("r", "output padding: how many rows (columns) more the output has at the bottom (at the right)"),
    ("y, conv(y)", "any numbers of the shape of z; their convolution with W, without a bias"),
)


def output_shape(x_shape, W_shape, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Return (O, P, Q), the shape of the output for one sample."""
    (_, H, B), (_, O_g, fh, fw) = x_shape, W_shape
    (sh, sw), (top, bottom, left, right), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    rh, rw = pair(output_padding)
    P = (H - 1) * sh + dh * (fh - 1) + 1 - top - bottom + rh  # (conv_transpose2d.2)
    Q = (B - 1) * sw + dw * (fw - 1) + 1 - left - right + rw  # (conv_transpose2d.2)
    return groups * O_g, P, Q


def forward(x, W, b, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Add up the kernels that the pixels of one sample lay onto the output.

    Parameters
    ----------
    x : array of shape (C, H, W)
    W : array of shape (C, O / groups, fh, fw)
    b : array of shape (O,)
    stride, output_padding, dilation : int or (rows, columns)
    padding : int, (rows, columns) or (top, bottom, left, right)
    groups : int

    Returns
    -------
    array of shape (O, P, Q)
    """
    (C, H, B), (_, O_g, fh, fw) = x.shape, W.shape
    (sh, sw), (top, _, left, _), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    z = zeros(*output_shape(x.shape, W.shape, stride, padding, output_padding, dilation, groups))
    for o, h, q in positions(*z.shape):
        z[o, h, q] = b[o]
        g = o // O_g  # the group of filter o
        for c in range(g * C // groups, (g + 1) * C // groups):
            for i, row in windows_over(h, H, fh, sh, top, dh):  # row = (h + p - d i) / s, where it is one
                for j, column in windows_over(q, B, fw, sw, left, dw):
                    z[o, h, q] += W[c, o - g * O_g, i, j] * x[c, row, column]  # (conv_transpose2d.3)
    return z


def backward(dL_dz, x, W, b, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Gradients of the loss with respect to input, weights and biases, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (O, P, Q)
    x, W, b, stride, padding, output_padding, dilation, groups
        As in :func:`forward`.

    Returns
    -------
    dL_dx, dL_dW, dL_db : arrays of the shapes of x, W, b
    """
    (C, H, B), (O, P, Q), (_, O_g, fh, fw) = x.shape, dL_dz.shape, W.shape
    (sh, sw), (top, _, left, _), (dh, dw) = pair(stride), four_sides(padding), pair(dilation)
    dL_dx, dL_dW, dL_db = zeros(*x.shape), zeros(*W.shape), zeros(*b.shape)
    for c, row, column in positions(C, H, B):
        first = c * groups // C * O_g  # first filter of the group of channel c
        for o in range(O_g):
            for i, h in windows(row, P, fh, sh, top, dh):  # h = s a + d i - p, where it is inside
                for j, q in windows(column, Q, fw, sw, left, dw):
                    dL_dx[c, row, column] += W[c, o, i, j] * dL_dz[first + o, h, q]  # (conv_transpose2d.7)
                    dL_dW[c, o, i, j] += x[c, row, column] * dL_dz[first + o, h, q]  # (conv_transpose2d.10)
    for o, h, q in positions(O, P, Q):
        dL_db[o] += dL_dz[o, h, q]  # (conv_transpose2d.11)
    return dL_dx, dL_dW, dL_db


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: two groups, unequal strides and dilations."""
    options = {"stride": (3, 2), "padding": (1, 0, 2, 1), "output_padding": (2, 1), "dilation": (2, 1), "groups": 2}
    x, W, b = rng.normal(size=(4, 3, 4)), rng.normal(size=(4, 2, 2, 3)), rng.normal(size=4)
    shape = output_shape(x.shape, W.shape, **options)
    return SimpleNamespace(x=x, W=W, b=b, dL_dz=rng.normal(size=shape), y=rng.normal(size=shape), options=options)


def _z(s, **changed):
    values = {"x": s.x, "W": s.W, "b": s.b} | changed
    return forward(**values, **s.options).astype(float)


def _loss(s, **changed):
    return (s.dL_dz * _z(s, **changed)).sum()


def _pairs(s):
    """Every (c, o, filter): channel, filter within its group, and filter."""
    (C, O_g, _, _), G = s.W.shape, s.options["groups"]
    return [(c, o, c // (C // G) * O_g + o) for c, o in np.ndindex(C, O_g)]


def _scattered(s):
    """(conv_transpose2d.1): every kernel laid onto an output without padding, which is then cut to its size."""
    (_, H, B), (_, _, fh, fw), (O, P, Q) = s.x.shape, s.W.shape, s.dL_dz.shape
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    whole = np.zeros((O, top + P + 20, left + Q + 20))
    for c, o, filter in _pairs(s):
        for i, j in np.ndindex(fh, fw):
            whole[filter, dh * i : dh * i + sh * H : sh, dw * j : dw * j + sw * B : sw] += s.W[c, o, i, j] * s.x[c]
    return s.b[:, None, None] + whole[:, top : top + P, left : left + Q]


def _last_row(s):
    """The row behind the last one that the last pixel's kernel reaches, counted in the output before it is cut."""
    (fh, _), (sh, _), (dh, _) = s.W.shape[2:], s.options["stride"], s.options["dilation"]
    return max(sh * row + dh * i for row in range(s.x.shape[1]) for i in range(fh)) + 1


def _spread(s):
    """x[c, (h + p - d i) / s, (q + p - d j) / s] (C, fh, fw, P, Q): x with gaps of zeros, shifted for i, j."""
    (C, H, B), (_, _, fh, fw), (_, P, Q) = s.x.shape, s.W.shape, s.dL_dz.shape
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    border = 20
    gaps = np.zeros((C, sh * H + P + 2 * border, sw * B + Q + 2 * border))
    gaps[:, border : border + sh * H : sh, border : border + sw * B : sw] = s.x
    spread = np.empty((C, fh, fw, P, Q))
    for i, j in np.ndindex(fh, fw):
        row, column = border + top - dh * i, border + left - dw * j
        spread[:, i, j] = gaps[:, row : row + P, column : column + Q]
    return spread


def _gathered(s):
    z, spread = s.b[:, None, None] + np.zeros(s.dL_dz.shape), _spread(s)
    for c, o, filter in _pairs(s):
        z[filter] += np.einsum("ij,ijhq->hq", s.W[c, o], spread[c])
    return z


def _convolution(s, y):
    """The convolution of an image of the shape of z with the same W, without a bias: (conv2d.1)."""
    options = {name: s.options[name] for name in ("stride", "padding", "dilation", "groups")}
    return conv2d.forward(y, s.W, zeros(len(s.x)), **options).astype(float)


def _weights_that_connect(s):
    """∂z[o,h,q]/∂x[c,a,b] by (conv_transpose2d.5): for each pair of positions, the weight between them or 0."""
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    (_, P, Q), result = s.dL_dz.shape, np.zeros((*s.dL_dz.shape, *s.x.shape))
    for c, o, filter in _pairs(s):
        for i, j, a, b in np.ndindex(*s.W.shape[2:], *s.x.shape[1:]):
            h, q = sh * a + dh * i - top, sw * b + dw * j - left
            if 0 <= h < P and 0 <= q < Q:
                result[filter, h, q, c, a, b] += s.W[c, o, i, j]
    return result


def _dz_dx(s):
    return derivative(lambda x: _z(s, x=x), s.x)


def _dz_dW(s):
    """∂z[o,h,q]/∂W[c,o,i,j] with the filter of the weight itself: (C, O/G, fh, fw, P, Q)."""
    whole = derivative(lambda W: _z(s, W=W), s.W)
    own = [whole[filter, :, :, c, o] for c, o, filter in _pairs(s)]  # (P, Q, fh, fw)
    return np.moveaxis(np.array(own).reshape(*s.W.shape[:2], *own[0].shape), (2, 3), (4, 5))


def _dL_dz_of(s):
    """∂L/∂z of the filters that each channel reaches: (C, O/G, P, Q)."""
    return np.array([s.dL_dz[filter] for _, _, filter in _pairs(s)]).reshape(*s.W.shape[:2], *s.dL_dz.shape[1:])


def _under_the_weight(s):
    """Σ_a Σ_b x[c,a,b] ∂L/∂z[o, s a + d i - p, s b + d j - p], by slicing dL/dz in a border of zeros."""
    (C, H, B), (_, O_g, fh, fw) = s.x.shape, s.W.shape
    (sh, sw), (top, _, left, _), (dh, dw) = s.options["stride"], s.options["padding"], s.options["dilation"]
    padded = np.pad(_dL_dz_of(s), ((0, 0), (0, 0), (top, 20), (left, 20)))
    result = np.empty((C, O_g, fh, fw))
    for i, j in np.ndindex(fh, fw):
        reached = padded[:, :, dh * i : dh * i + sh * H : sh, dw * j : dw * j + sw * B : sw]
        result[:, :, i, j] = np.einsum("cab,coab->co", s.x, reached)
    return result


EQUATIONS = (
    Equation(
        "conv_transpose2d.1",
        "z[o,h,q] = b[o] + Σ_c Σ_a Σ_b Σ_i Σ_j W[c,o,i,j] x[c,a,b] [s a + d i - p=h] [s b + d j - p=q]",
        r"z_{ohq} = b_o + \sum_c \sum_a \sum_b \sum_i \sum_j W_{coij}\, x_{cab}\, [sa + di - p = h]\,"
        r" [sb + dj - p = q]",
        "Definition: the pixel (a, b) lays its value times the weight (i, j) onto (s a + d i - p, s b + d j - p).",
        (_z, _scattered),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.2",
        "P = (H - 1) s + d (f - 1) + 1 - 2p + r",
        r"P = (H - 1)\, s + d (f - 1) + 1 - 2p + r",
        "The last pixel starts at (H - 1) s and reaches d (f - 1) rows further; 2p rows are cut off (above plus"
        " below), r rows more are kept.",
        (
            lambda s: _z(s).shape[1],
            lambda s: _last_row(s) - sum(s.options["padding"][:2]) + s.options["output_padding"][0],
        ),
    ),
    Equation(
        "conv_transpose2d.3",
        "z[o,h,q] = b[o] + Σ_c Σ_i Σ_j W[c,o,i,j] x[c, (h + p - d i) / s, (q + p - d j) / s]",
        r"z_{ohq} = b_o + \sum_c \sum_i \sum_j W_{coij}\, x_{c,\, (h + p - di)/s,\, (q + p - dj)/s}",
        "Each bracket of (conv_transpose2d.1) leaves one a and one b; a term counts where both are whole numbers"
        " inside the image.",
        (_z, _gathered),
    ),
    Equation(
        "conv_transpose2d.4",
        "Σ_o Σ_h Σ_q y[o,h,q] (z[o,h,q] - b[o]) = Σ_c Σ_a Σ_b conv(y)[c,a,b] x[c,a,b]",
        r"\sum_o \sum_h \sum_q y_{ohq} (z_{ohq} - b_o) = \sum_c \sum_a \sum_b \mathrm{conv}(y)_{cab}\, x_{cab}",
        "For any y of the shape of z: put in (conv_transpose2d.1) and sum over h and q first; x[c,a,b] is then"
        " multiplied by the convolution (conv2d.1) of y with W, no bias: this layer is the transpose of that one.",
        (
            lambda s: (s.y * (_z(s) - s.b[:, None, None])).sum(),
            lambda s: (_convolution(s, s.y) * s.x).sum(),
        ),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.5",
        "∂z[o,h,q]/∂x[c,a,b] = Σ_i Σ_j W[c,o,i,j] [s a + d i - p=h] [s b + d j - p=q]",
        r"\frac{\partial z_{ohq}}{\partial x_{cab}} = \sum_i \sum_j W_{coij}\, [sa + di - p = h]\,"
        r" [sb + dj - p = q]",
        "In (conv_transpose2d.1) the pixel occurs in an output once for every weight that it lays there.",
        (_dz_dx, _weights_that_connect),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.6",
        "∂L/∂x[c,a,b] = Σ_o Σ_h Σ_q ∂L/∂z[o,h,q] ∂z[o,h,q]/∂x[c,a,b]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_o \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r" \frac{\partial z_{ohq}}{\partial x_{cab}}",
        "Chain rule: a pixel acts on the loss through all outputs that it reaches.",
        (
            lambda s: derivative(lambda x: _loss(s, x=x), s.x),
            lambda s: np.einsum("ohq,ohqcab->cab", s.dL_dz, _dz_dx(s)),
        ),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.7",
        "∂L/∂x[c,a,b] = Σ_o Σ_i Σ_j W[c,o,i,j] ∂L/∂z[o, s a + d i - p, s b + d j - p]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_o \sum_i \sum_j W_{coij}\,"
        r" \frac{\partial L}{\partial z_{o,\, sa + di - p,\, sb + dj - p}}",
        "Each bracket of (conv_transpose2d.5) leaves one h and one q: it is the convolution (conv2d.1) of the upstream"
        " gradient with the same W.",
        (
            lambda s: derivative(lambda x: _loss(s, x=x), s.x),
            lambda s: _convolution(s, s.dL_dz),
        ),
    ),
    Equation(
        "conv_transpose2d.8",
        "∂z[o,h,q]/∂W[c,o,i,j] = x[c, (h + p - d i) / s, (q + p - d j) / s]",
        r"\frac{\partial z_{ohq}}{\partial W_{coij}} = x_{c,\, (h + p - di)/s,\, (q + p - dj)/s}",
        "In (conv_transpose2d.3) the weight occurs once in every output of its filter, times this pixel, if any.",
        (_dz_dW, lambda s: np.broadcast_to(_spread(s)[:, None], (*s.W.shape, *s.dL_dz.shape[1:]))),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.9",
        "∂L/∂W[c,o,i,j] = Σ_h Σ_q ∂L/∂z[o,h,q] ∂z[o,h,q]/∂W[c,o,i,j]",
        r"\frac{\partial L}{\partial W_{coij}} = \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}"
        r" \frac{\partial z_{ohq}}{\partial W_{coij}}",
        "Chain rule; weight sharing: one weight works at every position, so its gradient is the sum over all of them.",
        (
            lambda s: derivative(lambda W: _loss(s, W=W), s.W),
            lambda s: np.einsum("cohq,coijhq->coij", _dL_dz_of(s), _dz_dW(s)),
        ),
        computed=False,
    ),
    Equation(
        "conv_transpose2d.10",
        "∂L/∂W[c,o,i,j] = Σ_a Σ_b x[c,a,b] ∂L/∂z[o, s a + d i - p, s b + d j - p]",
        r"\frac{\partial L}{\partial W_{coij}} = \sum_a \sum_b x_{cab}\,"
        r" \frac{\partial L}{\partial z_{o,\, sa + di - p,\, sb + dj - p}}",
        "(conv_transpose2d.8) in (conv_transpose2d.9), counted by the pixel (a, b) that belongs to (h, q); it is"
        " (conv2d.4) with the roles of x and ∂L/∂z exchanged.",
        (lambda s: derivative(lambda W: _loss(s, W=W), s.W), _under_the_weight),
    ),
    Equation(
        "conv_transpose2d.11",
        "∂L/∂b[o] = Σ_h Σ_q ∂L/∂z[o,h,q]",
        r"\frac{\partial L}{\partial b_o} = \sum_h \sum_q \frac{\partial L}{\partial z_{ohq}}",
        "The bias is added at every position with factor 1.",
        (lambda s: derivative(lambda b: _loss(s, b=b), s.b), lambda s: s.dL_dz.sum(axis=(1, 2))),
    ),
)
