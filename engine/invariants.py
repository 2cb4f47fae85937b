"""Sums of gradients that must come out whatever the numbers are: properties that finite differences cannot replace.

Floor 4. Each is a consequence of the layer's equations, so that some errors that two views share do not escape it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .gradcheck import GradientCheck

LIMIT = 1e-12  # sums of some hundred float64 numbers, relative to the sum of the sizes of the terms


@dataclass(frozen=True)
class Invariant:
    """One property and how well it holds.

    Attributes
    ----------
    text : str
        The equation.
    error : float
        Largest difference of the two sides, divided by the sum of the sizes of the terms.
    """

    text: str
    error: float

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return self.error < LIMIT


def invariants_of(subject: str, check: GradientCheck, training: bool = True) -> list[Invariant]:
    """Return the properties of a layer or loss that has any, checked at the point of a gradient check.

    Parameters
    ----------
    subject : str
        Name of the derivation, "batch_norm".
    check : GradientCheck
        Of a network of that layer alone, whose input is called x; for a loss, of the identity.
    training : bool
    """
    x, dL_dx = check.x[0], check.kernel.get("x")
    if subject in ("softmax", "log_softmax", "softmax_cross_entropy") or (subject == "hinge" and x.shape[1] > 1):
        return [_equal("Σ_k ∂L/∂z[k] = 0 for every sample", dL_dx.sum(axis=1), 0, dL_dx)]
    if subject == "batch_norm" and training:
        return _batch_norm(check)
    if subject in ("dense", "conv2d", "conv_transpose2d"):
        W, dL_dW = _of(check, "W")
        return [
            _equal("Σ W ∂L/∂W = Σ x ∂L/∂x", (W * dL_dW).sum(), (x * dL_dx).sum(), x * dL_dx),
            _equal("∂L/∂b[o] = Σ ∂L/∂z[o]", _of(check, "b")[1], _by_channel(check.target).sum(axis=1), check.target),
        ]
    if subject in ("maxpool2d", "global_maxpool2d", "global_avgpool2d", "upsample2d"):
        left, right = _by_channel(dL_dx).sum(axis=1), _by_channel(check.target).sum(axis=1)
        return [_equal("Σ ∂L/∂x[c] = Σ ∂L/∂z[c] for every channel", left, right, dL_dx)]
    if subject in ("relu", "leaky_relu"):
        return [_equal("Σ z ∂L/∂z = Σ a ∂L/∂a", (x * dL_dx).sum(), (check.z * check.target).sum(), x * dL_dx)]
    return []


def _batch_norm(check: GradientCheck) -> list[Invariant]:
    """The input gradient sums to 0, and is orthogonal to x_hat but for eps, for every channel."""
    x, dL_dx = _by_channel(check.x[0]), _by_channel(check.kernel["x"])
    (gamma, dL_dgamma), eps = _of(check, "gamma"), check.network.outputs[0].layer.eps
    variance = x.var(axis=1)
    x_hat = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(variance + eps)[:, None]
    leftover = gamma / np.sqrt(variance + eps) * dL_dgamma * eps / (variance + eps)
    return [
        _equal("Σ ∂L/∂x = 0 for every channel", dL_dx.sum(axis=1), 0, dL_dx),
        _equal(
            "Σ ∂L/∂x x_hat = γ / √(σ² + ε) ∂L/∂γ ε / (σ² + ε), 0 but for ε",
            (dL_dx * x_hat).sum(axis=1),
            leftover,
            dL_dx,
        ),
    ]


def _of(check: GradientCheck, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a parameter of the layer, with its gradient."""
    name = f"{check.network.outputs[0].name}.{part}"
    return check.network.parameters[name], check.kernel[name]


def _by_channel(array: np.ndarray) -> np.ndarray:
    """Return (N, C, ...) as (C, values)."""
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _equal(text: str, left, right, terms: np.ndarray) -> Invariant:
    scale = max(float(np.abs(terms).sum()), np.finfo(np.float64).tiny)
    return Invariant(text, float(np.abs(np.asarray(left) - right).max() / scale))
