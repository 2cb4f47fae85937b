"""Gradient descent with momentum; equations in ``derivations/momentum.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import momentum as derivation
from ..backend import kernel
from .optimizer import Optimizer, fraction


@kernel
def momentum_update(theta, g, v, learning_rate, momentum):
    """v = μ v + g, then θ = θ - α v."""
    for k in range(theta.size):
        v[k] = momentum * v[k] + g[k]  # (momentum.1)
        theta[k] = theta[k] - learning_rate * v[k]  # (momentum.2)


class Momentum(Optimizer):
    """Step along a velocity that remembers past gradients.

    Parameters
    ----------
    learning_rate : float
        α, by default 0.01.
    momentum : float
        μ, the share of the velocity that is kept, by default 0.9.

    Notes
    -----
    The learning rate multiplies the velocity when it is used, not the gradient when it is stored, as in PyTorch:
    a changed rate then acts at once.
    """

    kind = "momentum"
    derivation = derivation
    state_names = ("v",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9):
        super().__init__(learning_rate)
        self.momentum = fraction(type(self).__name__, "momentum", momentum)

    def update_stretch(self, name: str, theta: np.ndarray, g: np.ndarray, stretch: slice) -> None:
        """Apply (momentum.1) and (momentum.2) to a stretch."""
        number = theta.dtype.type
        v = self.state[name]["v"]
        rate, share = number(self.learning_rate), number(self.momentum)
        momentum_update(theta[stretch], g[stretch], v[stretch], rate, share)

    def settings(self) -> dict[str, float]:
        """Return the hyper-parameters."""
        return {"learning_rate": self.learning_rate, "momentum": self.momentum}
