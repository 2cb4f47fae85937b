"""Dense (fully connected) layer: every output is a weighted sum of every input.

Sources
-------
S0 9.2 and the "Layers to x Properties Table" (layer to weight, layer to bias, layer to layer); S3 "Feed
forward process". The notes write the activation function into the layer, p_i = f(Σ_j W_ij h_j + b_i); here it
is a layer of its own, so that each has one derivative.

Worked example
--------------
S3's matrix product, (3 4 2) times a 3 x 3 matrix. The notes print x = 83, y = 63, z = 37 with
``x = 3·13 + 4·9 + 2·6`` and a matrix whose second row starts with 8; with the matrix as printed the first
number is 3·13 + 4·8 + 2·6:

>>> A = [[13, 9, 7], [8, 7, 4], [6, 4, 0]]
>>> W = np.array(A, dtype=object).T                       # z = W x: the columns of A are the rows of W
>>> forward(np.array([3, 4, 2], dtype=object), W, zeros(3)).tolist()
[83, 63, 37]
>>> A[1][0] = 9                                           # the sum as the notes write it, with a 9
>>> forward(np.array([3, 4, 2], dtype=object), np.array(A, dtype=object).T, zeros(3)).tolist()
[87, 63, 37]

The 784-512-512-10 network of S3 has 669,706 parameters:

>>> sum(inputs * outputs + outputs for inputs, outputs in ((784, 512), (512, 512), (512, 10)))
669706
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, zeros


def forward(x, W, b):
    """z = W x + b for one sample.

    Parameters
    ----------
    x : array of shape (J,)
    W : array of shape (I, J)
    b : array of shape (I,)

    Returns
    -------
    array of shape (I,)
    """
    I, J = W.shape
    z = zeros(I)
    for i in range(I):
        z[i] = b[i]
        for j in range(J):
            z[i] += W[i, j] * x[j]  # (dense.1)
    return z


def backward(dL_dz, x, W, b):
    """Gradients of the loss with respect to the input and both parameters, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (I,)
    x, W, b
        As in :func:`forward`.

    Returns
    -------
    dL_dx, dL_dW, dL_db : arrays of shape (J,), (I, J), (I,)
    """
    I, J = W.shape
    dL_dx, dL_dW, dL_db = zeros(J), zeros(I, J), zeros(I)
    for i in range(I):
        dL_db[i] = dL_dz[i]  # (dense.5)
        for j in range(J):
            dL_dW[i, j] = dL_dz[i] * x[j]  # (dense.4)
            dL_dx[j] += W[i, j] * dL_dz[i]  # (dense.6)
    return dL_dx, dL_dW, dL_db


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    I, J = 3, 4
    x, W, b, dL_dz = rng.normal(size=J), rng.normal(size=(I, J)), rng.normal(size=I), rng.normal(size=I)
    return SimpleNamespace(x=x, W=W, b=b, dL_dz=dL_dz, I=I, J=J)


def _loss(s, **changed):
    """L of a loss whose gradient with respect to z is s.dL_dz: any smooth loss looks so close by."""
    values = {"x": s.x, "W": s.W, "b": s.b} | changed
    return sum(s.dL_dz * forward(**values))


def _dz_dW(s):
    return derivative(lambda W: forward(s.x, W, s.b), s.W)


EQUATIONS = (
    Equation(
        "dense.1",
        "z[i] = Σ_j W[i,j] x[j] + b[i]",
        r"z_i = \sum_j W_{ij} x_j + b_i",
        "Definition: every output i is a weighted sum of all inputs j plus a bias; in matrices z = W x + b.",
        (lambda s: forward(s.x, s.W, s.b), lambda s: s.W @ s.x + s.b),
    ),
    Equation(
        "dense.2",
        "∂L/∂W[i,j] = Σ_k ∂L/∂z[k] ∂z[k]/∂W[i,j]",
        r"\frac{\partial L}{\partial W_{ij}} = \sum_k \frac{\partial L}{\partial z_k}"
        r" \frac{\partial z_k}{\partial W_{ij}}",
        "Chain rule: a weight acts on the loss through the outputs, so sum over all of them.",
        (
            lambda s: derivative(lambda W: _loss(s, W=W), s.W),
            lambda s: np.einsum("k,kij->ij", s.dL_dz, _dz_dW(s)),
        ),
        computed=False,
    ),
    Equation(
        "dense.3",
        "∂z[k]/∂W[i,j] = [k=i] x[j]",
        r"\frac{\partial z_k}{\partial W_{ij}} = [k=i]\, x_j",
        "In (dense.1) the weight W[i,j] occurs in output i alone, multiplied by x[j].",
        (_dz_dW, lambda s: np.einsum("ki,j->kij", np.eye(s.I), s.x)),
        computed=False,
    ),
    Equation(
        "dense.4",
        "∂L/∂W[i,j] = ∂L/∂z[i] x[j]",
        r"\frac{\partial L}{\partial W_{ij}} = \frac{\partial L}{\partial z_i}\, x_j",
        "(dense.3) in (dense.2): the bracket leaves the term k = i. In matrices dL/dW = dL/dz xᵀ.",
        (lambda s: derivative(lambda W: _loss(s, W=W), s.W), lambda s: np.outer(s.dL_dz, s.x)),
    ),
    Equation(
        "dense.5",
        "∂L/∂b[i] = ∂L/∂z[i]",
        r"\frac{\partial L}{\partial b_i} = \frac{\partial L}{\partial z_i}",
        "The bias is a weight whose input is always 1: put x[j] = 1 in (dense.4).",
        (lambda s: derivative(lambda b: _loss(s, b=b), s.b), lambda s: s.dL_dz),
    ),
    Equation(
        "dense.6",
        "∂L/∂x[j] = Σ_i ∂L/∂z[i] ∂z[i]/∂x[j] = Σ_i W[i,j] ∂L/∂z[i]",
        r"\frac{\partial L}{\partial x_j} = \sum_i \frac{\partial L}{\partial z_i}"
        r" \frac{\partial z_i}{\partial x_j} = \sum_i W_{ij} \frac{\partial L}{\partial z_i}",
        "Chain rule over all outputs, as every one of them reads x[j]. In matrices dL/dx = Wᵀ dL/dz.",
        (
            lambda s: derivative(lambda x: _loss(s, x=x), s.x),
            lambda s: s.dL_dz @ derivative(lambda x: forward(x, s.W, s.b), s.x),
            lambda s: s.W.T @ s.dL_dz,
        ),
    ),
)
