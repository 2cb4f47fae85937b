"""Cross entropy of probabilities: how surprised is the prediction by the true class of each sample?

p[n,k] is the probability that the network, which ends in a softmax, gives to class k of sample n, label[n] is
the true class, and t[n,k] = [k=label[n]] is the same as a one-hot target. The mean is taken over the N samples.
The loss of a sample is minus the logarithm of the one probability that matters: 0 for certainty, and log 2 more
for every halving. The other probabilities do not occur in it, and so have no gradient; they fall only because the
softmax before the loss lets no probability grow alone: (cross_entropy.4).

For training, softmax_cross_entropy on the numbers z before the softmax is the better choice, for two reasons:

- Underflow. If z of the true class lies far below the largest z (more than 104 below it in
  single precision, 746 in double), the softmax gives exactly 0. Its logarithm is -∞, its
  gradient -1/p is infinite, and the softmax multiplies it by p = 0. The information is lost: a
  sample that is completely wrong teaches nothing.
- Cancellation. In exact arithmetic the factor 1/p meets a factor p in the softmax and cancels. In
  floating-point numbers a huge and a tiny number are both rounded before they meet, and a p close
  to 1, rounded to 1, has the logarithm 0.

So that training can go on all the same, where log has no value, at exactly p = 0, log p is taken as -100, PyTorch's
floor in its binary cross entropy, and 1/p as 10¹². (A p above 0 is not touched: in double precision p = 1e-300 costs
691, more than the floor. The kernels take 1/p as 10¹² also where p is so small that 1/p has no floating-point number.)
Everywhere else loss and gradient are exact.

Sources
-------
S0 9.3, L = Σ -l log p, and the "Layers to x Properties Table", dL/dp_i = -l_i/p_i; S3 "Cross-entropy". Slips are
corrected. Both workings of S3's example miss the minus sign that its formula has, so they would be negative. The
first of them also swaps two numbers: the prediction is .3 for the dog, which it is, and .5 for the fish, but the
line takes log(.5) for the dog. It is -log(.3) = 1.20. S3's sum over all samples is not divided by their number, though
its mean squared error is; here both are means.

Worked example
--------------
S3's two predictions for a picture of a dog (cat, dog, fish). The gradient of the first is -1/.3, and S0's formula:

>>> first, second = np.array([[0.2, 0.3, 0.5]]), np.array([[0.3, 0.5, 0.2]])
>>> round(forward(first, [1]), 2), round(forward(second, [1]), 2)
(1.2, 0.69)
>>> from fractions import Fraction
>>> backward(np.array([[Fraction(2, 10), Fraction(3, 10), Fraction(5, 10)]]), [1]).tolist()
[[0, Fraction(-10, 3), 0]]

Through the softmax it becomes p - t. The softmax of log p is p:

>>> from .softmax import backward as through_softmax
>>> (dL_dz,) = through_softmax(backward(first, [1])[0], np.log(first[0]))
>>> [round(float(value), 2) for value in dL_dz]
[0.2, -0.7, 0.5]

A softmax that underflowed has lost its gradient, which is -1 for the first class and 1 for the second:

>>> from .softmax import forward as softmax
>>> z = np.array([-800, 0], dtype=object)
>>> p = softmax(z)
>>> p.tolist(), forward(p[None], [0]), backward(p[None], [0]).tolist()
([0.0, 1.0], 100.0, [[-1000000000000.0, 0]])
>>> [value + 0 for value in through_softmax(backward(p[None], [0])[0], z)[0]]
[0.0, 0.0]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, log, zeros


def forward(p, labels):
    """Return the loss of a mini-batch.

    Parameters
    ----------
    p : array of shape (N, K)
        Probabilities.
    labels : sequence of N integers
        The true classes, from 0 to K - 1.

    Returns
    -------
    number
    """
    N = len(p)
    L = 0
    for n in range(N):
        L -= logarithm(p[n, labels[n]]) / N  # (cross_entropy.1)
    return L


def backward(p, labels):
    """Gradient of the loss with respect to the probabilities.

    Parameters
    ----------
    p, labels
        As in :func:`forward`.

    Returns
    -------
    dL_dp : array of shape (N, K)
    """
    N, K = p.shape
    dL_dp = zeros(N, K)
    for n in range(N):
        dL_dp[n, labels[n]] = -inverse(p[n, labels[n]]) / N  # (cross_entropy.2)
    return dL_dp


def logarithm(p):
    """Return log p, and -100 for p = 0."""
    return -100 if p == 0 else log(p)


def inverse(p):
    """Return 1/p, and 10¹² for p = 0."""
    return 10**12 if p == 0 else 1 / p


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: probabilities p, the softmax of z."""
    N, K = 3, 4
    z, labels = rng.normal(size=(N, K)), rng.integers(K, size=N)
    return SimpleNamespace(z=z, p=_softmax(z), labels=labels, t=np.eye(K)[labels], N=N, K=K)


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def _dp_dz(s):
    """∂p[n,i]/∂z[n,k] for every n, i, k."""
    return np.einsum("nink->nik", derivative(_softmax, s.z))


