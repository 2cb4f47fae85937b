"""Softmax and cross entropy in one: how wrong are the K numbers of each sample, given its true class?

The loss is a function of the numbers z before the softmax (the logits). p[n,k] are their probabilities
(softmax.1), label[n] is the true class of sample n, t[n,k] = [k=label[n]] is the same as a one-hot target,
and m is the largest z of the sample. The mean is taken over the N samples.

Taken apart, softmax and logarithm can fail: a probability that underflows to 0 has the logarithm -∞, and its
gradient -1/p is infinite. Taken together the exponential and the logarithm cancel, and what remains is
harmless: the loss (softmax_cross_entropy.1) subtracts the maximum inside a sum that is at least 1, and the
gradient p - t is a difference of two numbers between 0 and 1.

Sources
-------
S0 9.3 (L = Σ -l log p, dL/dp = -l/p); S3 "Cross-entropy". Slips are corrected. S3 omits the minus sign in
both workings of its example, and the first of them swaps two numbers: the prediction is .3 for the dog, who
it is, and .5 for the fish, but the line takes log(.5) for the dog. It is -log(.3) = 1.20. S3's sum over all
samples is not divided by their number, though its mean squared error is; here both are means.

Worked example
--------------
S3's two predictions for a picture of a dog (cat, dog, fish). The softmax of log p is p:

>>> first, second = np.log([[0.2, 0.3, 0.5]]), np.log([[0.3, 0.5, 0.2]])
>>> round(float(forward(first, [1])), 2), round(float(forward(second, [1])), 2)
(1.2, 0.69)
>>> [round(float(dL_dz), 2) for dL_dz in backward(first, [1])[0]]
[0.2, -0.7, 0.5]
>>> forward(np.array([[-1000, 0]], dtype=object), [0])
1000.0
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, exp, log, zeros

LETTERS = (("m", "the largest z of a sample"),)


def forward(z, labels):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    z : array of shape (N, K)
    labels : sequence of N integers
        The true classes, from 0 to K - 1.

    Returns
    -------
    number
    """
    N = len(z)
    L = 0
    for n in range(N):
        m, total = largest_and_total(z[n])
        L += (log(total) + (m - z[n, labels[n]])) / N  # (softmax_cross_entropy.1)
    return L


def backward(z, labels):
    """Gradient of the loss with respect to the numbers before the softmax.

    Parameters
    ----------
    z, labels
        As in :func:`forward`.

    Returns
    -------
    dL_dz : array of shape (N, K)
    """
    N, K = z.shape
    dL_dz = zeros(N, K)
    for n in range(N):
        m, total = largest_and_total(z[n])
        for k in range(K):
            t = 1 if k == labels[n] else 0
            dL_dz[n, k] = (exp(z[n, k] - m) / total - t) / N  # (softmax_cross_entropy.5)
    return dL_dz


