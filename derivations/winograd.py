"""Winograd's convolution: a 3 x 3 convolution in a quarter of the multiplications, and its chain rule.

Four neighbouring outputs of a row, y[k] = Σ_i w[i] d[k+i], take 3 x 4 = 12 products. Six are enough. The transposed
task, the coefficients s = B ((G w) ⊙ (A y)) of the product of two polynomials with coefficients w and y, shows how:
evaluate both at six points (G and A), multiply value by value, and find the polynomial of degree 5 that has these
values (B). Read backwards, the same three matrices give y[k] as in (winograd.1). The points are 0, 1, -1, 2, -2 and
infinity, where a polynomial's value is its highest coefficient; with them all numbers of A and B are small integers.

In two dimensions rows and columns are transformed one after the other: 36 products for a tile T of 4 x 4 outputs, which
took 144. The transforms of pixels and outputs are additions and shifts, those of the weights are made once for all
tiles; they pay where many channels and filters share them. A tile reads 6 x 6 pixels, x_T[c,i,j] = x[c, h + i - p,
q + j - p] with (h, q) its first output; x is 0 outside the image, and of a tile that reaches over the edge only the
outputs inside are kept. The weights are those of the convolution (``conv2d``), so are the results, and stride and
dilation are 1.

Everything is bilinear, so the backward pass is the transposed transforms: A carries the gradient to the points, G
carries it back to the weights, and the gradient of the input is once more a convolution.

Sources
-------
S. Winograd, "Arithmetic Complexity of Computations", SIAM, 1980; A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks", arXiv:1509.09308, section 4.3, for these points and matrices. The lecture notes do not
have it.

Worked example
--------------
Six pixels and three weights give four outputs, 1·1 + 2·2 + 3·0 = 5 and so on, by six products:

>>> d, w = [1, 2, 0, -1, 3, 1], [1, 2, 3]
>>> [sum(w[i] * d[k + i] for i in range(3)) for k in range(4)]
[5, -1, 7, 8]
>>> at_points = [sum(G[m][i] * w[i] for i in range(3)) * sum(B[j][m] * d[j] for j in range(6)) for m in range(6)]
>>> [int(sum(A[m][k] * at_points[m] for m in range(6))) for k in range(4)]
[5, -1, 7, 8]
"""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from . import conv2d
from .conv2d import output_shape
from .notation import Equation, derivative, four_sides, positions, zeros

LETTERS = (
    ("w, d; y", "three weights and six pixels of a row; its four outputs"),
    ("A, G, B", "the constant matrices that evaluate four outputs and three weights at six points, and interpolate"),
    ("k, m", "two of the six points: of the columns and of the rows, where there are both"),
    ("T", "a tile of 4 x 4 outputs; x_T are the pixels that it reads, and (h, q) is its first output"),
    ("V, U, M", "pixels, weights and outputs at the points"),
    ("i, j; i', j'", "row and column in a tile, a window or a kernel; in the kernel, where there are both"),
)

QUARTER, SIXTH, TWELFTH, TWENTY_FOURTH = Fraction(1, 4), Fraction(1, 6), Fraction(1, 12), Fraction(1, 24)

A = ((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1))
G = (
    (QUARTER, 0, 0),
    (-SIXTH, -SIXTH, -SIXTH),
    (-SIXTH, SIXTH, -SIXTH),
    (TWENTY_FOURTH, TWELFTH, SIXTH),
    (TWENTY_FOURTH, -TWELFTH, SIXTH),
    (0, 0, 1),
)
B = (
    (4, 0, 0, 0, 0, 0),
    (0, -4, 4, -2, 2, 4),
    (-5, -4, -4, -1, -1, 0),
    (0, 1, -1, 2, -2, -5),
    (1, 1, 1, 1, 1, 0),
    (0, 0, 0, 0, 0, 1),
)


def sandwich(matrix, x, transposed=False):
    """Return matrix x matrixᵀ, or matrixᵀ x matrix; x may be smaller than the matrix is wide, the rest is 0."""
    size = len(matrix[0]) if transposed else len(matrix)
    result = zeros(size, size)
    for k, m in positions(size, size):
        for i, j in positions(*x.shape):
            left = matrix[i][k] if transposed else matrix[k][i]
            right = matrix[j][m] if transposed else matrix[m][j]
            result[k, m] += left * x[i, j] * right
    return result


