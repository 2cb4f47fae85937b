"""Dropout: in training, values are switched off at random, so that no unit can rely on any other.

Each value is dropped with probability ``rate``; its mask is then 0, and 1 otherwise. A fresh mask is drawn
for every sample and every step, and in each step another sub-network is trained.

Training and inference differ. In inference nothing is dropped and the layer is the identity, z = x. For that
to be right, a value must be as large in training as in inference, on average. So whatever is kept is divided
by the probability 1 - rate of being kept ("inverted" scaling, as in PyTorch; N. Srivastava et al. scale in
inference instead), and (dropout.2) says that this works. The literal code covers inference as the mask of
ones with rate 0.

Every element is treated alone, so k runs over the elements of x, whatever its shape.

Sources
-------
S1 "Regularization" ("In test time there is no dropout!"); S3 "Dropout Layers To Avoid OVERFITTING" and 4.8.2
(rate .3); S2 "Model Construction" (Dropout(0.2)); S4 "Normalization and Stability". The notes do not mention
the scaling. N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR
15, 2014.

Worked example
--------------
With S2's rate .2 a kept value grows by 1 / 0.8 = 5/4:

>>> from fractions import Fraction
>>> x, mask = np.array([4, 8, 12, 16], dtype=object), np.array([1, 0, 1, 1], dtype=object)
>>> [str(value) for value in forward(x, mask, rate=Fraction(1, 5))]
['5', '0', '15', '20']
>>> forward(x, np.array([1, 1, 1, 1], dtype=object), rate=0).tolist()             # inference
[4.0, 8.0, 12.0, 16.0]
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros


def forward(x, mask, rate):
    """Drop the values whose mask is 0 and scale the others up.

    Parameters
    ----------
    x : array of any shape
    mask : array of the shape of x
        0 where a value is dropped, 1 where it is kept.
    rate : number
        Probability that a value is dropped, from 0 up to but not including 1.

    Returns
    -------
    array of the shape of x
    """
    z = zeros(*x.shape)
    for k in positions(*x.shape):
        z[k] = mask[k] * x[k] / (1 - rate)  # (dropout.1)
    return z


def backward(dL_dz, x, mask, rate):
    """Gradient of the loss with respect to the input, with the mask of the forward pass.

    Parameters
    ----------
    dL_dz : array of the shape of x
    x, mask, rate
        As in :func:`forward`.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    dL_dx = zeros(*x.shape)
    for k in positions(*x.shape):
        dL_dx[k] = mask[k] * dL_dz[k] / (1 - rate)  # (dropout.3)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, with values dropped and values kept."""
    mask = rng.permutation([0, 0, 1, 1])
    return SimpleNamespace(x=rng.normal(size=4), mask=mask, rate=0.3, dL_dz=rng.normal(size=4))


def _mean_over_all_masks(s):
    """E[z]: every possible mask of the whole layer, weighted with its probability."""
    mean = np.zeros(s.x.shape)
    for outcome in product((0, 1), repeat=s.x.size):
        mask = np.array(outcome)
        probability = np.prod(np.where(mask == 1, 1 - s.rate, s.rate))
        mean += probability * forward(s.x, mask, s.rate).astype(float)
    return mean


def _loss(s, x):
    return sum(s.dL_dz * forward(x, s.mask, s.rate))


EQUATIONS = (
    Equation(
        "dropout.1",
        "z[k] = mask[k] x[k] / (1 - rate)",
        r"z_k = \frac{\mathrm{mask}_k\, x_k}{1 - \mathrm{rate}}",
        "Definition: what is dropped becomes 0, and what is kept is scaled up.",
        (
            lambda s: forward(s.x, s.mask, s.rate),
            lambda s: np.where(s.mask == 1, s.x / (1 - s.rate), 0),
        ),
    ),
    Equation(
        "dropout.2",
        "E[z[k]] = rate · 0 x[k] / (1 - rate) + (1 - rate) · 1 x[k] / (1 - rate) = x[k]",
        r"\mathrm{E}[z_k] = \mathrm{rate} \cdot \frac{0 \cdot x_k}{1 - \mathrm{rate}}"
        r" + (1 - \mathrm{rate}) \cdot \frac{1 \cdot x_k}{1 - \mathrm{rate}} = x_k",
        "Both outcomes of the mask, weighted with their probabilities: the mean is what inference gives.",
        (
            _mean_over_all_masks,
            lambda s: s.rate * (0 * s.x / (1 - s.rate)) + (1 - s.rate) * (1 * s.x / (1 - s.rate)),
            lambda s: s.x,
        ),
        computed=False,
    ),
    Equation(
        "dropout.3",
        "∂L/∂x[k] = ∂L/∂z[k] ∂z[k]/∂x[k] = mask[k] ∂L/∂z[k] / (1 - rate)",
        r"\frac{\partial L}{\partial x_k} = \frac{\partial L}{\partial z_k} \frac{\partial z_k}{\partial x_k}"
        r" = \frac{\mathrm{mask}_k}{1 - \mathrm{rate}}\, \frac{\partial L}{\partial z_k}",
        "Chain rule; for a given mask (dropout.1) is linear in x.",
        (
            lambda s: derivative(lambda x: _loss(s, x), s.x),
            lambda s: s.dL_dz * np.diagonal(derivative(lambda x: forward(x, s.mask, s.rate), s.x)),
            lambda s: np.where(s.mask == 1, s.dL_dz / (1 - s.rate), 0),
        ),
    ),
)
