"""How weights start: of such a size that signals neither die nor explode, and not all alike.

Signals. A weighted sum z = Σ_j W[j] x[j] of J inputs (J is the fan-in; the W[j] are one row of W) is a random
number before training, as its weights are drawn at random: independent of each other and of the inputs, all from one
distribution that is symmetrical around 0 and has the variance v = E[W²]. E is the mean over all that is drawn. Then
the variance of z is J v times the mean square of the inputs (initializers.3), and M layers multiply by J v M times.
If J v is .02, the signal is gone after eight layers; if it is 50, it has exploded.

ReLU sets half of all z to 0 and takes away half of their mean square (initializers.4), so each layer keeps it if v is
2 / J: K. He and others. tanh is close to the identity for small z and wants v = 1 / J; on the way back the gradient
is summed over the I outputs and wants v = 1 / I (initializers.6). X. Glorot and Y. Bengio (the initializer carries
the former's first name, Xavier) take the harmonic mean of both (initializers.7), and draw from a uniform
distribution, whose bounds follow from (initializers.8).

Symmetry. Start all weights alike, with zeros for instance, and two units of a hidden layer compute the same, so
they receive the same gradient (initializers.10), (initializers.11), take the same step, and are alike again: a
hidden layer of 500 units then learns no more than one with a single unit. With zeros this net learns nothing at all
but the biases of its last layer, if it has them (initializers.12), (initializers.13). Random numbers break the
symmetry; biases may start at 0. In these equations a = tanh(W x + b) are the hidden units of a net with the outputs
y = V a.

Sources
-------
S1 "Training of the Network" ("initialization with small random numbers (instead of all zeros) to break the
symmetry, otherwise all the hidden units would learn the same function of the input"); S2 "CNN" ("the values
within the filter are initialized with random numbers"); S3 "Feed forward process" (random weights). The notes
do not say how small; whether small numbers are right depends on the fan-in, as the example shows. S1 starts the
biases with small random numbers as well, which symmetry does not require. K. He, X. Zhang, S. Ren, J. Sun,
"Delving deep into rectifiers", 2015, equations 7 to 10. X. Glorot, Y. Bengio, "Understanding the difficulty of
training deep feedforward neural networks", 2010, equations 10 to 16.

Worked example
--------------
The first layer of S3's 784-512-512-10 network, with the standard deviation for ReLU and the bound for tanh:

>>> round(he(784, 512), 4), round(xavier(784, 512), 4)
(0.0505, 0.068)

With a standard deviation of .01 instead, each hidden layer behind it leaves only this part of the mean square:

>>> round(512 * 0.01**2 / 2, 4)
0.0256
>>> round(512 * he(512, 512) ** 2 / 2, 4)
1.0
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, sqrt

LETTERS = (
    ("W, b; V", "weights and biases of a layer (W[j] in one of its rows); weights of the next layer"),
    ("v", "variance of every weight"),
    ("E, Var", "mean and variance over all that is drawn at random"),
    ("l", "bound of a uniform distribution, from -l to l"),
    ("i, o", "one of the hidden units; one of the outputs y of the net"),
    ("j, k", "two of the J inputs"),
    ("y", "outputs of the net"),
)


def he(fan_in, fan_out):
    """Return the standard deviation of normally distributed weights in front of a ReLU.

    Parameters
    ----------
    fan_in, fan_out : int
        J, the number of inputs that an output reads; I, the number of outputs that an input reaches.

    Returns
    -------
    number
    """
    return sqrt(2 / fan_in)  # (initializers.5)


def xavier(fan_in, fan_out):
    """Return the bound l of weights uniformly distributed from -l to l, in front of a tanh.

    Parameters
    ----------
    fan_in, fan_out : int
        As in :func:`he`.

    Returns
    -------
    number
    """
    return sqrt(6 / (fan_in + fan_out))  # (initializers.9)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated.

    ``weights`` are the values that every weight takes with equal probability, symmetrical around 0; x and dL_dz are
    three samples each of J inputs and of I upstream gradients. V, x1 and target make a net whose first two hidden
    units are twins.
    """
    J, I = 3, 4
    sizes = rng.uniform(0.2, 2.0, size=2)
    W, b, V = rng.normal(size=(3, J)), rng.normal(size=3), rng.normal(size=(2, 3))
    W[1], b[1], V[:, 1] = W[0], b[0], V[:, 0]
    return SimpleNamespace(
        J=J,
        I=I,
        weights=np.array([*-sizes, *sizes]),
        v=np.mean(sizes**2),
        x=rng.normal(0.5, 1, size=(3, J)),
        dL_dz=rng.normal(size=(3, I)),
        W=W,
        b=b,
        V=V,
        x1=rng.normal(size=J),
        target=rng.normal(size=2),
    )


