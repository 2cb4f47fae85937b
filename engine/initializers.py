"""How parameters start. Weights that start equal stay equal, so they start as random numbers of a chosen size.

Floor 2; equations in ``derivations/initializers.py``. Each initializer is a function ``(rng, shape, fan_in, fan_out) ->
float64 array``; fan_in and fan_out are the numbers of values that one output reads and that one input reaches.
"""

from __future__ import annotations

import numpy as np


def he(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Normal numbers of variance 2 / fan_in: keeps the size of the signal through ReLU, which drops half of it.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", 2015, equation 10.
    """
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)  # (initializers.5)


def xavier(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Uniform numbers of variance 2 / (fan_in + fan_out): keeps signal and gradient in size through tanh.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
    equation 16.
    """
    limit = np.sqrt(6.0 / (fan_in + fan_out))  # (initializers.9)
    return rng.uniform(-limit, limit, shape)


def small(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Normal numbers of standard deviation 0.01, whatever the layer's size: S1's "small random numbers"."""
    return rng.normal(0.0, 0.01, shape)


def zeros(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """All zeros: right for biases; for weights every unit of a layer then learns the same."""
    return np.zeros(shape)


BY_NAME = {"he": he, "xavier": xavier, "small": small, "zeros": zeros}
