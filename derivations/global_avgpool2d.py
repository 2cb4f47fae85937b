"""Global average pooling layer: every feature map is replaced by one number, the mean of its pixels.

So an image of C channels becomes a column of C numbers, whatever its size, and each of them says how strongly
its feature is present, no matter where. It is average pooling with a window as large as the image, followed
by a Flatten. There is nothing to learn, and every pixel gets an equal share of its channel's gradient.

The output is flat, (C,), as in Keras; PyTorch's ``AdaptiveAvgPool2d(1)`` leaves it an image of 1 x 1 pixels,
to be flattened.

Sources
-------
S3 "Global Average Pooling" ("takes an average of all pixels in the feature map", "takes a 3D array and turns
it into a vector"); S1 "Pooling Layer" for average pooling in general.

Worked example
--------------
Two feature maps; the first is the image of S2's average pooling, whose pixels add up to 44:

>>> first = [[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]
>>> second = [[0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
>>> x = np.array([first, second], dtype=object)
>>> forward(x).tolist()
[2.75, 0.5]

The gradient 16 of the first mean is spread over 16 pixels, and so is the 32 of the second:

>>> (dL_dx,) = backward(np.array([16, 32], dtype=object), x)
>>> dL_dx[0, 0].tolist(), dL_dx[1, 0].tolist()
([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0])
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (("H, W; a, b", "rows and columns of an image; position (row a, column b)"),)


def forward(x):
    """Return the mean of each channel of one sample.

    Parameters
    ----------
    x : array of shape (C, H, W)

    Returns
    -------
    array of shape (C,)
    """
    C, H, B = x.shape
    z = zeros(C)
    for c, a, b in positions(C, H, B):
        z[c] += x[c, a, b] / (H * B)  # (global_avgpool2d.1)
    return z


def backward(dL_dz, x):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C,)
    x : array of shape (C, H, W)
        As in :func:`forward`; only its shape matters.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    C, H, B = x.shape
    dL_dx = zeros(C, H, B)
    for c, a, b in positions(C, H, B):
        dL_dx[c, a, b] = dL_dz[c] / (H * B)  # (global_avgpool2d.3)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    return SimpleNamespace(x=rng.normal(size=(2, 3, 4)), dL_dz=rng.normal(size=2))


def _dz_dx(s):
    """∂z[c]/∂x[c,a,b] from its definition; the derivatives by other channels are left out, for they are 0."""
    return np.einsum("ccab->cab", derivative(forward, s.x))


EQUATIONS = (
    Equation(
        "global_avgpool2d.1",
        "z[c] = 1 / (H W) Σ_a Σ_b x[c,a,b]",
        r"z_c = \frac{1}{H W} \sum_a \sum_b x_{cab}",
        "Definition: the mean of all pixels of channel c.",
        (lambda s: forward(s.x), lambda s: s.x.mean(axis=(1, 2))),
    ),
    Equation(
        "global_avgpool2d.2",
        "∂z[c]/∂x[c,a,b] = 1 / (H W)",
        r"\frac{\partial z_c}{\partial x_{cab}} = \frac{1}{H W}",
        "Every pixel of the channel occurs in (global_avgpool2d.1) once, with this factor.",
        (_dz_dx, lambda s: np.full(s.x.shape, 1 / (3 * 4))),
        computed=False,
    ),
    Equation(
        "global_avgpool2d.3",
        "∂L/∂x[c,a,b] = ∂L/∂z[c] ∂z[c]/∂x[c,a,b] = 1 / (H W) ∂L/∂z[c]",
        r"\frac{\partial L}{\partial x_{cab}} = \frac{\partial L}{\partial z_c}"
        r" \frac{\partial z_c}{\partial x_{cab}} = \frac{1}{H W} \frac{\partial L}{\partial z_c}",
        "Chain rule with (global_avgpool2d.2): the channel's gradient is shared evenly among its pixels.",
        (
            lambda s: derivative(lambda x: sum(s.dL_dz * forward(x)), s.x),
            lambda s: s.dL_dz[:, None, None] * _dz_dx(s),
            lambda s: np.broadcast_to(s.dL_dz[:, None, None] / (3 * 4), s.x.shape),
        ),
    ),
)