def _rows(s, length):
    """Every possible row of weights, all equally probable: (4^length, length)."""
    return np.array(list(product(s.weights, repeat=length)))


def _sums(s, values):
    """Σ_j W[j] x[j] for every possible row and every sample, all equally probable."""
    return _rows(s, values.shape[1]) @ values.T


def _mean_products(rows):
    """E[W[j] W[k]] for every j and k."""
    return rows.T @ rows / len(rows)


def _input_gradient(s):
    """E[(∂L/∂x[j])²], where ∂L/∂x[j] = Σ_i W[i,j] ∂L/∂z[i] by (dense.6)."""
    return np.mean(_sums(s, s.dL_dz) ** 2)


def _variance_that_keeps(factor, s):
    """The variance at which a mean square is multiplied by 1, if it is multiplied by ``factor`` at the variance v."""
    return s.v / factor


def _y(s, W, V):
    return V @ np.tanh(W @ s.x1 + s.b)


def _L(s, W, V):
    return np.sum((_y(s, W, V) - s.target) ** 2)


def _dL_dy(s, W, V):
    return derivative(lambda y: np.sum((y - s.target) ** 2), _y(s, W, V))


def _dL_dW(s):
    return derivative(lambda W: _L(s, W, s.V), s.W)


def _dL_dV(s):
    return derivative(lambda V: _L(s, s.W, V), s.V)


def _by_chain_rule(s, unit):
    """∂L/∂a[i] (1 - a[i]²) x[j] for one hidden unit i and every j."""
    a = np.tanh(s.W @ s.x1 + s.b)
    dL_da = derivative(lambda a: np.sum((s.V @ a - s.target) ** 2), a)
    return dL_da[unit] * (1 - a[unit] ** 2) * s.x1


def _with_zeros(s):
    """The same net with all weights 0, and biases 0 as well."""
    return SimpleNamespace(**vars(s) | {"W": 0 * s.W, "b": 0 * s.b, "V": 0 * s.V})


