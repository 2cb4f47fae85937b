"""Binary cross entropy: the loss of yes-or-no questions, each answered with a probability.

p[n,k] is the probability of a yes to question k about sample n, t[n,k] its target: 1 for yes, 0 for no, or a
number between them where the answer itself is uncertain. With one output, K = 1, this is binary classification.
Several outputs are questions of their own, which need not exclude each other: "Is there a dog in the image? Is
there a cat?", or one question per pixel. (Classes that do exclude each other want a softmax.) Each sample may have
any shape; k runs over its K elements, and the mean is taken over all N K elements, as PyTorch does.

It is the cross entropy of two classes with the probabilities p and 1 - p. If the target is 1, the first term of
(binary_cross_entropy.1) remains, if it is 0, the second.

With the option logits the numbers z before the sigmoid are given, p = 1 / (1 + exp(-z)) (sigmoid.1), and the network
ends without a Sigmoid. For training that is the better choice: logarithm and exponential cancel, and what remains,
(binary_cross_entropy.8), never overflows, as no exponent is positive. In the gradient the sigmoid's slope p (1 - p)
cancels the denominator, and prediction minus target remains. Taken apart, a sigmoid that has rounded p to 1 has
forgotten how wrong it is, and a slope of 0 meets a denominator of 0. (The literal code takes the logarithm of
1 + exp(-|z|), which is 1 after rounding for |z| above 37; the kernel calls log1p, which keeps the small number.)

So that training can go on all the same, at exactly p = 0, where log p has no value, it is taken as -100, at exactly
p = 1 log(1 - p) as well, and at both the denominator p (1 - p) of the gradient as 10⁻¹². These are PyTorch's floors,
but PyTorch also clips logarithms below -100 and denominators below 10⁻¹², where here loss and gradient are exact. (The
kernels take the denominator as 10⁻¹² also where it is so small that its inverse has no floating-point number.)

Sources
-------
S3 "Activation function selection" ("sigmoid for binary classifications"); S4 "Deep Learning Tasks" ("Is there an
elephant in this image?") and "Building Blocks: Output Layer" (a single node with a sigmoid); S1 "Artificial Neural
Networks" (one such neuron is logistic regression); S2, the net that ends in ``Dense(1, activation = "sigmoid")``; S2
"Back Propagation w.r.t weight", da/dz = a (1 - a). The notes do not write this loss down: it is the cross entropy of
S0 9.3 and S3 for two classes.

Worked example
--------------
S4's elephant, there (t = 1), and the network says .8; absent (t = 0), and it says .6. The logits belong to the same
probabilities, as .8/.2 is 4 and .6/.4 is 1.5:

>>> p = np.array([[Fraction(8, 10)], [Fraction(6, 10)]])
>>> t = np.array([[1], [0]], dtype=object)
>>> round(forward(p, t), 4)
0.5697
>>> backward(p, t).tolist()
[[Fraction(-5, 8)], [Fraction(5, 4)]]
>>> z = np.log([[4], [1.5]])
>>> round(float(forward(z, t, logits=True)), 4)
0.5697
>>> [round(float(dL_dz), 4) for dL_dz in backward(z, t, logits=True)[:, 0]]
[-0.1, 0.3]

A network that is sure and wrong costs 1000, and must not stop learning. Rounded to 1, its probability costs 100, and
the gradient that the sigmoid multiplies with its slope 0 is lost:

>>> z, t = np.array([[1000]], dtype=object), np.array([[0]], dtype=object)
>>> forward(z, t, logits=True), backward(z, t, logits=True).tolist()
(1000.0, [[1.0]])
>>> p = sigmoid(z)
>>> from .sigmoid import backward as through_sigmoid
>>> p.tolist(), forward(p, t), through_sigmoid(backward(p, t), z)[0].tolist()
([[1.0]], 100.0, [[0.0]])
"""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, log, positions, zeros
from .sigmoid import forward as sigmoid


