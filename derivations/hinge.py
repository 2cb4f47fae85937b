"""Hinge loss: the score of the true class shall lead by a margin; how much is missing?

z[n,k] is the score of class k for sample n, any number; label[n] is the true class. v[n,k] is by how much class
k violates the margin: it is at most 0 where the true class leads by the margin or more. Only violations cost,
each in proportion. The mean is taken over all N K elements, although the true class itself never costs; that is
PyTorch's convention (MultiMarginLoss). Some books, among them the notes of Stanford's course CS231n, do not divide
by K: their loss and gradient are K times as large, which in plain gradient descent a learning rate K times smaller
makes up for.

With two classes one score is enough, K = 1: positive for the class t = 1, negative for t = 0, with y = 2 t - 1 as its
sign. (Two scores -z/2 and z/2 have the same violation. Their loss is half as large, as the mean counts both.)

A linear support vector machine is a dense layer with this loss and a penalty λ/2 Σ w² on its weights. The boundary
z = 0 is a straight line (or a plane); z = ±margin are parallels to it at the distance margin/|w|, so the penalty makes
the street between them wide. Samples on their own side of the street have no gradient at all. The boundary rests on the
others, the support vectors, alone. A cross entropy never stops pulling at any sample, though ever more weakly.

At the kink v = 0 there is no derivative: the slope is 0 on its left and 1 on its right. 0 is taken, as PyTorch does:
a margin that is just kept needs no change.

Sources
-------
S1 "Transfer Learning": a trained net without its last layer is "a fixed feature extractor for a classifier (like a
linear SVM or a softmax)"; S4 "Decision Boundary for Binary Classification": hazelnuts and almonds, and the straight
line of a linear support vector machine; S0 "Universal Approximation Theorem": support vector machines rely on feature
engineering. S3 does not mention them, and no notes give the loss. C. Cortes and V. Vapnik, "Support-vector networks",
Machine Learning 20 (1995), for two classes; J. Weston and C. Watkins, "Support vector machines for multi-class pattern
recognition", ESANN 1999, for the sum over the wrong classes.

Worked example
--------------
A linear support vector machine on two fixed features x of three nuts, two almonds (t = 1) and a hazelnut (t = 0), with
the weights w = (1, -1). The first almond is far on its side, the second on the boundary; the hazelnut keeps its margin
exactly. Only the second almond has a gradient, and a step against it moves w in the direction of its features:

>>> x = np.array([[3, 1], [2, 2], [1, 2]])
>>> z = (x @ [1, -1])[:, None] + Fraction(0)
>>> t = np.array([[1], [1], [0]])
>>> z[:, 0].tolist() == [2, 0, -1], forward(z, t)
(True, Fraction(1, 3))
>>> dL_dz = backward(z, t)
>>> dL_dz[:, 0].tolist(), (dL_dz.T @ x)[0].tolist()
([0, Fraction(-1, 3), 0], [Fraction(-2, 3), Fraction(-2, 3)])

Three classes (cat, dog, fish), and a dog: the cat violates the margin by 1 - 3 + 5/2 = 1/2, the fish by 1 - 3 + 5 = 3.

>>> z = np.array([[Fraction(5, 2), Fraction(3), Fraction(5)]])
>>> forward(z, [1]), backward(z, [1]).tolist()
(Fraction(7, 6), [[Fraction(1, 3), Fraction(-2, 3), Fraction(1, 3)]])
"""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, zeros

LETTERS = (
    ("v", "what the true class's lead over a class lacks to the margin"),
    ("margin", "the lead that is asked for"),
    ("y", "sign of the class where there is one score: 1 for t = 1, -1 for t = 0"),
)


