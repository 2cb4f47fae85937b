"""Local response normalization: a channel is damped where its neighbours are strong.

At every pixel by itself, the value of a channel is divided by a power of d, which grows with the squares of the
values in a window of f channels around it. So channels compete: a large value makes the values beside it
smaller. AlexNet has this layer after the ReLU of its first two convolutions; batch normalization has replaced it since.

k, α and β are the letters of the paper below, where f is called n: three given numbers. Here k is no class, α no
learning rate and d no dilation. With k > 0 and α ≥ 0 d is never 0, and with β > 0 a larger d damps more.

Conventions are PyTorch's: α is divided by f; the window of channel c reaches p = floor(f / 2) channels back and
floor((f - 1) / 2) ahead, which matters for an even f; x is 0 outside the channels, and α is divided by the full f
at the edges too. AlexNet's paper does not divide by n: its numbers k = 2, n = 5, α = 1e-4, β = 0.75 are here size=5,
k=2, beta=0.75 and alpha=5e-4.

Everything happens at one pixel (a, b), which the equations leave out: read x[c] as x[c,a,b].

Sources
-------
S1 "Recap: What happened in 2012?" and "Alexnet" cite the paper, and S1's "Frameworks" names a "Normalization layer"
without a formula; S3 "Designing A Baseline Model" lists AlexNet's layers and leaves this one out. A. Krizhevsky,
I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional neural networks", 2012, section 3.3.

Worked example
--------------
Three channels, one pixel, α / f = 1, k = β = 1. The sums of squares are 1 + 4, 1 + 4 + 9 and 4 + 9:

>>> from fractions import Fraction
>>> x = np.array([1, 2, 3], dtype=object).reshape(3, 1, 1)
>>> options = {"size": 3, "alpha": Fraction(3), "beta": 1, "k": 1}
>>> [str(z) for z in forward(x, **options)[:, 0, 0]]
['1/6', '2/15', '3/14']

If the loss asks for less of the first channel, then its own value should fall, and that of its neighbour grow:

>>> dL_dz = np.array([1, 0, 0], dtype=object).reshape(3, 1, 1)
>>> [str(dL_dx) for dL_dx in backward(dL_dz, x, **options)[0][:, 0, 0]]
['1/9', '-1/9', '0']
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, windows, windows_over, zeros

LETTERS = (
    ("k, α, β", "three given numbers: the least d, the weight of the squares, the power"),
    ("d", "what is raised to the power β to divide x"),
    ("f, p; i", "channels in a window; how far it reaches back, floor(f / 2); place in it"),
    ("c, c'", "two channels"),
)


def divisor(x, size, alpha, k):
    """Return d, of the shape of x: a power of it divides the values."""
    C, p, d = len(x), size // 2, zeros(*x.shape)
    for c, row, column in positions(*x.shape):
        total = 0
        for _, channel in windows(c, C, size, 1, p):  # channel = c + i - p, where it is one
            total += x[channel, row, column] * x[channel, row, column]
        d[c, row, column] = k + alpha / size * total  # (local_response_norm.1)
    return d


def forward(x, size, alpha, beta, k):
    """Divide every value of one sample by a power of what its channel's neighbourhood holds.

    Parameters
    ----------
    x : array of shape (C, H, W)
    size : int
        Channels in a window, f.
    alpha, beta, k : number

    Returns
    -------
    array of shape (C, H, W)
    """
    d, z = divisor(x, size, alpha, k), zeros(*x.shape)
    for c, row, column in positions(*x.shape):
        z[c, row, column] = x[c, row, column] / d[c, row, column] ** beta  # (local_response_norm.2)
    return z


def backward(dL_dz, x, size, alpha, beta, k):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C, H, W)
    x, size, alpha, beta, k
        As in :func:`forward`.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    C, p, d, z = len(x), size // 2, divisor(x, size, alpha, k), forward(x, size, alpha, beta, k)
    dL_dd, dL_dx = zeros(*x.shape), zeros(*x.shape)
    for at in positions(*x.shape):
        dL_dd[at] = -beta * dL_dz[at] * z[at] / d[at]  # (local_response_norm.3)
    for c, row, column in positions(*x.shape):
        total = 0
        for _, channel in windows_over(c, C, size, 1, p):  # channel = c + p - i: its window holds c
            total += dL_dd[channel, row, column]
        at = c, row, column
        dL_dx[at] = dL_dz[at] / d[at] ** beta + 2 * alpha / size * x[at] * total  # (local_response_norm.6)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with a window of even size."""
    options = {"size": 4, "alpha": 0.8, "beta": 0.75, "k": 0.5}
    return SimpleNamespace(x=rng.normal(size=(6, 1, 2)), dL_dz=rng.normal(size=(6, 1, 2)), options=options, **options)


