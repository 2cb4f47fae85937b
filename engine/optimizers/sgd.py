"""Stochastic gradient descent; equations in ``derivations/sgd.py``."""

from __future__ import annotations

import numpy as np

from ...derivations import sgd as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .optimizer import Optimizer


@kernel
def sgd_update(theta, g, constants):
    """θ = θ - α g; constants are those of ``SGD.constants``."""
    learning_rate = constants[0]
    for k in range(theta.size):
        theta[k] = theta[k] - learning_rate * g[k]  # (sgd.1)


@cuda_kernel
def sgd_update_cuda(theta, g, constants):
    """θ = θ - α g, one thread for each parameter; constants are those of ``SGD.constants``."""
    k = cuda.grid(1)
    if k < theta.size:
        theta[k] = theta[k] - constants[0] * g[k]  # (sgd.1)


class SGD(Optimizer):
    """Step against the gradient: θ = θ - α dL/dθ.

    Parameters
    ----------
    learning_rate : float
        α, by default 0.01.
    """

    kind = "sgd"
    derivation = derivation
    kernels_alone = True

    def __init__(self, learning_rate: float = 0.01):
        super().__init__(learning_rate)

    def constants(self, name: str, number: type) -> tuple:
        """Return α as ``number``."""
        return (number(self.learning_rate),)

    def update_stretch(self, name: str, theta: np.ndarray, g: np.ndarray, stretch: slice) -> None:
        """Apply (sgd.1) to a stretch."""
        sgd_update(theta[stretch], g[stretch], self.current[name])

    def update_cuda(self, theta, g, state: dict, constants) -> None:
        """Apply (sgd.1)."""
        sgd_update_cuda[flat(theta.size)](theta, g, constants)
