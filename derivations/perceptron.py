"""Loss of the perceptron: half the number of wrong answers per sample, of neurons that fire or do not fire.

a[n,k] is the output of neuron k for sample n, 0 or 1, as the layer ``step`` gives it; t[n,k] is its target, 0 or 1.
Written with squares, the count of the errors has a slope in a, and one that says what is wanted: a - t is 1
where the neuron fired and should not have, -1 where it should have, 0 where it was right.

The perceptron's story
----------------------
One neuron weighs its inputs and fires if the sum reaches 0 (perceptron.3). Its loss as a function of the weights
is a staircase, flat but for its jumps, so its gradient is 0 and says nothing. Let the gradient pass through the step as
if that were a straight line, r = z (the surrogate "straight-through" of the layer ``step``, which is not a
derivative), and the chain rule gives (perceptron.4) and (perceptron.5). A step of gradient descent with them is
(perceptron.6) and (perceptron.7), word for word the rule that F. Rosenblatt found in another way: if the answer is
right do nothing, else add the input to the weights, or subtract it. ``update`` is this rule for one sample.

Why it converges. Suppose that some weights u and bias v, with Σ u² + v² = 1, answer all samples right and no
weighted sum u·x + v comes closer to 0 than a margin γ > 0. No sample is longer than R: Σ x² + 1 ≤ R². Start from
zeros. Whenever the neuron errs, the projection of its weights on (u, v) grows by at least α γ, as t - a has the sign
of u·x + v in (perceptron.8), and the square of their length by at most α² R², as (t - a) z is not positive in
(perceptron.9). After M errors the projection is at least α γ M and the length at most α R √M. A projection is no
longer than the vector: M ≤ (R / γ)². So the neuron errs only finitely often, whatever α is and in whatever order the
samples come: the perceptron convergence theorem.

Why XOR cannot be learned. The four samples demand four inequalities: b < 0 for (0, 0), w[2] + b ≥ 0 for (0, 1),
w[1] + b ≥ 0 for (1, 0), and w[1] + w[2] + b < 0 for (1, 1). The sum of the two in the middle is not negative, that
of the outer two is negative, and both are the same number, (perceptron.10). So no weights do it, and no learning
rule can find any; the theorem says nothing, as there is no margin. Two layers of neurons can do it: see below.

Sources
-------
S4 "Building Blocks: Perceptron", a = σ(Σ_i w_i x_i + b); S1 "History of Neural Networks" ("cannot learn the XOR
function") and "Artificial Neural Networks" ("one neuron"); S3 "Feed forward process". Two omissions are mended:
the first of S4's slides has no activation function, and S3's formulas of a layer have no bias; without one a
neuron separates only by lines through the origin. F. Rosenblatt, "The perceptron: a probabilistic model for
information storage and organization in the brain", Psychological Review 65, 1958. A. B. J. Novikoff, "On
convergence proofs on perceptrons", Symposium on the Mathematical Theory of Automata 12, 1962, for the theorem.
M. Minsky, S. Papert, "Perceptrons", 1969, for XOR, which is the parity of two bits.

Worked examples
---------------
A neuron with S3's numbers, the inputs (3, 4, 2) and the second column of the matrix as weights. The sum is 63 and
the neuron fires; the target is 0, so the input is subtracted, and with α = 1 the sum falls by 3² + 4² + 2² + 1 = 30:

>>> x, w, b = np.array([3, 4, 2], dtype=object), np.array([9, 7, 4], dtype=object), 0
>>> sum(w * x) + b
63
>>> w, b = update(w, b, x, 0, learning_rate=1)
>>> w.tolist(), b, sum(w * x) + b
([6, 3, 2], -1, 33)

AND is learned, from zeros, in five passes with 11 errors. At most (R / γ)² = 3 · 17 = 51 were possible (by u = (2, 2)
/ √17 and v = -3 / √17, whose margin is 1 / √17):

>>> corners = [np.array(corner, dtype=object) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))]
>>> def errors_in_each_pass(targets, passes):
...     w, b, counts = zeros(2), 0, []
...     for _ in range(passes):
...         errors = 0
...         for x, t in zip(corners, targets):
...             changed, moved = update(w, b, x, t, learning_rate=1)
...             errors += moved != b
...             w, b = changed, moved
...         counts.append(errors)
...     return w.tolist(), b, counts
>>> errors_in_each_pass([0, 0, 0, 1], passes=8)
([2, 1], -3, [2, 3, 3, 2, 1, 0, 0, 0])

XOR is not, however long one waits:

>>> w, b, counts = errors_in_each_pass([0, 1, 1, 0], passes=1000)
>>> min(counts) > 0
True

Three neurons in two layers compute XOR: "x or y" and "not both", and then both of these:

>>> def fires(w, b, *x):
...     return int(sum(wi * xi for wi, xi in zip(w, x)) + b >= 0)
>>> [fires((1, 1), -2, fires((1, 1), -1, *x), fires((-1, -1), 1, *x)) for x in corners]
[0, 1, 1, 0]

The loss of four answers of one neuron, the last of them wrong, and its gradient:

>>> a, t = np.array([[0], [1], [1], [1]]), np.array([[0], [1], [1], [0]])
>>> float(forward(a, t)), backward(a, t)[:, 0].astype(float).tolist()
(0.125, [0.0, 0.0, 0.0, 0.25])
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from . import dense, step
from .notation import Equation, derivative, positions, zeros

LETTERS = (
    ("w, b", "weights and bias of one neuron"),
    ("j", "one of its inputs"),
    ("t", "target, 0 or 1"),
    ("r, L(r)", "the straight line r = z in place of the step; the loss with it"),
    ("u, v", "any weights and any bias to compare with"),
)


def forward(a, t):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    a, t : arrays of one shape (N, ...)
        Output of neurons and target; 0 or 1.

    Returns
    -------
    number
    """
    N = len(a)
    L = 0
    for position in positions(*a.shape):
        residual = a[position] - t[position]
        L += residual * residual / (2 * N)  # (perceptron.1)
    return L