def forward(z, t, logits=False):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    z, t : arrays of one shape (N, ...)
        Outputs and targets. The outputs are probabilities, or with ``logits`` the numbers before a
        sigmoid.
    logits : bool

    Returns
    -------
    number
    """
    NK = z.size
    L = 0
    for position in positions(*z.shape):
        if logits:
            L += loss_of_logit(z[position], t[position]) / NK  # (binary_cross_entropy.8)
        else:
            L += loss_of_probability(z[position], t[position]) / NK  # (binary_cross_entropy.1)
    return L


def backward(z, t, logits=False):
    """Gradient of the loss with respect to the output.

    Parameters
    ----------
    z, t, logits
        As in :func:`forward`.

    Returns
    -------
    dL_dz : array of the shape of z
    """
    NK = z.size
    p = sigmoid(z) if logits else z
    dL_dz = zeros(*z.shape)
    for position in positions(*z.shape):
        residual = p[position] - t[position]
        if logits:
            dL_dz[position] = residual / NK  # (binary_cross_entropy.10)
        else:
            dL_dz[position] = residual / slope(p[position]) / NK  # (binary_cross_entropy.3)
    return dL_dz


def loss_of_probability(p, t):
    """Return -(t log p + (1 - t) log(1 - p)), for one element."""
    return -(t * logarithm(p) + (1 - t) * logarithm(1 - p))


def loss_of_logit(z, t):
    """Return the same for the probability of z: max(z, 0) - z t, which is never negative, and the logarithm."""
    if z >= 0:
        return z * (1 - t) + log(1 + exp(-z))
    return -z * t + log(1 + exp(z))


def logarithm(p):
    """Return log p, and -100 for p = 0."""
    return -100 if p == 0 else log(p)


def slope(p):
    """Return p (1 - p), and 10⁻¹² for p = 0 and p = 1."""
    return Fraction(1, 10**12) if p == 0 or p == 1 else p * (1 - p)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: logits of both signs, and soft targets."""
    N, K = 3, 4
    z = rng.permutation([-1, 1] * 6).reshape(N, K) * rng.uniform(0.1, 3.0, size=(N, K))
    return SimpleNamespace(z=z, p=_p(z), t=rng.uniform(size=(N, K)), N=N, K=K)


def _p(z):
    return 1 / (1 + np.exp(-z))


def _of_probabilities(p, t):
    return -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))


def _dL_dp(s):
    return derivative(lambda p: forward(p, s.t), s.p)


def _dL_dz(s):
    return derivative(lambda z: forward(z, s.t, logits=True), s.z)