def forward(z, target, margin=1):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    z : array of shape (N, K)
        Scores.
    target : array
        The true classes, N integers from 0 to K - 1; for K = 1 zeros and ones of shape (N, 1).
    margin : number

    Returns
    -------
    number
    """
    N, K = z.shape
    share = Fraction(1, N * K)  # 1 / (N K), exactly
    L = 0
    for n in range(N):
        if K == 1:
            L += positive_part(margin - sign(target[n, 0]) * z[n, 0]) * share  # (hinge.8)
        for k in wrong_classes(K, target[n]):
            L += positive_part(violation(z[n], target[n], k, margin)) * share  # (hinge.2)
    return L


def backward(z, target, margin=1):
    """Gradient of the loss with respect to the scores.

    Parameters
    ----------
    z, target, margin
        As in :func:`forward`.

    Returns
    -------
    dL_dz : array of shape (N, K)
    """
    N, K = z.shape
    share = Fraction(1, N * K)  # 1 / (N K), exactly
    dL_dz = zeros(N, K)
    for n in range(N):
        if K == 1 and is_violated(margin - sign(target[n, 0]) * z[n, 0]):
            dL_dz[n, 0] = -sign(target[n, 0]) * share  # (hinge.9)
        for k in wrong_classes(K, target[n]):
            if is_violated(violation(z[n], target[n], k, margin)):
                dL_dz[n, k] += share  # (hinge.5)
                dL_dz[n, target[n]] -= share  # (hinge.6)
    return dL_dz


def wrong_classes(K, label):
    """Return all classes but one; none for K = 1, where the target is no class but a sign."""
    return [k for k in range(K) if K > 1 and k != label]


def violation(z, label, k, margin):
    """Return by how much class k violates the margin, for the K scores of one sample."""
    return margin - z[label] + z[k]  # (hinge.1)


def is_violated(v):
    """Return whether v is above 0; NaN counts as above, so that it stays visible."""
    return not v <= 0


def positive_part(v):
    """Return max(0, v)."""
    return v if is_violated(v) else 0


def sign(t):
    """Return y, -1 for t = 0 and 1 for t = 1."""
    return 2 * t - 1


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated, away from the kinks.

    z are scores of K classes for N samples, whose violations are v; score and y are the single scores and the signs of
    N others.
    """
    N, K, margin = 3, 4, 2.0
    labels, t = rng.integers(K, size=N), rng.integers(2, size=(N, 1))
    sides = rng.permutation([-1, 1] * 8).reshape(N + 1, K)  # both signs of v occur
    v = sides * rng.uniform(0.1, 1.5, size=(N + 1, K))
    right = rng.normal(size=(N, 1))
    z = right - margin + v[:N]
    z[np.arange(N), labels] = right[:, 0]
    y = 2 * t - 1
    score = y * (margin - v[N, :N, None])
    others = 1 - np.eye(K)[labels]  # [k≠label[n]]
    return SimpleNamespace(z=z, labels=labels, others=others, score=score, t=t, y=y, N=N, K=K, margin=margin)


def _v(s, z=None):
    """v[n,k] for every n and k, with arrays."""
    z = s.z if z is None else z
    return s.margin - z[np.arange(s.N), s.labels][:, None] + z


def _dv_dz(s):
    """∂v[n,i]/∂z[n,k] for every n, i, k."""
    return np.eye(s.K) - (1 - s.others)[:, None, :]


def _dL_dz(s):
    return derivative(lambda z: forward(z, s.labels, s.margin), s.z)


def _of_score(s, score):
    return forward(score, s.t, s.margin)


