"""Heaviside's step function: a neuron fires or it does not, a = 1 or a = 0.

Every element is treated alone, so k runs over the elements of z, whatever its shape.

At z = 0 the neuron fires. The notes leave that value open; with this choice "the weighted sum reaches the
threshold" reads z ≥ 0. NaN is on neither side and stays NaN.

The step is flat on both sides, so its derivative is 0 wherever there is one, and at the jump there is none. A
gradient therefore ends here: by (step.3) every parameter before a step gets exactly 0, and gradient descent
changes nothing. S0 9.2 is right to demand that activation functions be differentiable.

Surrogates: no derivatives
--------------------------
Whoever wants to train through a step nevertheless replaces its slope in the backward pass by the slope of some
smooth function r, and leaves the forward pass as it is. What comes out is NOT the derivative of the loss:
finite differences of the loss, which are 0 almost everywhere, disagree with it, and must. It is a choice that
often works, and it is made only where a surrogate is named; by default the gradient is the true one, 0. L(r) stands
for a loss in which r takes the place of the step behind the upstream gradient ∂L/∂a, which stays as it is.

    "straight-through"   r = z, a straight line: the gradient passes as if there were no step
    "sigmoid"            r = 1 / (1 + exp(-z)): steep near the jump, a little slope everywhere
    "triangle"           r = a ramp from 0 to 1 of two parabolas, (1 + z)² / 2 for -1 < z < 0
                         and 1 - (1 - z)² / 2 for 0 < z < 1: its slope is a triangle

Sources
-------
S3 "Activator functions" (1), "binary output 0 or 1"; S1 "History of Neural Networks" (McCulloch and Pitts, the
perceptron); S4 "Building Blocks: Perceptron" (neurons "fire"). None of the three says what happens at z = 0,
and none mentions surrogates. A slip is corrected: S3 spells the function "heavy side"; it is named after Oliver
Heaviside. Y. Bengio, N. Léonard, A. Courville, "Estimating or propagating gradients through stochastic neurons
for conditional computation", arXiv:1308.3432, 2013, for the straight-through estimator, which they credit to
G. Hinton's lectures of 2012. E. O. Neftci, H. Mostafa, F. Zenke, "Surrogate gradient learning in spiking neural
networks", IEEE Signal Processing Magazine 36, 2019, for the name and an overview of slopes in use.

Worked example
--------------
>>> from fractions import Fraction
>>> z = np.array([-2, Fraction(-1, 4), 0, 3, float("nan")], dtype=object)
>>> forward(z).tolist()
[0, 0, 1, 1, nan]
>>> dL_da = np.array([8, 8, 8, 8], dtype=object)
>>> backward(dL_da, z[:4])[0].tolist()                                           # the derivative
[0, 0, 0, 0]

What the surrogates make of the same gradients, which is something else:

>>> backward(dL_da, z[:4], surrogate="straight-through")[0].tolist()
[8, 8, 8, 8]
>>> backward(dL_da, z[:4], surrogate="triangle")[0].tolist()
[0, Fraction(6, 1), 8, 0]
>>> [round(value, 3) for value in backward(dL_da, z[:4], surrogate="sigmoid")[0]]
[0.84, 1.969, 2.0, 0.361]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, positions, zeros

LETTERS = (
    ("r, L(r)", "function whose slope stands in for the step's; a loss with it in place of the step"),
    ("e", "exp(-|z|)"),
)

SURROGATES = ("straight-through", "sigmoid", "triangle")


def forward(z, *, surrogate=None):
    """Return a = 1 where z is at least 0, and 0 elsewhere.

    Parameters
    ----------
    z : array of any shape
    surrogate : str, optional
        Does nothing in this direction.

    Returns
    -------
    array of the shape of z
    """
    a = zeros(*z.shape)
    for k in positions(*z.shape):
        a[k] = 1 if z[k] >= 0 else 0 if z[k] < 0 else z[k]  # (step.1)
    return a


def backward(dL_da, z, *, surrogate=None):
    """Gradient of the loss with respect to the input: 0, or what a surrogate gives instead.

    Parameters
    ----------
    dL_da : array of the shape of z
    z : array
        As in :func:`forward`.
    surrogate : "straight-through", "sigmoid" or "triangle", optional
        With one, the result is not the derivative.

    Returns
    -------
    dL_dz : tuple of one array of the shape of z
    """
    dL_dz = zeros(*z.shape)
    for k in positions(*z.shape):
        distance = -z[k] if z[k] < 0 else z[k]  # |z|
        if surrogate is None:
            dL_dz[k] = 0  # (step.3)
        elif surrogate == "straight-through":
            dL_dz[k] = dL_da[k]  # (step.5)
        elif surrogate == "sigmoid":
            e = exp(-distance)
            dL_dz[k] = dL_da[k] * e / ((1 + e) * (1 + e))  # (step.6)
        elif surrogate == "triangle":
            dL_dz[k] = dL_da[k] * (0 if distance > 1 else 1 - distance)  # (step.7)
        else:
            raise ValueError(f"step: got surrogate {surrogate!r}, expected None or one of {SURROGATES}")
    return (dL_dz,)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, away from the jump and from the triangle's kinks."""
    z = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]) * rng.uniform(0.05, 0.95, size=6) + np.array([0, 0, 0, 0, -1, 1])
    return SimpleNamespace(z=z, dL_da=rng.normal(size=6))