def tile(x, h, q, size):
    """Return size x size numbers of one map, from (h, q) on; those outside are 0."""
    result = zeros(size, size)
    for i, j in positions(size, size):
        if 0 <= h + i < x.shape[0] and 0 <= q + j < x.shape[1]:
            result[i, j] = x[h + i, q + j]
    return result


def forward(x, W, b, padding=0):
    """Convolve one sample with every filter.

    Parameters
    ----------
    x : array of shape (C, H, W)
    W : array of shape (O, C, 3, 3)
    b : array of shape (O,)
    padding : int, (rows, columns) or (top, bottom, left, right)

    Returns
    -------
    array of shape (O, P, Q)
    """
    top, _, left, _ = four_sides(padding)
    O, C, _, _ = W.shape
    z = zeros(*output_shape(x.shape, W.shape, 1, padding, 1))
    for o in range(O):
        for h, q in tiles(*z.shape[1:]):
            M = zeros(6, 6)
            for c in range(C):
                V = sandwich(B, tile(x[c], h - top, q - left, 6), transposed=True)  # (winograd.2)
                U = sandwich(G, W[o, c])  # (winograd.3)
                for k, m in positions(6, 6):
                    M[k, m] += U[k, m] * V[k, m]  # (winograd.4)
            z_T = sandwich(A, M, transposed=True)
            for i, j in positions(4, 4):
                if h + i < z.shape[1] and q + j < z.shape[2]:
                    z[o, h + i, q + j] = b[o] + z_T[i, j]  # (winograd.5)
    return z


def backward(dL_dz, x, W, b, padding=0):
    """Gradients of the loss with respect to input, weights and biases, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (O, P, Q)
    x, W, b, padding
        As in :func:`forward`.

    Returns
    -------
    dL_dx, dL_dW, dL_db : arrays of the shapes of x, W, b
    """
    top, bottom, left, right = four_sides(padding)
    O, C, _, _ = W.shape
    dL_dW, dL_db, mirrored = zeros(*W.shape), zeros(*b.shape), zeros(C, O, 3, 3)
    for o in range(O):
        for h, q in positions(*dL_dz.shape[1:]):
            dL_db[o] += dL_dz[o, h, q]
        for c in range(C):
            dL_dU = zeros(6, 6)
            for h, q in tiles(*dL_dz.shape[1:]):
                V = sandwich(B, tile(x[c], h - top, q - left, 6), transposed=True)
                dL_dM = sandwich(A, tile(dL_dz[o], h, q, 4))  # (winograd.6)
                for k, m in positions(6, 6):
                    dL_dU[k, m] += dL_dM[k, m] * V[k, m]  # (winograd.7)
            dL_dW[o, c] = sandwich(G, dL_dU, transposed=True)  # (winograd.8)
            for i, j in positions(3, 3):
                mirrored[c, o, i, j] = W[o, c, 2 - i, 2 - j]
    border = (2 - top, 2 - bottom, 2 - left, 2 - right)
    dL_dx = forward(dL_dz, mirrored, zeros(C), border)  # (winograd.10)
    return dL_dx, dL_dW, dL_db