def _dL_dz(s):
    """The gradient through the softmax, whose input z is all that can change freely."""
    return derivative(lambda z: forward(_softmax(z), s.labels), s.z)


EQUATIONS = (
    Equation(
        "cross_entropy.1",
        "L = -1/N Σ_n Σ_k t[n,k] log p[n,k] = -1/N Σ_n log p[n,label[n]]",
        r"L = -\frac{1}{N} \sum_n \sum_k t_{nk} \log p_{nk} = -\frac{1}{N} \sum_n \log p_{n,\,\mathrm{label}_n}",
        "Definition; t is 1 for the true class and 0 for the others, so one term of each sample remains.",
        (
            lambda s: forward(s.p, s.labels),
            lambda s: -np.sum(s.t * np.log(s.p)) / s.N,
            lambda s: -np.mean(np.log(s.p[np.arange(s.N), s.labels])),
        ),
    ),
    Equation(
        "cross_entropy.2",
        "∂L/∂p[n,k] = -t[n,k]/N ∂(log p[n,k])/∂p[n,k] = -t[n,k] / (N p[n,k])",
        r"\frac{\partial L}{\partial p_{nk}} = -\frac{t_{nk}}{N} \frac{\partial \log p_{nk}}{\partial p_{nk}}"
        r" = -\frac{t_{nk}}{N p_{nk}}",
        "Only one term of (cross_entropy.1) contains p[n,k], and the derivative of log p is 1/p.",
        (
            lambda s: derivative(lambda p: forward(p, s.labels), s.p),
            lambda s: -s.t / s.N * np.einsum("nknk->nk", derivative(np.log, s.p)),
            lambda s: -s.t / (s.N * s.p),
        ),
    ),
    Equation(
        "cross_entropy.3",
        "∂L/∂z[n,k] = Σ_i ∂L/∂p[n,i] ∂p[n,i]/∂z[n,k] = -1/N Σ_i t[n,i] ([i=k] - p[n,k])",
        r"\frac{\partial L}{\partial z_{nk}} = \sum_i \frac{\partial L}{\partial p_{ni}}"
        r" \frac{\partial p_{ni}}{\partial z_{nk}} = -\frac{1}{N} \sum_i t_{ni} ([i=k] - p_{nk})",
        "Chain rule with (softmax.2), whose factor p[n,i] cancels the denominator of (cross_entropy.2).",
        (
            _dL_dz,
            lambda s: np.einsum("ni,nik->nk", -s.t / (s.N * s.p), _dp_dz(s)),
            lambda s: -np.einsum("ni,nik->nk", s.t, np.eye(s.K) - s.p[:, None, :]) / s.N,
        ),
        computed=False,
    ),
    Equation(
        "cross_entropy.4",
        "∂L/∂z[n,k] = -1/N (t[n,k] - p[n,k] Σ_i t[n,i]) = (p[n,k] - t[n,k]) / N",
        r"\frac{\partial L}{\partial z_{nk}} = -\frac{1}{N} \left( t_{nk} - p_{nk} \sum_i t_{ni} \right)"
        r" = \frac{p_{nk} - t_{nk}}{N}",
        "The bracket leaves the term i = k, and the targets of a sample add up to 1: prediction minus target.",
        (
            _dL_dz,
            lambda s: -(s.t - s.p * s.t.sum(axis=1, keepdims=True)) / s.N,
            lambda s: (s.p - s.t) / s.N,
        ),
        computed=False,
    ),
)