EQUATIONS = (
    Equation(
        "binary_cross_entropy.1",
        "L = -1 / (N K) Σ_n Σ_k (t[n,k] log p[n,k] + (1 - t[n,k]) log(1 - p[n,k]))",
        r"L = -\frac{1}{N K} \sum_n \sum_k \left( t_{nk} \log p_{nk} + (1 - t_{nk}) \log (1 - p_{nk}) \right)",
        "Definition: the cross entropy of a yes with probability p and a no with probability 1 - p.",
        (lambda s: forward(s.p, s.t), lambda s: _of_probabilities(s.p, s.t)),
    ),
    Equation(
        "binary_cross_entropy.2",
        "∂L/∂p[n,k] = -1 / (N K) (t[n,k] / p[n,k] - (1 - t[n,k]) / (1 - p[n,k]))",
        r"\frac{\partial L}{\partial p_{nk}} = -\frac{1}{N K} \left( \frac{t_{nk}}{p_{nk}}"
        r" - \frac{1 - t_{nk}}{1 - p_{nk}} \right)",
        "Only one term contains p[n,k]; the derivative of log p is 1/p, that of log(1 - p) is -1/(1 - p).",
        (_dL_dp, lambda s: -(s.t / s.p - (1 - s.t) / (1 - s.p)) / (s.N * s.K)),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.3",
        "∂L/∂p[n,k] = (p[n,k] - t[n,k]) / (p[n,k] (1 - p[n,k])) / (N K)",
        r"\frac{\partial L}{\partial p_{nk}} = \frac{1}{N K} \frac{p_{nk} - t_{nk}}{p_{nk} (1 - p_{nk})}",
        "Step 2 over the common denominator p (1 - p), in which -t (1 - p) + (1 - t) p is p - t.",
        (_dL_dp, lambda s: (s.p - s.t) / (s.p * (1 - s.p)) / (s.N * s.K)),
    ),
    Equation(
        "binary_cross_entropy.4",
        "log(1 - p[n,k]) = log(p[n,k] exp(-z[n,k])) = log p[n,k] - z[n,k]",
        r"\log (1 - p_{nk}) = \log (p_{nk}\, e^{-z_{nk}}) = \log p_{nk} - z_{nk}",
        "By (sigmoid.1) p is 1 / (1 + exp(-z)), so 1 - p is exp(-z) / (1 + exp(-z)).",
        (
            lambda s: np.log(1 - s.p),
            lambda s: np.log(s.p * np.exp(-s.z)),
            lambda s: np.log(s.p) - s.z,
        ),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.5",
        "L = 1 / (N K) Σ_n Σ_k ((1 - t[n,k]) z[n,k] - log p[n,k])",
        r"L = \frac{1}{N K} \sum_n \sum_k \left( (1 - t_{nk}) z_{nk} - \log p_{nk} \right)",
        "Step 4 in step 1: t log p and -t log p cancel.",
        (
            lambda s: _of_probabilities(s.p, s.t),
            lambda s: np.mean((1 - s.t) * s.z - np.log(s.p)),
        ),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.6",
        "L = 1 / (N K) Σ_n Σ_k (z[n,k] - z[n,k] t[n,k] + log(1 + exp(-z[n,k])))",
        r"L = \frac{1}{N K} \sum_n \sum_k \left( z_{nk} - z_{nk} t_{nk} + \log (1 + e^{-z_{nk}}) \right)",
        "In step 5 (sigmoid.1) for p: the logarithm of a quotient with numerator 1.",
        (
            lambda s: _of_probabilities(s.p, s.t),
            lambda s: np.mean(s.z - s.z * s.t + np.log(1 + np.exp(-s.z))),
        ),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.7",
        "z[n,k] + log(1 + exp(-z[n,k])) = log(exp(z[n,k]) + 1) = max(z[n,k], 0) + log(1 + exp(-|z[n,k]|))",
        r"z_{nk} + \log (1 + e^{-z_{nk}}) = \log (e^{z_{nk}} + 1) = \max(z_{nk}, 0) + \log (1 + e^{-|z_{nk}|})",
        "z is the logarithm of a factor exp(z); the last form is the first for z ≥ 0, the second for z < 0.",
        (
            lambda s: s.z + np.log(1 + np.exp(-s.z)),
            lambda s: np.log(np.exp(s.z) + 1),
            lambda s: np.maximum(s.z, 0) + np.log(1 + np.exp(-np.abs(s.z))),
        ),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.8",
        "L = 1 / (N K) Σ_n Σ_k (max(z[n,k], 0) - z[n,k] t[n,k] + log(1 + exp(-|z[n,k]|)))",
        r"L = \frac{1}{N K} \sum_n \sum_k \left( \max(z_{nk}, 0) - z_{nk} t_{nk} + \log (1 + e^{-|z_{nk}|}) \right)",
        "Step 7 in step 6: no exponent is positive, so nothing overflows, and no logarithm meets a 0.",
        (
            lambda s: forward(s.z, s.t, logits=True),
            lambda s: np.mean(np.maximum(s.z, 0) - s.z * s.t + np.log1p(np.exp(-np.abs(s.z)))),
        ),
    ),
    Equation(
        "binary_cross_entropy.9",
        "∂L/∂z[n,k] = ∂L/∂p[n,k] ∂p[n,k]/∂z[n,k] = ∂L/∂p[n,k] p[n,k] (1 - p[n,k])",
        r"\frac{\partial L}{\partial z_{nk}} = \frac{\partial L}{\partial p_{nk}}"
        r" \frac{\partial p_{nk}}{\partial z_{nk}} = \frac{\partial L}{\partial p_{nk}}\, p_{nk} (1 - p_{nk})",
        "Chain rule with (sigmoid.3): each z acts on its own p alone.",
        (
            _dL_dz,
            lambda s: _dL_dp(s) * np.einsum("nknk->nk", derivative(_p, s.z)),
            lambda s: _dL_dp(s) * s.p * (1 - s.p),
        ),
        computed=False,
    ),
    Equation(
        "binary_cross_entropy.10",
        "∂L/∂z[n,k] = (p[n,k] - t[n,k]) / (N K)",
        r"\frac{\partial L}{\partial z_{nk}} = \frac{p_{nk} - t_{nk}}{N K}",
        "Step 3 in step 9: the slope p (1 - p) cancels the denominator, prediction minus target remains.",
        (_dL_dz, lambda s: (s.p - s.t) / (s.N * s.K)),
    ),
)
