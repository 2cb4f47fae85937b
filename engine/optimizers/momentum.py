"""Gradient descent with momentum; equations in ``derivations/momentum.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import momentum as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .optimizer import Optimizer, fraction


@kernel
def momentum_update(theta, g, v, constants):
    """v = μ v + g, then θ = θ - α v; constants are those of ``Momentum.constants``."""
    learning_rate, momentum = constants[0], constants[1]
    for k in range(theta.size):
        v[k] = momentum * v[k] + g[k]  # (momentum.1)
        theta[k] = theta[k] - learning_rate * v[k]  # (momentum.2)


@cuda_kernel
def momentum_update_cuda(theta, g, v, constants):
    """v = μ v + g, then θ = θ - α v, one thread for each parameter; constants are those of ``Momentum.constants``."""
    k = cuda.grid(1)
    if k < theta.size:
        learning_rate, momentum = constants[0], constants[1]
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
    kernels_alone = True
    state_names = ("v",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9):
        super().__init__(learning_rate)
        self.momentum = fraction(type(self).__name__, "momentum", momentum)

    def constants(self, name: str, number: type) -> tuple:
        """Return α and μ as ``number``."""
        return number(self.learning_rate), number(self.momentum)

    def update_stretch(self, name: str, theta: np.ndarray, g: np.ndarray, stretch: slice) -> None:
        """Apply (momentum.1) and (momentum.2) to a stretch."""
        v = self.state[name]["v"]
        momentum_update(theta[stretch], g[stretch], v[stretch], self.current[name])

    def update_cuda(self, theta, g, state: dict, constants) -> None:
        """Apply (momentum.1) and (momentum.2)."""
        momentum_update_cuda[flat(theta.size)](theta, g, state["v"], constants)

    def settings(self) -> dict[str, float]:
        """Return the hyper-parameters."""
        return {"learning_rate": self.learning_rate, "momentum": self.momentum}
