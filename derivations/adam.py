"""Adam, adaptive moment estimation: a mean of past gradients, divided by their size.

θ_t is the parameter after step number t = 1, 2, … (t counts steps here, it is no target), g_t the gradient
for step t. m_t and v_t are running means of the gradient and of its square (its first and second moment) that
start from 0; m_hat and v_hat are the same, freed of the bias towards this start. α is the learning rate; β1
and β2 are the shares of the means that are kept; ε keeps the quotient finite where all gradients were 0. All
equations hold for each element by itself.

ε is added to the root, not under it, as in the paper's algorithm 1 and in PyTorch. The quotient of m_hat
and √v_hat has no unit: where gradients agree it is ±1, however large they are, and a step is about α long;
where they contradict each other it is close to 0.

Sources
-------
S3 4.7.2 "ADAM"; S4 "Building Blocks: Normalization" (Adam optimizer); S0 "Training algorithms". S3 gives two
values of ε, 1e-9 in its line of Keras code and 1e-8 in the text; 1e-8 is the paper's. D. P. Kingma and J. Ba,
"Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980.

Worked example
--------------
The first step is α long for a gradient of 0.01 and for one of -1,000:

>>> theta, g = np.array([1.0, 1.0], dtype=object), np.array([0.01, -1000.0], dtype=object)
>>> options = {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
>>> theta, m, v = update(theta, g, m=zeros(2), v=zeros(2), t=1, **options)
>>> [round(value, 6) for value in theta]
[0.999, 1.001]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, sqrt, zeros

LETTERS = (
    ("t, j", "number of a step; of an earlier one"),
    ("m, v", "running means of the gradient and of its square"),
    ("β1, β2", "shares of these means that are kept"),
)


def update(theta, g, m, v, t, learning_rate, beta1, beta2, eps):
    """Return parameters and both moments after step number t.

    Parameters
    ----------
    theta, g, m, v : arrays of shape (K,)
        Parameters, their gradients, and the moments before the step.
    t : int
        Number of the step, 1 for the first.
    learning_rate, beta1, beta2, eps : numbers

    Returns
    -------
    theta, m, v : arrays of shape (K,)
    """
    stepped, first, second = zeros(*theta.shape), zeros(*theta.shape), zeros(*theta.shape)
    for k in range(len(theta)):
        first[k] = beta1 * m[k] + (1 - beta1) * g[k]  # (adam.1)
        second[k] = beta2 * v[k] + (1 - beta2) * g[k] * g[k]  # (adam.2)
        m_hat = first[k] / (1 - beta1**t)  # (adam.3)
        v_hat = second[k] / (1 - beta2**t)  # (adam.4)
        stepped[k] = theta[k] - learning_rate * m_hat / (sqrt(v_hat) + eps)  # (adam.5)
    return stepped, first, second


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: a start and the gradients of five steps."""
    return SimpleNamespace(
        theta=rng.normal(size=3), g=rng.normal(size=(5, 3)), alpha=0.1, beta1=0.8, beta2=0.95, eps=0.01
    )


def _after(s, gradients):
    """θ, m and v after as many steps of the literal code as there are gradients."""
    theta, m, v = s.theta, np.zeros(3), np.zeros(3)
    for t, g in enumerate(gradients, start=1):
        theta, m, v = update(theta, g, m, v, t, s.alpha, s.beta1, s.beta2, s.eps)
    return theta, m, v


def _weights(beta):
    """β^(t-j) for j = 1 … t and t = 5: the last gradient counts most."""
    return beta ** np.arange(4, -1, -1)


def _m_hat(s):
    return np.average(s.g, axis=0, weights=_weights(s.beta1))


def _v_hat(s):
    return np.average(s.g**2, axis=0, weights=_weights(s.beta2))