def backward(a, t):
    """Gradient of the loss with respect to the output of the neurons.

    Parameters
    ----------
    a, t
        As in :func:`forward`.

    Returns
    -------
    dL_da : array of the shape of a
    """
    N = len(a)
    dL_da = zeros(*a.shape)
    for position in positions(*a.shape):
        dL_da[position] = (a[position] - t[position]) / N  # (perceptron.2)
    return dL_da


def update(w, b, x, t, *, learning_rate):
    """Return weights and bias of one neuron after it has seen one sample: Rosenblatt's rule.

    Parameters
    ----------
    w, x : arrays of shape (J,)
        Weights and inputs.
    b, t : numbers
        Bias; target, 0 or 1.
    learning_rate : number

    Returns
    -------
    w_new : array of shape (J,)
    b_new : number
    """
    z = b
    for j in range(len(w)):
        z += w[j] * x[j]
    a = 1 if z >= 0 else 0
    w_new = zeros(len(w))
    for j in range(len(w)):
        w_new[j] = w[j] + learning_rate * (t - a) * x[j]
    return w_new, b + learning_rate * (t - a)


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: a mini-batch, and a neuron that is wrong."""
    N, K, J = 4, 3, 3
    t, x, w, b = rng.integers(0, 2, size=(N, K)), rng.normal(size=J), rng.normal(size=J), rng.normal()
    a = np.where(rng.permutation(N * K).reshape(N, K) < 5, 1 - t, t)
    answer = 1 if w @ x + b >= 0 else 0
    u, v = rng.normal(size=J), rng.normal()
    return SimpleNamespace(
        a=a.astype(float), t=t, N=N, x=x, w=w, b=b, target=1 - answer, answer=answer, alpha=0.3, u=u, v=v
    )


def _derivatives_of_squares(s):
    """∂(a[n,k] - t[n,k])²/∂a[n,k] for every n and k."""
    return np.einsum("nknk->nk", derivative(lambda a: (a - s.t) ** 2, s.a))


def _neuron(s):
    """The layers of one neuron, one after the other: its output as an array of one value."""
    return step.forward(dense.forward(s.x, s.w[None], np.array([s.b])))


def _through_the_layers(s):
    """(∂L(r)/∂w, ∂L(r)/∂b) of a mini-batch of one sample, by the literal code of loss, step and dense layer."""
    W, b = s.w[None], np.array([s.b])
    z = dense.forward(s.x, W, b)
    dL_da = backward(step.forward(z)[None], np.array([[s.target]]))[0]
    (dL_dz,) = step.backward(dL_da, z, surrogate="straight-through")
    _, dL_dW, dL_db = dense.backward(dL_dz, s.x, W, b)
    return dL_dW[0].astype(float), float(dL_db[0])


def _chain(s):
    """The same as products of ∂L/∂a, ∂r/∂z = 1 and the derivatives of z."""
    dL_da = derivative(lambda a: (a[0] - s.target) ** 2 / 2, np.array([float(s.answer)]))[0]
    dr_dz = derivative(lambda z: z[0], np.array([s.w @ s.x + s.b]))[0]
    dz_dw, dz_db = derivative(lambda w: w @ s.x + s.b, s.w), derivative(lambda b: s.w @ s.x + b[0], np.array([s.b]))
    return dL_da * dr_dz * dz_dw, dL_da * dr_dz * dz_db[0]


def _z_at(s, *corner):
    """The weighted sum of a corner of the unit square, with the first two weights."""
    return dense.forward(np.array(corner), s.w[None, :2], np.array([s.b]))[0]


def _updated(s):
    w, b = update(s.w, s.b, s.x, s.target, learning_rate=s.alpha)
    return w.astype(float), b


EQUATIONS = (
    Equation(
        "perceptron.1",
        "L = 1 / (2 N) Σ_n Σ_k (a[n,k] - t[n,k])² = 1 / (2 N) Σ_n Σ_k [a[n,k]≠t[n,k]]",
        r"L = \frac{1}{2 N} \sum_n \sum_k (a_{nk} - t_{nk})^2 = \frac{1}{2 N} \sum_n \sum_k [a_{nk} \ne t_{nk}]",
        "Definition; as a and t are 0 or 1, a square is 1 where they differ, and the sum counts the wrong answers.",
        (
            lambda s: forward(s.a, s.t),
            lambda s: np.sum((s.a - s.t) ** 2) / (2 * s.N),
            lambda s: np.count_nonzero(s.a != s.t) / (2 * s.N),
        ),
    ),
    Equation(
        "perceptron.2",
        "∂L/∂a[n,k] = 1 / (2 N) ∂(a[n,k] - t[n,k])²/∂a[n,k] = (a[n,k] - t[n,k]) / N",
        r"\frac{\partial L}{\partial a_{nk}} = \frac{1}{2 N} \frac{\partial (a_{nk} - t_{nk})^2}{\partial a_{nk}}"
        r" = \frac{a_{nk} - t_{nk}}{N}",
        "Of the sum only one term contains a[n,k]; the 2 of the power rule cancels the 2 of the definition.",
        (
            lambda s: derivative(lambda a: forward(a, s.t), s.a),
            lambda s: _derivatives_of_squares(s) / (2 * s.N),
            lambda s: (s.a - s.t) / s.N,
        ),
    ),
    Equation(
        "perceptron.3",
        "a = [z≥0] = 1 - [z<0] (z=Σ_j w[j] x[j] + b)",
        r"a = [z \ge 0] = 1 - [z < 0] \quad \left( z = \sum_j w_j x_j + b \right)",
        "One neuron: (dense.1) with a single output, then (step.1).",
        (
            lambda s: _neuron(s)[0],
            lambda s: np.heaviside(np.sum(s.w * s.x) + s.b, 1),
            lambda s: 1 - np.signbit(np.sum(s.w * s.x) + s.b),
        ),
        computed=False,
    ),
    Equation(
        "perceptron.4",
        "∂L(r)/∂w[j] = ∂L/∂a ∂r/∂z ∂z/∂w[j] = (a - t) x[j] (r=z)",
        r"\frac{\partial L(r)}{\partial w_j} = \frac{\partial L}{\partial a} \frac{\partial r}{\partial z}"
        r" \frac{\partial z}{\partial w_j} = (a - t)\, x_j \quad (r = z)",
        "(perceptron.2) for a single sample, (step.5) and (dense.3). Not the derivative of L, which is 0 by (step.3).",
        (
            lambda s: _through_the_layers(s)[0],
            lambda s: _chain(s)[0],
            lambda s: (s.answer - s.target) * s.x,
        ),
        computed=False,
    ),
    Equation(
        "perceptron.5",
        "∂L(r)/∂b = ∂L/∂a ∂r/∂z ∂z/∂b = a - t (r=z)",
        r"\frac{\partial L(r)}{\partial b} = \frac{\partial L}{\partial a} \frac{\partial r}{\partial z}"
        r" \frac{\partial z}{\partial b} = a - t \quad (r = z)",
        "The bias is a weight whose input is always 1.",
        (
            lambda s: _through_the_layers(s)[1],
            lambda s: _chain(s)[1],
            lambda s: s.answer - s.target,
        ),
        computed=False,
    ),
    Equation(
        "perceptron.6",
        "w_new[j] = w[j] - α ∂L(r)/∂w[j] = w[j] + α (t - a) x[j]",
        r"w^{\mathrm{new}}_j = w_j - \alpha \frac{\partial L(r)}{\partial w_j} = w_j + \alpha\, (t - a)\, x_j",
        "Gradient descent (sgd.1) with (perceptron.4) is the rule of the perceptron.",
        (
            lambda s: _updated(s)[0],
            lambda s: s.w - s.alpha * _through_the_layers(s)[0],
            lambda s: s.w + s.alpha * (s.target - s.answer) * s.x,
        ),
        computed=False,
    ),
    Equation(
        "perceptron.7",
        "b_new = b - α ∂L(r)/∂b = b + α (t - a)",
        r"b^{\mathrm{new}} = b - \alpha \frac{\partial L(r)}{\partial b} = b + \alpha\, (t - a)",
        "The same for the bias, with (perceptron.5).",
        (
            lambda s: _updated(s)[1],
            lambda s: s.b - s.alpha * _through_the_layers(s)[1],
            lambda s: s.b + s.alpha * (s.target - s.answer),
        ),
        computed=False,
    ),
    Equation(
        "perceptron.8",
        "Σ_j u[j] w_new[j] + v b_new = Σ_j u[j] w[j] + v b + α (t - a) (Σ_j u[j] x[j] + v)",
        r"\sum_j u_j w^{\mathrm{new}}_j + v\, b^{\mathrm{new}} = \sum_j u_j w_j + v b"
        r" + \alpha\, (t - a) \left( \sum_j u_j x_j + v \right)",
        "(perceptron.6) and (perceptron.7) multiplied by any u and v, and added up: the projection on them.",
        (
            lambda s: s.u @ _updated(s)[0] + s.v * _updated(s)[1],
            lambda s: s.u @ s.w + s.v * s.b + s.alpha * (s.target - s.answer) * (s.u @ s.x + s.v),
        ),
        computed=False,
    ),
    Equation(
        "perceptron.9",
        "Σ_j w_new[j]² + b_new² = Σ_j w[j]² + b² + 2 α (t - a) z + α² (t - a)² (Σ_j x[j]² + 1)",
        r"\sum_j (w^{\mathrm{new}}_j)^2 + (b^{\mathrm{new}})^2 = \sum_j w_j^2 + b^2 + 2 \alpha\, (t - a)\, z"
        r" + \alpha^2 (t - a)^2 \left( \sum_j x_j^2 + 1 \right)",
        "The square of a sum, for each weight and the bias; the mixed terms share the factor z = Σ_j w[j] x[j] + b.",
        (
            lambda s: np.sum(_updated(s)[0] ** 2) + _updated(s)[1] ** 2,
            lambda s: (
                np.sum(s.w**2)
                + s.b**2
                + 2 * s.alpha * (s.target - s.answer) * (s.w @ s.x + s.b)
                + s.alpha**2 * (s.target - s.answer) ** 2 * (np.sum(s.x**2) + 1)
            ),
        ),
        computed=False,
    ),
    Equation(
        "perceptron.10",
        "z(0,1) + z(1,0) = w[1] + w[2] + 2b = z(0,0) + z(1,1)",
        r"z(0,1) + z(1,0) = w_1 + w_2 + 2 b = z(0,0) + z(1,1)",
        "z(x) is the weighted sum for the input x; the bias counts twice on both sides, each weight once.",
        (
            lambda s: _z_at(s, 0, 1) + _z_at(s, 1, 0),
            lambda s: s.w[0] + s.w[1] + 2 * s.b,
            lambda s: _z_at(s, 0, 0) + _z_at(s, 1, 1),
        ),
        computed=False,
    ),
)