def tiles(P, Q):
    """Iterate over the first position of every tile of 4 x 4 outputs."""
    for T_h, T_q in positions(-(-P // 4), -(-Q // 4)):
        yield 4 * T_h, 4 * T_q


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: two tiles, the second cut, unequal padding."""
    x, W, b = rng.normal(size=(2, 5, 6)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)
    w, d, dL_dz = rng.normal(size=3), rng.normal(size=6), rng.normal(size=(3, 4, 7))
    return SimpleNamespace(x=x, W=W, b=b, w=w, d=d, dL_dz=dL_dz, padding=(1, 0, 2, 1))


def _z(s, **changed):
    values = {"x": s.x, "W": s.W, "b": s.b} | changed
    return conv2d.forward(**values, padding=s.padding).astype(float)


def _loss(s, **changed):
    return (s.dL_dz * _z(s, **changed)).sum()


def _matrices():
    return (np.array(matrix, dtype=float) for matrix in (A, G, B))


def _in_tiles(x, top, left, size):
    """The numbers of the sample's 1 x 2 tiles, (channels, 1, 2, size, size), by slicing a wide border of zeros."""
    wide = np.pad(x, ((0, 0), (top, 12), (left, 12)))[:, :size]
    return np.stack([wide[:, :, :size], wide[:, :, 4 : 4 + size]], axis=1)[:, None]


def _pixels(s):
    return _in_tiles(s.x, s.padding[0], s.padding[2], 6)


def _V(s):
    _, _, b = _matrices()
    return np.einsum("ik,cuvij,jm->cuvkm", b, _pixels(s), b)


def _U(W):
    _, g, _ = _matrices()
    return np.einsum("ki,ocij,mj->ockm", g, W, g)


def _M(s, U=None):
    return np.einsum("ockm,cuvkm->ouvkm", _U(s.W) if U is None else U, _V(s))


def _cut(s, z):
    """Tiles (O, down, across, 4, 4) laid side by side, without what is over the edge."""
    O, down, across, _, _ = z.shape
    return z.transpose(0, 1, 3, 2, 4).reshape(O, 4 * down, 4 * across)[:, : s.dL_dz.shape[1], : s.dL_dz.shape[2]]


def _z_of(s, M):
    a, _, _ = _matrices()
    return s.b[:, None, None] + _cut(s, np.einsum("ki,ouvkm,mj->ouvij", a, M, a))


def _dL_dM(s):
    a, _, _ = _matrices()
    return np.einsum("ki,ouvij,mj->ouvkm", a, _in_tiles(s.dL_dz, 0, 0, 4), a)


def _dL_dU(s):
    return np.einsum("ouvkm,cuvkm->ockm", _dL_dM(s), _V(s))


def _overlapping(s):
    """B (Σ_o U ⊙ ∂L/∂M) Bᵀ of every tile, added where tiles overlap, without the border: (C, H, W)."""
    _, _, b = _matrices()
    parts = np.einsum("ik,ockm,ouvkm,jm->cuvij", b, _U(s.W), _dL_dM(s), b)
    top, _, left, _ = s.padding
    wide = np.zeros((s.x.shape[0], 20, 20))
    for u, v in np.ndindex(*parts.shape[1:3]):
        wide[:, 4 * u : 4 * u + 6, 4 * v : 4 * v + 6] += parts[:, u, v]
    return wide[:, top : top + s.x.shape[1], left : left + s.x.shape[2]]


def _one_row(s):
    a, g, b = _matrices()
    return a.T @ ((g @ s.w) * (b.T @ s.d))


def _literal_V(s):
    """V by the literal code."""
    pixels = _pixels(s)
    V = np.empty(pixels.shape)
    for place in np.ndindex(*pixels.shape[:3]):
        V[place] = sandwich(B, pixels[place], transposed=True)
    return V


def _mirrored(s):
    """The right side of (winograd.10) by conv2d's literal code."""
    kernel = s.W.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    border = tuple(2 - side for side in s.padding)
    return conv2d.forward(s.dL_dz, kernel, np.zeros(len(kernel)), padding=border).astype(float)


EQUATIONS = (
    Equation(
        "winograd.1",
        "Σ_i w[i] d[k+i] = Σ_m A[m,k] (Σ_i G[m,i] w[i]) (Σ_j B[j,m] d[j])",
        r"\sum_i w_i\, d_{k+i} = \sum_m A_{mk} \Big(\sum_i G_{mi} w_i\Big) \Big(\sum_j B_{jm} d_j\Big)",
        "Multiplying by d and summing over k is the product of two polynomials, found from its values at six points.",
        (lambda s: np.correlate(s.d, s.w, "valid"), _one_row),
        computed=False,
    ),
    Equation(
        "winograd.2",
        "V[c,k,m] = Σ_i Σ_j B[i,k] x_T[c,i,j] B[j,m]",
        r"V_{ckm} = \sum_i \sum_j B_{ik}\, x^T_{cij}\, B_{jm}",
        "Definition, for each tile T: the sum over j in (winograd.1), for the rows and then for the columns.",
        (_V, _literal_V),
    ),
    Equation(
        "winograd.3",
        "U[o,c,k,m] = Σ_i Σ_j G[k,i] W[o,c,i,j] G[m,j]",
        r"U_{ockm} = \sum_i \sum_j G_{ki}\, W_{ocij}\, G_{mj}",
        "Definition: the sum over i in (winograd.1), for both directions; all tiles and samples share it.",
        (lambda s: _U(s.W), lambda s: np.array([[sandwich(G, w) for w in row] for row in s.W], dtype=float)),
    ),
    Equation(
        "winograd.4",
        "M[o,k,m] = Σ_c U[o,c,k,m] V[c,k,m]",
        r"M_{okm} = \sum_c U_{ockm} V_{ckm}",
        "Channels add up before the way back, which is linear: one transform for a filter, not one for each channel.",
        (_M, lambda s: (_U(s.W)[:, :, None, None] * _V(s)).sum(axis=1)),
    ),
    Equation(
        "winograd.5",
        "z[o, h+i, q+j] = b[o] + Σ_k Σ_m A[k,i] M[o,k,m] A[m,j] = b[o] + Σ_c Σ_i' Σ_j' W[o,c,i',j'] x_T[c,i+i',j+j']",
        r"z_{o,\, h+i,\, q+j} = b_o + \sum_k \sum_m A_{ki}\, M_{okm}\, A_{mj}"
        r" = b_o + \sum_c \sum_{i'} \sum_{j'} W_{oci'j'}\, x^T_{c,\, i+i',\, j+j'}",
        "(winograd.1) in both directions: what comes back is the convolution (conv2d.1) of the tile.",
        (
            lambda s: forward(s.x, s.W, s.b, s.padding).astype(float),
            lambda s: _z_of(s, _M(s)),
            _z,
        ),
    ),
    Equation(
        "winograd.6",
        "∂L/∂M[o,k,m] = Σ_i Σ_j A[k,i] ∂L/∂z[o, h+i, q+j] A[m,j]",
        r"\frac{\partial L}{\partial M_{okm}} = \sum_i \sum_j A_{ki}"
        r" \frac{\partial L}{\partial z_{o,\, h+i,\, q+j}} A_{mj}",
        "In (winograd.5) M[o,k,m] reaches the output (i, j) of its tile with the factor A[k,i] A[m,j].",
        (lambda s: derivative(lambda M: (s.dL_dz * _z_of(s, M)).sum(), _M(s)), _dL_dM),
    ),
    Equation(
        "winograd.7",
        "∂L/∂U[o,c,k,m] = Σ_T ∂L/∂M[o,k,m] V[c,k,m]",
        r"\frac{\partial L}{\partial U_{ockm}} = \sum_T \frac{\partial L}{\partial M_{okm}} V_{ckm}",
        "U is shared by all tiles, and in each of them it is multiplied by V in (winograd.4).",
        (lambda s: derivative(lambda U: (s.dL_dz * _z_of(s, _M(s, U))).sum(), _U(s.W)), _dL_dU),
    ),
    Equation(
        "winograd.8",
        "∂L/∂W[o,c,i,j] = Σ_k Σ_m G[k,i] ∂L/∂U[o,c,k,m] G[m,j]",
        r"\frac{\partial L}{\partial W_{ocij}} = \sum_k \sum_m G_{ki}"
        r" \frac{\partial L}{\partial U_{ockm}} G_{mj}",
        "The chain rule through (winograd.3); it is the gradient (conv2d.4).",
        (
            lambda s: derivative(lambda W: _loss(s, W=W), s.W),
            lambda s: np.einsum("ki,ockm,mj->ocij", list(_matrices())[1], _dL_dU(s), list(_matrices())[1]),
        ),
    ),
    Equation(
        "winograd.9",
        "∂L/∂x_T[c,i,j] = Σ_k Σ_m B[i,k] (Σ_o U[o,c,k,m] ∂L/∂M[o,k,m]) B[j,m]",
        r"\frac{\partial L}{\partial x^T_{cij}} = \sum_k \sum_m B_{ik} \Big(\sum_o U_{ockm}"
        r" \frac{\partial L}{\partial M_{okm}}\Big) B_{jm}",
        "The chain rule through (winograd.4) and (winograd.2), for one tile; parts of one pixel add up.",
        (lambda s: derivative(lambda x: _loss(s, x=x), s.x), _overlapping),
        computed=False,
    ),
    Equation(
        "winograd.10",
        "∂L/∂x[c,a,b] = Σ_o Σ_i Σ_j W[o,c,2-i,2-j] ∂L/∂z[o, a+i-(2-p), b+j-(2-p)]",
        r"\frac{\partial L}{\partial x_{cab}} = \sum_o \sum_i \sum_j W_{o,c,2-i,2-j}\,"
        r" \frac{\partial L}{\partial z_{o,\, a+i-(2-p),\, b+j-(2-p)}}",
        "(conv2d.7) with i and j counted from the other end: a convolution by the mirrored kernel, in tiles.",
        (lambda s: derivative(lambda x: _loss(s, x=x), s.x), _mirrored),
    ),
)
