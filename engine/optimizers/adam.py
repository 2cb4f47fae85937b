"""Adam; equations in ``derivations/adam.py``."""

from __future__ import annotations

import math

import numpy as np

from ...derivations import adam as derivation
from ..backend import kernel
from ..cuda import cuda, cuda_kernel, flat
from .optimizer import Optimizer, fraction, positive_number


@kernel
def adam_update(theta, g, m, v, constants):
    """One step of Adam; constants are those of ``Adam.constants``."""
    rate, beta1, beta2, rest1 = constants[0], constants[1], constants[2], constants[3]  # rest = 1 - beta
    rest2, eps, correction1, correction2 = constants[4], constants[5], constants[6], constants[7]
    for k in range(theta.size):
        m[k] = beta1 * m[k] + rest1 * g[k]  # (adam.1)
        v[k] = beta2 * v[k] + rest2 * g[k] * g[k]  # (adam.2)
        m_hat = m[k] / correction1  # (adam.3)
        v_hat = v[k] / correction2  # (adam.4)
        theta[k] = theta[k] - rate * m_hat / (math.sqrt(v_hat) + eps)  # (adam.5)


@cuda_kernel
def adam_update_cuda(theta, g, m, v, constants):
    """One step of Adam, one thread for each parameter; constants are those of ``Adam.constants``."""
    k = cuda.grid(1)
    if k < theta.size:
        rate, beta1, beta2, rest1 = constants[0], constants[1], constants[2], constants[3]
        rest2, eps, correction1, correction2 = constants[4], constants[5], constants[6], constants[7]
        m[k] = beta1 * m[k] + rest1 * g[k]  # (adam.1)
        v[k] = beta2 * v[k] + rest2 * g[k] * g[k]  # (adam.2)
        m_hat = m[k] / correction1  # (adam.3)
        v_hat = v[k] / correction2  # (adam.4)
        theta[k] = theta[k] - rate * m_hat / (math.sqrt(v_hat) + eps)  # (adam.5)


class Adam(Optimizer):
    """Step by the mean of past gradients divided by the root of the mean of their squares.

    Parameters
    ----------
    learning_rate : float
        α, by default 0.001.
    beta1, beta2 : float
        Shares of the two means that are kept, by default 0.9 and 0.999.
    eps : float
        Added to the root, not under it, as in the paper and in PyTorch; by default 1e-8.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
    """

    kind = "adam"
    derivation = derivation
    kernels_alone = True
    state_names = ("m", "v")

    def __init__(self, learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        super().__init__(learning_rate)
        self.beta1, self.beta2 = fraction("Adam", "beta1", beta1), fraction("Adam", "beta2", beta2)
        self.eps = positive_number("Adam", "eps", eps)

    def constants(self, name: str, number: type) -> tuple:
        """Return α, β1, β2, 1 - β1, 1 - β2, ε and the bias corrections 1 - β^t of the current step t, as ``number``.

        The differences are taken in float64: 1 - 0.999 in float32 would be off by 2e-5 of itself.
        """
        t, betas = self.steps[name], (self.beta1, self.beta2)
        rests, corrections = (1 - beta for beta in betas), (1 - beta**t for beta in betas)
        return tuple(number(c) for c in (self.learning_rate, *betas, *rests, self.eps, *corrections))

    def update_stretch(self, name: str, theta: np.ndarray, g: np.ndarray, stretch: slice) -> None:
        """Apply (adam.1) to (adam.5) to a stretch."""
        m, v = self.state[name]["m"], self.state[name]["v"]
        adam_update(theta[stretch], g[stretch], m[stretch], v[stretch], self.current[name])

    def update_cuda(self, theta, g, state: dict, constants) -> None:
        """Apply (adam.1) to (adam.5)."""
        adam_update_cuda[flat(theta.size)](theta, g, state["m"], state["v"], constants)

    def settings(self) -> dict[str, float]:
        """Return the hyper-parameters."""
        return {"learning_rate": self.learning_rate, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