def _z(s, x=None):
    return forward(s.x if x is None else x, **s.options).astype(float)


def _loss(s, x=None):
    return (s.dL_dz * _z(s, x)).sum()


def _d(s, x=None):
    return divisor(s.x if x is None else x, s.size, s.alpha, s.k).astype(float)


def _brackets(s):
    """Σ_i [c' + i - p=c] for every c' (rows) and c (columns): 1 where the window of c' holds c."""
    C = len(s.x)
    distance = np.arange(C) - np.arange(C)[:, None]
    return ((-(s.size // 2) <= distance) & (distance <= (s.size - 1) // 2)).astype(float)


def _padded(s):
    """x in a border of channels of zeros, p before and f - 1 - p behind."""
    p = s.size // 2
    return np.pad(s.x, ((p, s.size - 1 - p), (0, 0), (0, 0)))


def _dd_dx(s):
    """∂d[c']/∂x[c] at each pixel: (C', C, H, W); other pixels do not occur."""
    return np.einsum("eabcab->ecab", derivative(lambda x: _d(s, x), s.x))


def _dL_dd(s):
    """∂L/∂d from the definition: z = x d^(-β) as a function of d, with x held fixed."""
    return derivative(lambda d: (s.dL_dz * s.x * d**-s.beta).sum(), _d(s))


def _sum_over_windows(s, value):
    """Σ_i value[c + p - i] with zeros outside the channels."""
    p, C = s.size // 2, len(value)
    padded = np.pad(value, ((s.size - 1 - p, p), (0, 0), (0, 0)))
    return sum(padded[s.size - 1 - i : s.size - 1 - i + C] for i in range(s.size))


EQUATIONS = (
    Equation(
        "local_response_norm.1",
        "d[c] = k + α/f Σ_i x[c + i - p]²",
        r"d_c = k + \frac{\alpha}{f} \sum_i x_{c+i-p}^2",
        "Definition: what the f channels around c hold, at the same pixel; p is floor(f / 2).",
        (
            _d,
            lambda s: s.k + s.alpha / s.size * sum((_padded(s)[i : i + len(s.x)]) ** 2 for i in range(s.size)),
        ),
    ),
    Equation(
        "local_response_norm.2",
        "z[c] = x[c] / d[c]^β = x[c] d[c]^(-β)",
        r"z_c = \frac{x_c}{d_c^\beta} = x_c\, d_c^{-\beta}",
        "Definition: the more there is around a value, the smaller it becomes.",
        (_z, lambda s: s.x / np.exp(s.beta * np.log(_d(s))), lambda s: s.x * _d(s) ** -s.beta),
    ),
    Equation(
        "local_response_norm.3",
        "∂L/∂d[c] = ∂L/∂z[c] ∂z[c]/∂d[c] = -β ∂L/∂z[c] x[c] d[c]^(-β-1) = -β ∂L/∂z[c] z[c] / d[c]",
        r"\frac{\partial L}{\partial d_c} = \frac{\partial L}{\partial z_c} \frac{\partial z_c}{\partial d_c}"
        r" = -\beta \frac{\partial L}{\partial z_c}\, x_c\, d_c^{-\beta-1}"
        r" = -\beta \frac{\partial L}{\partial z_c} \frac{z_c}{d_c}",
        "d as a value of its own, x held fixed: in (local_response_norm.2) it occurs in z[c] alone; the last form needs"
        " no new power.",
        (
            _dL_dd,
            lambda s: s.dL_dz * np.einsum("cabcab->cab", derivative(lambda d: s.x * d ** (-s.beta), _d(s))),
            lambda s: -s.beta * s.dL_dz * s.x * _d(s) ** (-s.beta - 1),
            lambda s: -s.beta * s.dL_dz * _z(s) / _d(s),
        ),
    ),
    Equation(
        "local_response_norm.4",
        "∂d[c']/∂x[c] = 2 α/f x[c] Σ_i [c' + i - p=c]",
        r"\frac{\partial d_{c'}}{\partial x_c} = \frac{2 \alpha}{f}\, x_c \sum_i [c' + i - p = c]",
        "The square of x[c] occurs in d[c'] once if the window of c' holds c, and otherwise not.",
        (
            _dd_dx,
            lambda s: 2 * s.alpha / s.size * np.einsum("cab,ec->ecab", s.x, _brackets(s)),
        ),
        computed=False,
    ),
    Equation(
        "local_response_norm.5",
        "∂L/∂x[c] = ∂L/∂z[c] / d[c]^β + Σ_c' ∂L/∂d[c'] ∂d[c']/∂x[c]",
        r"\frac{\partial L}{\partial x_c} = \frac{\partial L}{\partial z_c}\, \frac{1}{d_c^\beta}"
        r" + \sum_{c'} \frac{\partial L}{\partial d_{c'}} \frac{\partial d_{c'}}{\partial x_c}",
        "Chain rule: x[c] acts directly in z[c], by (local_response_norm.2), and through every d that holds it.",
        (
            lambda s: derivative(lambda x: _loss(s, x), s.x),
            lambda s: s.dL_dz / _d(s) ** s.beta + np.einsum("eab,ecab->cab", _dL_dd(s), _dd_dx(s)),
        ),
        computed=False,
    ),
    Equation(
        "local_response_norm.6",
        "∂L/∂x[c] = ∂L/∂z[c] / d[c]^β + 2 α/f x[c] Σ_i ∂L/∂d[c + p - i]",
        r"\frac{\partial L}{\partial x_c} = \frac{\partial L}{\partial z_c}\, \frac{1}{d_c^\beta}"
        r" + \frac{2 \alpha}{f}\, x_c \sum_i \frac{\partial L}{\partial d_{c+p-i}}",
        "(local_response_norm.4) in (local_response_norm.5): each bracket leaves the c' whose window has c at place i.",
        (
            lambda s: derivative(lambda x: _loss(s, x), s.x),
            lambda s: s.dL_dz / _d(s) ** s.beta + 2 * s.alpha / s.size * s.x * _sum_over_windows(s, _dL_dd(s)),
        ),
    ),
    Equation(
        "local_response_norm.7",
        "∂L/∂x[c] = ∂L/∂z[c] / d[c]^β - 2 α β/f x[c] Σ_c' ∂L/∂z[c'] x[c'] d[c']^(-β-1) Σ_i [c' + i - p=c]",
        r"\frac{\partial L}{\partial x_c} = \frac{\partial L}{\partial z_c}\, \frac{1}{d_c^\beta}"
        r" - \frac{2 \alpha \beta}{f}\, x_c"
        r" \sum_{c'} \frac{\partial L}{\partial z_{c'}}\, x_{c'}\, d_{c'}^{-\beta-1} \sum_i [c' + i - p = c]",
        "The same in one line, (local_response_norm.3) put in: a sum over the channels whose windows hold c.",
        (
            lambda s: derivative(lambda x: _loss(s, x), s.x),
            lambda s: (
                s.dL_dz / _d(s) ** s.beta
                - 2
                * s.alpha
                * s.beta
                / s.size
                * s.x
                * np.einsum("eab,ec->cab", s.dL_dz * s.x * _d(s) ** (-s.beta - 1), _brackets(s))
            ),
        ),
        computed=False,
    ),
)
