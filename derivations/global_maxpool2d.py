"""Global max pooling layer: of every feature map only the largest pixel is kept.

So an image of C channels becomes a column of C numbers, whatever its size, and each of them says how strongly
its feature is present at the place where it is strongest. It is max pooling with a window as large as the
image, followed by a Flatten. There is nothing to learn. The whole gradient of a channel belongs to the pixel
that won, and all the others get nothing.

a*, b* is the position of the winner; it depends on c. Of equal values the first in row-major order wins,
which is a choice of a subgradient, as at the kink of a ReLU. NaN wins against every number, so that it is
seen; of several NaN the last one gets the gradient. Both conventions are PyTorch's, and those of (maxpool2d.1).

The output is flat, (C,), as in Keras; PyTorch's ``AdaptiveMaxPool2d(1)`` leaves it an image of 1 x 1 pixels,
to be flattened.

Sources
-------
S1 "Pooling Layer" and S3 "Max Pooling Vs Average Pooling" for max pooling, S3 "Global Average Pooling" for
what "global" means. The notes do not put the two together.

Worked example
--------------
Two feature maps; the first is the image of S2's average pooling, in the second the 8 stands twice:

>>> first = [[1, 3, 2, 1], [2, 9, 1, 1], [1, 4, 2, 3], [5, 6, 1, 2]]
>>> second = [[0, 0, 0, 8], [0, 0, 0, 0], [8, 0, 0, 0], [0, 0, 0, 0]]
>>> x = np.array([first, second], dtype=object)
>>> forward(x).tolist()
[9, 8]
>>> (dL_dx,) = backward(np.array([16, 32], dtype=object), x)
>>> dL_dx[0].tolist()
[[0, 0, 0, 0], [0, 16, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
>>> dL_dx[1].tolist()
[[0, 0, 0, 32], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, zeros

LETTERS = (("a*, b*", "position of the largest value of channel c"),)


def winner(plane):
    """Return the position (row, column) of the largest value of one channel."""
    best = (0, 0)
    for position in positions(*plane.shape):
        value = plane[position]
        if value > plane[best] or value != value:  # NaN differs from itself, and wins
            best = position
    return best


def forward(x):
    """Keep the largest value of each channel of one sample.

    Parameters
    ----------
    x : array of shape (C, H, W)

    Returns
    -------
    array of shape (C,)
    """
    C = len(x)
    z = zeros(C)
    for c in range(C):
        a, b = winner(x[c])
        z[c] = x[c, a, b]  # (global_maxpool2d.1)
    return z


def backward(dL_dz, x):
    """Gradient of the loss with respect to the input, for one sample.

    Parameters
    ----------
    dL_dz : array of shape (C,)
    x : array of shape (C, H, W)
        As in :func:`forward`.

    Returns
    -------
    dL_dx : tuple of one array of the shape of x
    """
    dL_dx = zeros(*x.shape)
    for c in range(len(x)):
        a, b = winner(x[c])
        dL_dx[c, a, b] = dL_dz[c]  # (global_maxpool2d.3)
    return (dL_dx,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated; all values are negative, so that no 0 may win."""
    return SimpleNamespace(x=-rng.uniform(1, 9, size=(2, 3, 4)), dL_dz=rng.normal(size=2))


def _winners(s):
    """Return a* and b* for every channel."""
    return np.divmod(s.x.reshape(2, 3 * 4).argmax(axis=1), 4)


def _brackets(s):
    """[a=a*] [b=b*] for every channel and every pixel."""
    a, b = _winners(s)
    return np.einsum("ca,cb->cab", np.eye(3)[a], np.eye(4)[b])


def _dz_dx(s):
    """∂z[c]/∂x[c,a,b] from its definition; the derivatives by other channels are left out, for they are 0."""
    return np.einsum("ccab->cab", derivative(forward, s.x))


EQUATIONS = (
    Equation(
        "global_maxpool2d.1",
        "z[c] = max_a max_b x[c,a,b] = x[c,a*,b*]",
        r"z_c = \max_a \max_b x_{cab} = x_{c a^* b^*}",
        "Definition: the largest pixel of channel c, which stands at (a*, b*).",
        (lambda s: forward(s.x), lambda s: s.x.max(axis=(1, 2)), lambda s: s.x[(np.arange(2), *_winners(s))]),
    ),
    Equation(
        "global_maxpool2d.2",
        "∂z[c]/∂x[c,a,b] = [a=a*] [b=b*]",
        r"\frac{\partial z_c}{\partial x_{cab}} = [a = a^*]\, [b = b^*]",
        "As long as the winner stays the winner, z is a copy of it and the other pixels do not matter.",
        (_dz_dx, _brackets),
        computed=False,
    ),
    Equation(
        "global_maxpool2d.3",
        "∂L/∂x[c,a,b] = ∂L/∂z[c] ∂z[c]/∂x[c,a,b] = ∂L/∂z[c] [a=a*] [b=b*]",
        r"\frac{\partial L}{\partial x_{cab}} = \frac{\partial L}{\partial z_c}"
        r" \frac{\partial z_c}{\partial x_{cab}} = \frac{\partial L}{\partial z_c}\, [a = a^*]\, [b = b^*]",
        "Chain rule with (global_maxpool2d.2): the winner gets the channel's whole gradient.",
        (
            lambda s: derivative(lambda x: sum(s.dL_dz * forward(x)), s.x),
            lambda s: s.dL_dz[:, None, None] * _dz_dx(s),
            lambda s: s.dL_dz[:, None, None] * _brackets(s),
        ),
    ),
)