def _ramp(z):
    """r of the triangle: two parabolas that join in the middle, flat on both sides."""
    inside = np.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)
    return np.where(z < -1, 0, np.where(z > 1, 1, inside))


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


STAND_INS = {"straight-through": lambda z: z, "sigmoid": _sigmoid, "triangle": _ramp}  # the functions r


def _slopes(s, name=None):
    """∂r[k]/∂z[k] of every element, for one surrogate or for all of them."""
    if name is not None:
        return np.diagonal(derivative(STAND_INS[name], s.z))
    return np.array([_slopes(s, surrogate) for surrogate in SURROGATES])


def _gradient(s, name):
    """The gradient of L(r), from its definition: L is linear in a, as every smooth loss is close by."""
    return derivative(lambda z: sum(s.dL_da * STAND_INS[name](z)), s.z)


EQUATIONS = (
    Equation(
        "step.1",
        "a[k] = [z[k]≥0] = 1 - [z[k]<0]",
        r"a_k = [z_k \ge 0] = 1 - [z_k < 0]",
        "Definition: the neuron fires if its input reaches 0, and otherwise it does not.",
        (lambda s: forward(s.z), lambda s: np.heaviside(s.z, 1), lambda s: 1 - (s.z < 0)),
    ),
    Equation(
        "step.2",
        "∂a[k]/∂z[k] = 0 (z[k]≠0)",
        r"\frac{\partial a_k}{\partial z_k} = 0 \quad (z_k \ne 0)",
        "Both pieces are constant, so a small change of z changes nothing; at the jump there is no derivative.",
        (lambda s: np.diagonal(derivative(forward, s.z)), lambda s: np.zeros(s.z.shape)),
        computed=False,
    ),
    Equation(
        "step.3",
        "∂L/∂z[k] = ∂L/∂a[k] ∂a[k]/∂z[k] = 0",
        r"\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial a_k}{\partial z_k} = 0",
        "Chain rule with (step.2); 0 is taken at the jump as well. This is the gradient, unless a surrogate is named.",
        (
            lambda s: derivative(lambda z: sum(s.dL_da * forward(z)), s.z),
            lambda s: s.dL_da * np.diagonal(derivative(forward, s.z)),
            lambda s: backward(s.dL_da, s.z)[0],
        ),
    ),
    Equation(
        "step.4",
        "∂L(r)/∂z[k] = ∂L/∂a[k] ∂r[k]/∂z[k]",
        r"\frac{\partial L(r)}{\partial z_k} = \frac{\partial L}{\partial a_k} \frac{\partial r_k}{\partial z_k}",
        "Not the derivative of L: the chain rule with the slope of a surrogate r in place of the step's.",
        (
            lambda s: np.array([backward(s.dL_da, s.z, surrogate=name)[0] for name in SURROGATES]),
            lambda s: s.dL_da * _slopes(s),
        ),
        computed=False,
    ),
    Equation(
        "step.5",
        "∂L(r)/∂z[k] = ∂L/∂a[k] (straight-through: r[k]=z[k])",
        r"\frac{\partial L(r)}{\partial z_k} = \frac{\partial L}{\partial a_k} \quad"
        r" (\text{straight-through: } r_k = z_k)",
        "A straight line has slope 1, so the gradient passes unchanged. Not the derivative.",
        (lambda s: _gradient(s, "straight-through"), lambda s: backward(s.dL_da, s.z, surrogate="straight-through")[0]),
    ),
    Equation(
        "step.6",
        "∂L(r)/∂z[k] = ∂L/∂a[k] r[k] (1 - r[k]) = ∂L/∂a[k] e / (1 + e)² (sigmoid; e=exp(-|z[k]|))",
        r"\frac{\partial L(r)}{\partial z_k} = \frac{\partial L}{\partial a_k}\, r_k (1 - r_k)"
        r" = \frac{\partial L}{\partial a_k}\, \frac{e}{(1 + e)^2} \quad (\text{sigmoid; } e = e^{-|z_k|})",
        "By (sigmoid.3), where r is called a; the last form never overflows and is even in z. Not the derivative.",
        (
            lambda s: _gradient(s, "sigmoid"),
            lambda s: s.dL_da * _sigmoid(s.z) * (1 - _sigmoid(s.z)),
            lambda s: backward(s.dL_da, s.z, surrogate="sigmoid")[0],
        ),
    ),
    Equation(
        "step.7",
        "∂L(r)/∂z[k] = ∂L/∂a[k] max(0, 1 - |z[k]|) (triangle)",
        r"\frac{\partial L(r)}{\partial z_k} = \frac{\partial L}{\partial a_k}\, \max(0, 1 - |z_k|)"
        r" \quad (\text{triangle})",
        "The parabolas have the slopes 1 + z on the left of 0 and 1 - z on its right. Not the derivative.",
        (lambda s: _gradient(s, "triangle"), lambda s: backward(s.dL_da, s.z, surrogate="triangle")[0]),
    ),
)