EQUATIONS = (
    Equation(
        "adam.1",
        "m_t = β1 m_(t-1) + (1 - β1) g_t",
        r"m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t",
        "Definition: a running mean of the gradients, in which old ones fade away.",
        (
            lambda s: _after(s, s.g)[1],
            lambda s: s.beta1 * _after(s, s.g[:-1])[1] + (1 - s.beta1) * s.g[-1],
        ),
    ),
    Equation(
        "adam.2",
        "v_t = β2 v_(t-1) + (1 - β2) g_t²",
        r"v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2",
        "Definition: the same for their squares, of which the root is the usual size of a gradient.",
        (
            lambda s: _after(s, s.g)[2],
            lambda s: s.beta2 * _after(s, s.g[:-1])[2] + (1 - s.beta2) * s.g[-1] ** 2,
        ),
    ),
    Equation(
        "adam.3",
        "m_hat_t = m_t / (1 - β1^t)",
        r"\hat m_t = \frac{m_t}{1 - \beta_1^t}",
        "The weighted mean of the gradients: by (adam.7) their weights in m_t add up to 1 - β1^t only.",
        (_m_hat, lambda s: _after(s, s.g)[1].astype(float) / (1 - s.beta1**5)),
    ),
    Equation(
        "adam.4",
        "v_hat_t = v_t / (1 - β2^t)",
        r"\hat v_t = \frac{v_t}{1 - \beta_2^t}",
        "The same for the squares.",
        (_v_hat, lambda s: _after(s, s.g)[2].astype(float) / (1 - s.beta2**5)),
    ),
    Equation(
        "adam.5",
        "θ_t = θ_(t-1) - α m_hat_t / (√v_hat_t + ε)",
        r"\theta_t = \theta_{t-1} - \alpha\, \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}",
        "Definition: a step along the mean gradient, measured by the usual size of a gradient.",
        (
            lambda s: _after(s, s.g)[0],
            lambda s: _after(s, s.g[:-1])[0] - s.alpha * _m_hat(s) / (np.sqrt(_v_hat(s)) + s.eps),
        ),
    ),
    Equation(
        "adam.6",
        "m_t = (1 - β1) Σ_(j=1…t) β1^(t-j) g_j",
        r"m_t = (1 - \beta_1) \sum_{j=1}^{t} \beta_1^{t-j}\, g_j",
        "(adam.1) put into itself, from m_0 = 0 on; (adam.2) gives the same for v_t with β2 and squares.",
        (lambda s: _after(s, s.g)[1], lambda s: (1 - s.beta1) * _weights(s.beta1) @ s.g),
        computed=False,
    ),
    Equation(
        "adam.7",
        "(1 - β1) Σ_(j=1…t) β1^(t-j) = 1 - β1^t",
        r"(1 - \beta_1) \sum_{j=1}^{t} \beta_1^{t-j} = 1 - \beta_1^t",
        "A geometric sum: all weights of (adam.6); the rest β1^t is the weight of the start m_0 = 0.",
        (lambda s: (1 - s.beta1) * np.sum(_weights(s.beta1)), lambda s: 1 - s.beta1**5),
        computed=False,
    ),
    Equation(
        "adam.8",
        "m_hat_t = g (1 - β1^t) / (1 - β1^t) = g (if every g_j=g)",
        r"\hat m_t = \frac{g\, (1 - \beta_1^t)}{1 - \beta_1^t} = g \quad (\text{if every } g_j=g)",
        "(adam.7) in (adam.6) in (adam.3): for a constant gradient the mean is exact from the first step on.",
        (
            lambda s: _after(s, [s.g[0]] * 5)[1] / (1 - s.beta1**5),
            lambda s: s.g[0] * (1 - s.beta1) * np.sum(_weights(s.beta1)) / (1 - s.beta1**5),
            lambda s: s.g[0],
        ),
        computed=False,
    ),
    Equation(
        "adam.9",
        "v_hat_t = g² (1 - β2^t) / (1 - β2^t) = g² (if every g_j=g)",
        r"\hat v_t = \frac{g^2\, (1 - \beta_2^t)}{1 - \beta_2^t} = g^2 \quad (\text{if every } g_j=g)",
        "The same for the squares.",
        (
            lambda s: _after(s, [s.g[0]] * 5)[2] / (1 - s.beta2**5),
            lambda s: s.g[0] ** 2 * (1 - s.beta2) * np.sum(_weights(s.beta2)) / (1 - s.beta2**5),
            lambda s: s.g[0] ** 2,
        ),
        computed=False,
    ),
    Equation(
        "adam.10",
        "θ_t = θ_(t-1) - α g / (|g| + ε) (if every g_j=g)",
        r"\theta_t = \theta_{t-1} - \alpha\, \frac{g}{|g| + \varepsilon} \quad (\text{if every } g_j=g)",
        "(adam.8) and (adam.9) in (adam.5): while the gradient does not change, each step is nearly α long.",
        (
            lambda s: _after(s, [s.g[0]] * 5)[0],
            lambda s: _after(s, [s.g[0]] * 4)[0] - s.alpha * s.g[0] / (np.abs(s.g[0]) + s.eps),
        ),
        computed=False,
    ),
)