def largest_and_total(z):
    """Return m, the largest of K numbers, and Σ_k exp(z[k] - m)."""
    m, total = z[0], 0
    for k in range(1, len(z)):
        if z[k] > m:
            m = z[k]
    for k in range(len(z)):
        total += exp(z[k] - m)
    return m, total


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated."""
    labels = rng.integers(4, size=3)
    return SimpleNamespace(z=rng.normal(size=(3, 4)), labels=labels, t=np.eye(4)[labels], N=3)


def _p(s):
    return np.exp(s.z) / np.exp(s.z).sum(axis=1, keepdims=True)


def _log_sum_exp(s):
    m = s.z.max(axis=1)
    return np.mean(m + np.log(np.exp(s.z - m[:, None]).sum(axis=1)) - s.z[np.arange(s.N), s.labels])


def _dL_dz(s):
    return derivative(lambda z: forward(z, s.labels), s.z)


def _cross_entropy(s, p):
    """The loss as a function of the probabilities, which may all change independently."""
    return -np.sum(s.t * np.log(p)) / s.N


def _dp_dz(s):
    """∂p[n,i]/∂z[n,k] for every n, i, k."""
    jacobian = derivative(lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), s.z)
    return np.einsum("nink->nik", jacobian)


def _brackets(s):
    """Σ_i t[n,i] ([i=k] - p[n,k]) for every n and k, term by term."""
    return np.einsum("ni,nik->nk", s.t, np.eye(4) - _p(s)[:, None, :])


EQUATIONS = (
    Equation(
        "softmax_cross_entropy.1",
        "L = -1/N Σ_n Σ_k t[n,k] log p[n,k] = 1/N Σ_n (m + log Σ_k exp(z[n,k] - m) - z[n,label[n]])",
        r"L = -\frac{1}{N} \sum_n \sum_k t_{nk} \log p_{nk}"
        r" = \frac{1}{N} \sum_n \left( m + \log \sum_k e^{z_{nk} - m} - z_{n,\,\mathrm{label}_n} \right)",
        "Definition, then the logarithm of (softmax.1): of the sum over k only the true class remains.",
        (lambda s: forward(s.z, s.labels), lambda s: _cross_entropy(s, _p(s)), _log_sum_exp),
    ),
    Equation(
        "softmax_cross_entropy.2",
        "∂L/∂p[n,k] = -t[n,k] / (N p[n,k])",
        r"\frac{\partial L}{\partial p_{nk}} = -\frac{t_{nk}}{N p_{nk}}",
        "In the first form of step 1 p[n,k] occurs once, and the derivative of log p is 1/p.",
        (
            lambda s: derivative(lambda p: _cross_entropy(s, p), _p(s)),
            lambda s: -s.t / (s.N * _p(s)),
        ),
        computed=False,
    ),
    Equation(
        "softmax_cross_entropy.3",
        "∂L/∂z[n,k] = Σ_i ∂L/∂p[n,i] ∂p[n,i]/∂z[n,k] = -1/N Σ_i t[n,i] ([i=k] - p[n,k])",
        r"\frac{\partial L}{\partial z_{nk}} = \sum_i \frac{\partial L}{\partial p_{ni}}"
        r" \frac{\partial p_{ni}}{\partial z_{nk}} = -\frac{1}{N} \sum_i t_{ni} ([i=k] - p_{nk})",
        "Chain rule with (softmax.2), in which the factor p[n,i] cancels the denominator of step 2.",
        (
            _dL_dz,
            lambda s: np.einsum("ni,nik->nk", -s.t / (s.N * _p(s)), _dp_dz(s)),
            lambda s: -_brackets(s) / s.N,
        ),
        computed=False,
    ),
    Equation(
        "softmax_cross_entropy.4",
        "Σ_i t[n,i] ([i=k] - p[n,k]) = t[n,k] - p[n,k] Σ_i t[n,i] = t[n,k] - p[n,k]",
        r"\sum_i t_{ni} ([i=k] - p_{nk}) = t_{nk} - p_{nk} \sum_i t_{ni} = t_{nk} - p_{nk}",
        "The bracket leaves the term i = k, and the targets of a sample add up to 1.",
        (_brackets, lambda s: s.t - _p(s) * s.t.sum(axis=1, keepdims=True), lambda s: s.t - _p(s)),
        computed=False,
    ),
    Equation(
        "softmax_cross_entropy.5",
        "∂L/∂z[n,k] = (p[n,k] - t[n,k]) / N = (exp(z[n,k] - m) / Σ_i exp(z[n,i] - m) - t[n,k]) / N",
        r"\frac{\partial L}{\partial z_{nk}} = \frac{p_{nk} - t_{nk}}{N}"
        r" = \frac{1}{N} \left( \frac{e^{z_{nk} - m}}{\sum_i e^{z_{ni} - m}} - t_{nk} \right)",
        "Step 4 in step 3, and (softmax.1) for p: the gradient is prediction minus target.",
        (
            _dL_dz,
            lambda s: (_p(s) - s.t) / s.N,
            lambda s: (
                (
                    np.exp(s.z - s.z.max(axis=1, keepdims=True))
                    / np.exp(s.z - s.z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
                    - s.t
                )
                / s.N
            ),
        ),
    ),
    Equation(
        "softmax_cross_entropy.6",
        "Σ_k ∂L/∂z[n,k] = 1/N (Σ_k p[n,k] - Σ_k t[n,k]) = 0",
        r"\sum_k \frac{\partial L}{\partial z_{nk}}"
        r" = \frac{1}{N} \left( \sum_k p_{nk} - \sum_k t_{nk} \right) = 0",
        "Probabilities and targets both add up to 1: what one class gains the others lose.",
        (
            lambda s: _dL_dz(s).sum(axis=1),
            lambda s: (_p(s).sum(axis=1) - s.t.sum(axis=1)) / s.N,
            lambda s: np.zeros(s.N),
        ),
        computed=False,
    ),
)