EQUATIONS = (
    Equation(
        "initializers.1",
        "E[z²] = Σ_j Σ_k E[W[j] W[k]] E[x[j] x[k]]",
        r"E[z^2] = \sum_j \sum_k E[W_j W_k]\, E[x_j x_k]",
        "The square of z = Σ_j W[j] x[j]; the weights do not depend on the input, so means of products are products.",
        (
            lambda s: np.mean(_sums(s, s.x) ** 2),
            lambda s: np.sum(_mean_products(_rows(s, s.J)) * _mean_products(s.x)),
        ),
        computed=False,
    ),
    Equation(
        "initializers.2",
        "E[W[j] W[k]] = [j=k] v",
        r"E[W_j W_k] = [j=k]\, v",
        "Independent weights: for j ≠ k it is E[W[j]] E[W[k]] and both are 0; for j = k it is the variance v.",
        (lambda s: _mean_products(_rows(s, s.J)), lambda s: s.v * np.eye(s.J)),
        computed=False,
    ),
    Equation(
        "initializers.3",
        "Var(z) = E[z²] = v Σ_j E[x[j]²] = J v E[x²]",
        r"\mathrm{Var}(z) = E[z^2] = v \sum_j E[x_j^2] = J v\, E[x^2]",
        "The mean of z is 0; the bracket of (initializers.2) leaves k = j. E[x²] is the mean over all inputs.",
        (
            lambda s: np.var(_sums(s, s.x)),
            lambda s: np.mean(_sums(s, s.x) ** 2),
            lambda s: s.v * np.sum(np.mean(s.x**2, axis=0)),
            lambda s: s.J * s.v * np.mean(s.x**2),
        ),
        computed=False,
    ),
    Equation(
        "initializers.4",
        "E[max(0, z)²] = E[z²] / 2 = J v E[x²] / 2",
        r"E[\max(0, z)^2] = \frac{E[z^2]}{2} = \frac{J v\, E[x^2]}{2}",
        "Weights as often W as -W make z as often z as -z, and of each such pair the ReLU keeps one; (initializers.3).",
        (
            lambda s: np.mean(np.maximum(0, _sums(s, s.x)) ** 2),
            lambda s: np.mean(_sums(s, s.x) ** 2) / 2,
            lambda s: s.J * s.v * np.mean(s.x**2) / 2,
        ),
        computed=False,
    ),
    Equation(
        "initializers.5",
        "√v = √(2 / J) (he: E[max(0, z)²]=E[x²])",
        r"\sqrt{v} = \sqrt{\frac{2}{J}} \quad (\text{he: } E[\max(0, z)^2] = E[x^2])",
        "In (initializers.4) the mean square behind the ReLU is that of the inputs if J v / 2 is 1.",
        (
            lambda s: np.sqrt(_variance_that_keeps(np.mean(np.maximum(0, _sums(s, s.x)) ** 2) / np.mean(s.x**2), s)),
            lambda s: he(s.J, s.I),
        ),
    ),
    Equation(
        "initializers.6",
        "E[(∂L/∂x)²] = I v E[(∂L/∂z)²]",
        r"E\left[ \left( \frac{\partial L}{\partial x} \right)^2 \right]"
        r" = I v\, E\left[ \left( \frac{\partial L}{\partial z} \right)^2 \right]",
        "∂L/∂x[j] = Σ_i W[i,j] ∂L/∂z[i] is such a sum too, of I terms; that ∂L/∂z ignores W is an approximation.",
        (_input_gradient, lambda s: s.I * s.v * np.mean(s.dL_dz**2)),
        computed=False,
    ),
    Equation(
        "initializers.7",
        "v = 2 / (1 / v_1 + 1 / v_2) = 2 / (J + I)",
        r"v = \frac{2}{1 / v_1 + 1 / v_2} = \frac{2}{J + I}",
        "The harmonic mean of v_1 = 1 / J, right for signals (initializers.3), and v_2 = 1 / I, right for gradients.",
        (
            lambda s: xavier(s.J, s.I) ** 2 / 3,
            lambda s: (
                2
                / (
                    1 / _variance_that_keeps(np.mean(_sums(s, s.x) ** 2) / np.mean(s.x**2), s)
                    + 1 / _variance_that_keeps(_input_gradient(s) / np.mean(s.dL_dz**2), s)
                )
            ),
            lambda s: 2 / (s.J + s.I),
        ),
        computed=False,
    ),
    Equation(
        "initializers.8",
        "E[W²] = (l³ - (-l)³) / (3 · 2 l) = l² / 3 (uniform from -l to l)",
        r"E[W^2] = \frac{l^3 - (-l)^3}{3 \cdot 2 l} = \frac{l^2}{3} \quad (\text{uniform from } -l \text{ to } l)",
        "The density is 1 / (2 l), and W³ / 3 has the derivative W².",
        (
            lambda s: np.polynomial.legendre.leggauss(2)[1] @ (s.v * np.polynomial.legendre.leggauss(2)[0]) ** 2 / 2,
            lambda s: (s.v**3 - (-s.v) ** 3) / (3 * 2 * s.v),
            lambda s: s.v**2 / 3,
        ),
        computed=False,
    ),
    Equation(
        "initializers.9",
        "l = √(3 v) = √(6 / (J + I)) (xavier)",
        r"l = \sqrt{3 v} = \sqrt{\frac{6}{J + I}} \quad (\text{xavier})",
        "(initializers.8) solved for l, with the variance of (initializers.7).",
        (
            lambda s: xavier(s.J, s.I),
            lambda s: np.sqrt(3 * 2 / (s.J + s.I)),
            lambda s: np.sqrt(6 / (s.J + s.I)),
        ),
    ),
    Equation(
        "initializers.10",
        "∂L/∂W[1,j] = ∂L/∂a[1] (1 - a[1]²) x[j] = ∂L/∂a[2] (1 - a[2]²) x[j] = ∂L/∂W[2,j]",
        r"\frac{\partial L}{\partial W_{1j}} = \frac{\partial L}{\partial a_1} (1 - a_1^2)\, x_j"
        r" = \frac{\partial L}{\partial a_2} (1 - a_2^2)\, x_j = \frac{\partial L}{\partial W_{2j}}",
        "Twins, W[1,j]=W[2,j], b[1]=b[2], V[o,1]=V[o,2]: then a[1] is a[2], and ∂L/∂a[i] = Σ_o V[o,i] ∂L/∂y[o].",
        (
            lambda s: _dL_dW(s)[0],
            lambda s: _by_chain_rule(s, 0),
            lambda s: _by_chain_rule(s, 1),
            lambda s: _dL_dW(s)[1],
        ),
        computed=False,
    ),
    Equation(
        "initializers.11",
        "∂L/∂V[o,1] = ∂L/∂y[o] a[1] = ∂L/∂y[o] a[2] = ∂L/∂V[o,2]",
        r"\frac{\partial L}{\partial V_{o1}} = \frac{\partial L}{\partial y_o}\, a_1"
        r" = \frac{\partial L}{\partial y_o}\, a_2 = \frac{\partial L}{\partial V_{o2}}",
        "The weights behind the twins are alike after the step as well, by (dense.4).",
        (
            lambda s: _dL_dV(s)[:, 0],
            lambda s: _dL_dy(s, s.W, s.V) * np.tanh(s.W[0] @ s.x1 + s.b[0]),
            lambda s: _dL_dy(s, s.W, s.V) * np.tanh(s.W[1] @ s.x1 + s.b[1]),
            lambda s: _dL_dV(s)[:, 1],
        ),
        computed=False,
    ),
    Equation(
        "initializers.12",
        "∂L/∂W[i,j] = Σ_o V[o,i] ∂L/∂y[o] (1 - a[i]²) x[j] = 0 (zeros)",
        r"\frac{\partial L}{\partial W_{ij}} = \sum_o V_{oi} \frac{\partial L}{\partial y_o} (1 - a_i^2)\, x_j"
        r" = 0 \quad (\text{zeros})",
        "With V = 0 no gradient comes back through the last layer, so neither W nor b changes.",
        (
            lambda s: _dL_dW(_with_zeros(s)),
            lambda s: np.outer(0 * s.V.T @ _dL_dy(s, 0 * s.W, 0 * s.V) * (1 - np.tanh(0 * s.b) ** 2), s.x1),
            lambda s: np.zeros(s.W.shape),
        ),
        computed=False,
    ),
    Equation(
        "initializers.13",
        "∂L/∂V[o,i] = ∂L/∂y[o] a[i] = 0 (zeros)",
        r"\frac{\partial L}{\partial V_{oi}} = \frac{\partial L}{\partial y_o}\, a_i = 0 \quad (\text{zeros})",
        "With W = 0 and b = 0 all a are tanh(0) = 0, so V does not change either.",
        (
            lambda s: _dL_dV(_with_zeros(s)),
            lambda s: np.outer(_dL_dy(_with_zeros(s), 0 * s.W, 0 * s.V), np.tanh(0 * s.b)),
            lambda s: np.zeros(s.V.shape),
        ),
        computed=False,
    ),
)