EQUATIONS = (
    Equation(
        "hinge.1",
        "v[n,k] = margin - z[n,label[n]] + z[n,k]",
        r"v_{nk} = \mathrm{margin} - z_{n,\,\mathrm{label}_n} + z_{nk}",
        "Definition: the lead of the true class over class k is a difference; v is what it lacks to the margin.",
        (
            lambda s: [[violation(z, label, k, s.margin) for k in range(s.K)] for z, label in zip(s.z, s.labels)],
            _v,
        ),
    ),
    Equation(
        "hinge.2",
        "L = 1 / (N K) Σ_n Σ_k [k≠label[n]] max(0, v[n,k])",
        r"L = \frac{1}{N K} \sum_n \sum_k [k \ne \mathrm{label}_n]\, \max(0, v_{nk})",
        "Definition: of the wrong classes those that violate the margin cost, each in proportion.",
        (
            lambda s: forward(s.z, s.labels, s.margin),
            lambda s: np.mean(s.others * np.maximum(0, _v(s))),
        ),
    ),
    Equation(
        "hinge.3",
        "∂v[n,i]/∂z[n,k] = [i=k] - [k=label[n]]",
        r"\frac{\partial v_{ni}}{\partial z_{nk}} = [i = k] - [k = \mathrm{label}_n]",
        "In step 1 the score of class i stands with a plus and that of the true class with a minus.",
        (lambda s: np.einsum("nink->nik", derivative(lambda z: _v(s, z), s.z)), _dv_dz),
        computed=False,
    ),
    Equation(
        "hinge.4",
        "∂L/∂z[n,k] = 1 / (N K) Σ_i [i≠label[n]] [v[n,i]>0] ([i=k] - [k=label[n]])",
        r"\frac{\partial L}{\partial z_{nk}} = \frac{1}{N K} \sum_i [i \ne \mathrm{label}_n]\, [v_{ni} > 0]\,"
        r" ([i = k] - [k = \mathrm{label}_n])",
        "Chain rule with step 3; the slope of max(0, v) is 0 left of its kink and 1 right of it, at it 0.",
        (_dL_dz, lambda s: np.einsum("ni,nik->nk", s.others * (_v(s) > 0), _dv_dz(s)) / (s.N * s.K)),
        computed=False,
    ),
    Equation(
        "hinge.5",
        "∂L/∂z[n,k] = [v[n,k]>0] / (N K), k≠label[n]",
        r"\frac{\partial L}{\partial z_{nk}} = \frac{[v_{nk} > 0]}{N K}, \quad k \ne \mathrm{label}_n",
        "For a wrong class step 4 leaves the term i = k: its score must fall as long as it violates the margin.",
        (lambda s: s.others * _dL_dz(s), lambda s: s.others * (_v(s) > 0) / (s.N * s.K)),
    ),
    Equation(
        "hinge.6",
        "∂L/∂z[n,label[n]] = -1 / (N K) Σ_i [i≠label[n]] [v[n,i]>0]",
        r"\frac{\partial L}{\partial z_{n,\,\mathrm{label}_n}}"
        r" = -\frac{1}{N K} \sum_i [i \ne \mathrm{label}_n]\, [v_{ni} > 0]",
        "For the true class step 4 has -1 in every bracket: its score must rise once for every violation.",
        (
            lambda s: _dL_dz(s)[np.arange(s.N), s.labels],
            lambda s: -(s.others * (_v(s) > 0)).sum(axis=1) / (s.N * s.K),
        ),
    ),
    Equation(
        "hinge.7",
        "Σ_k ∂L/∂z[n,k] = 0",
        r"\sum_k \frac{\partial L}{\partial z_{nk}} = 0",
        "Steps 5 and 6: only differences of scores count, so what the true class gains the violators lose.",
        (lambda s: _dL_dz(s).sum(axis=1), lambda s: np.zeros(s.N)),
        computed=False,
    ),
    Equation(
        "hinge.8",
        "L = 1 / N Σ_n max(0, margin - y[n] z[n])",
        r"L = \frac{1}{N} \sum_n \max(0, \mathrm{margin} - y_n z_n)",
        "Definition for one score, whose sign is the decision: y z is the lead of the true class.",
        (
            lambda s: _of_score(s, s.score),
            lambda s: np.mean(np.maximum(0, s.margin - s.y * s.score)),
        ),
    ),
    Equation(
        "hinge.9",
        "∂L/∂z[n] = -y[n] [y[n] z[n]<margin] / N",
        r"\frac{\partial L}{\partial z_n} = -\frac{y_n}{N}\, [y_n z_n < \mathrm{margin}]",
        "Chain rule on step 8: the slope of max(0, v) times that of v, which is -y.",
        (
            lambda s: derivative(lambda score: _of_score(s, score), s.score),
            lambda s: -s.y * (s.y * s.score < s.margin) / s.N,
        ),
    ),
)
