"""Batch normalization: the layer itself sets the mean and the spread of every channel, whatever comes in.

The mean and the variance of a channel are taken over the mini-batch, of images over all their pixels as well.
So m values share one μ and one σ²: m = N for x of shape (N, F), m = N H W for x of shape (N, C, H, W). The
equations show one channel and number its m values by n (and k); γ and β are one number per channel.
r = √(σ² + ε) stands for the divisor, and ε keeps it from 0 where all values are equal.

In all other layers the samples do not know of one another. Here each of them moves μ and σ² and thereby every
output, so the functions of this file take the whole mini-batch, and (batch_norm.11) has three paths from x[n]
to x_hat[k]: directly, through the mean, and through the variance.

What the normalization has taken away, γ and β can give back: with γ = r and β = μ the layer would change
nothing. So the network loses no function, and size and position become two numbers that it learns. The price
is (batch_norm.16) and (batch_norm.17): a gradient that would shift all values of a channel alike, or (but for ε)
stretch them, is removed, as the output does not depend on either. A bias in the layer before it is useless.

At inference one sample must not depend on its neighbours, so running means of μ and σ², kept while training,
take their place. They are constants, and two of the three paths are gone: (batch_norm.18).

Conventions: σ² is the biased variance, divided by m. The running variance takes the unbiased one, m / (m - 1)
times as large, so m must be at least 2 in training. ρ, the option ``momentum``, is the share of the new value,
as in PyTorch, whose default is .1. Keras calls the share of the old value momentum: its .99 is .01 here.

The variance is a mean of squares of differences, in a second pass over the values. The second form of
(batch_norm.2) would need one pass only, but it subtracts two large numbers that are almost equal: with values
near 10,000 that differ by 1, float32 keeps no digit of the variance.

Sources
-------
S3 4.9 "Batch Normalization" (its four formulas); S2 "Batch Normalization"; S4 "Building Blocks: Normalization and
Stability"; S0's list of buzzwords. Three slips are corrected. S3's last equation is y = γ x + β, while the words
over it and the paper scale x_hat. S3 calls its second formula, which is σ², the standard deviation. S2 says that the
values come to lie in a certain range, 0 to 1; they get mean 0 and variance 1, and no range. S. Ioffe and C. Szegedy,
"Batch normalization: accelerating deep network training by reducing internal covariate shift", ICML 2015,
arXiv:1502.03167, has the m / (m - 1) in its algorithm 2.

Worked example
--------------
Four samples with one feature, mean 1 and variance 1, and ε = 0; x_hat is -1, -1, 1, 1:

>>> x = np.array([[0], [0], [2], [2]], dtype=object)
>>> gamma, beta = np.array([3], dtype=object), np.array([10], dtype=object)
>>> forward(x, gamma, beta, eps=0).tolist()
[[7.0], [7.0], [13.0], [13.0]]

The loss asks for less of the first output alone. Its own value must fall, and since neither mean nor spread may
change, the second one, which has the same x_hat, rises by as much:

>>> dL_dz = np.array([[1], [0], [0], [0]], dtype=object)
>>> dL_dx, dL_dgamma, dL_dbeta = backward(dL_dz, x, gamma, beta, eps=0)
>>> dL_dx.tolist(), dL_dgamma.tolist(), dL_dbeta.tolist()
([[1.5], [-1.5], [0.0], [0.0]], [-1.0], [1])

The running statistics start from mean 0 and variance 1, and the unbiased variance is 4/3:

>>> mean, variance = running(zeros(1), zeros(1) + 1, x, momentum=0.1)
>>> round(mean[0], 4), round(variance[0], 4)
(0.1, 1.0333)

At inference one sample alone has an output, with these statistics 3 (2 - .1) / √1.0333 + 10:

>>> round(forward(x[3:], gamma, beta, eps=0, mean=mean, variance=variance)[0, 0], 4)
15.6073
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .notation import Equation, derivative, positions, sqrt, zeros

LETTERS = (
    ("n, k", "one of the m values of a channel, counted over samples and positions; another of them"),
    ("m", "number of values that a channel has in the mini-batch"),
    ("μ, σ²", "their mean and variance; with run, their running means"),
    ("x_hat", "the input, normalized"),
    ("r", "√(σ² + ε), the divisor"),
    ("γ, β", "learned scale and shift of a channel"),
    ("ρ", "share of the new value in a running mean"),
)


def statistics(x):
    """Return mean and biased variance of every channel, each of shape (C,)."""
    C = x.shape[1]
    m = x.size // C
    mu, variance = zeros(C), zeros(C)
    for k in positions(*x.shape):
        mu[k[1]] += x[k] / m  # (batch_norm.1)
    for k in positions(*x.shape):
        variance[k[1]] += (x[k] - mu[k[1]]) * (x[k] - mu[k[1]]) / m  # (batch_norm.2)
    return mu, variance


def normalized(x, mean, variance, eps):
    """Return x_hat, which has the shape of x."""
    x_hat = zeros(*x.shape)
    for k in positions(*x.shape):
        c = k[1]
        x_hat[k] = (x[k] - mean[c]) / sqrt(variance[c] + eps)  # (batch_norm.3)
    return x_hat


def forward(x, gamma, beta, *, eps, mean=None, variance=None):
    """Normalize, scale and shift every channel of a mini-batch.

    Parameters
    ----------
    x : array of shape (N, F) or (N, C, H, W)
        The whole mini-batch; F is the number of channels C then.
    gamma, beta : arrays of shape (C,)
    eps : number
        Added to the variance.
    mean, variance : arrays of shape (C,), optional
        The running statistics, for inference; without them those of the mini-batch, as in training.

    Returns
    -------
    array of the shape of x
    """
    if mean is None:
        mean, variance = statistics(x)
    x_hat, z = normalized(x, mean, variance, eps), zeros(*x.shape)
    for k in positions(*x.shape):
        z[k] = gamma[k[1]] * x_hat[k] + beta[k[1]]  # (batch_norm.4)
    return z


def backward(dL_dz, x, gamma, beta, *, eps, mean=None, variance=None):
    """Gradients of the loss with respect to the whole mini-batch, γ and β.

    Parameters
    ----------
    dL_dz : array of the shape of x
    x, gamma, beta, eps, mean, variance
        As in :func:`forward`. A mean and a variance that are given do not depend on x.

    Returns
    -------
    dL_dx, dL_dgamma, dL_dbeta : arrays of the shapes of x, gamma, beta
    """
    training = mean is None
    if training:
        mean, variance = statistics(x)
    x_hat, m = normalized(x, mean, variance, eps), x.size // x.shape[1]
    dL_dx, dL_dgamma, dL_dbeta = zeros(*x.shape), zeros(*gamma.shape), zeros(*beta.shape)
    for k in positions(*x.shape):
        dL_dbeta[k[1]] += dL_dz[k]  # (batch_norm.7)
        dL_dgamma[k[1]] += dL_dz[k] * x_hat[k]  # (batch_norm.8)
    for k in positions(*x.shape):
        c = k[1]
        r = sqrt(variance[c] + eps)
        if training:
            dL_dx[k] = gamma[c] / (m * r) * (m * dL_dz[k] - dL_dbeta[c] - x_hat[k] * dL_dgamma[c])  # (batch_norm.15)
        else:
            dL_dx[k] = gamma[c] / r * dL_dz[k]  # (batch_norm.18)
    return dL_dx, dL_dgamma, dL_dbeta


def running(running_mean, running_variance, x, *, momentum):
    """Return the running statistics after one more mini-batch.

    Parameters
    ----------
    running_mean, running_variance : arrays of shape (C,)
        Before the mini-batch; at the start 0 and 1.
    x : array
        As in :func:`forward`, with at least two values per channel.
    momentum : number
        Share of the new value.

    Returns
    -------
    mean, variance : arrays of shape (C,)
    """
    mu, biased = statistics(x)
    C, m = x.shape[1], x.size // x.shape[1]
    mean, variance = zeros(C), zeros(C)
    for c in range(C):
        mean[c] = (1 - momentum) * running_mean[c] + momentum * mu[c]  # (batch_norm.19)
        variance[c] = (1 - momentum) * running_variance[c] + momentum * m * biased[c] / (m - 1)  # (batch_norm.20)
    return mean, variance


def sample(rng: np.random.Generator) -> SimpleNamespace:
    """Return a random point at which the equations are evaluated: three images with two channels of 1 x 2 pixels.

    m = 6, and ε is large enough to be seen.
    """
    x = rng.normal(size=(3, 2, 1, 2)) * np.array([1.0, 3.0]).reshape(2, 1, 1) + 2
    gamma, beta, dL_dz = rng.normal(size=2), rng.normal(size=2), rng.normal(size=x.shape)
    mean, variance = rng.normal(size=2), rng.uniform(0.5, 2.0, size=2)
    return SimpleNamespace(x=x, gamma=gamma, beta=beta, dL_dz=dL_dz, mean=mean, variance=variance, eps=0.3, rho=0.2)


def _columns(images):
    """The m values of every channel as a column: (N, C, H, W) to (m, C)."""
    images = np.asarray(images, dtype=float)
    return np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])


def _x(s):
    return _columns(s.x)


def _u(s):
    return _columns(s.dL_dz)


def _mu(s, x=None):
    return (_x(s) if x is None else x).mean(axis=0)


def _variance(s, x=None):
    return (_x(s) if x is None else x).var(axis=0)


def _r(s, x=None):
    return np.sqrt(_variance(s, x) + s.eps)


def _x_hat(s, x=None):
    x = _x(s) if x is None else x
    return (x - _mu(s, x)) / _r(s, x)


def _z(s, **changed):
    return _columns(forward(**({"x": s.x, "gamma": s.gamma, "beta": s.beta} | changed), eps=s.eps))


def _loss(s, inference=False, **changed):
    """L of a loss whose gradient with respect to z is s.dL_dz: any smooth loss looks so close by."""
    values = {"x": s.x, "gamma": s.gamma, "beta": s.beta} | changed
    fixed = {"mean": s.mean, "variance": s.variance} if inference else {}
    return (s.dL_dz * forward(**values, eps=s.eps, **fixed)).sum()


def _dL(s, name, inference=False):
    """Derivative of L with respect to x (as columns), gamma or beta, from differences."""
    gradient = derivative(lambda value: _loss(s, inference, **{name: value}), getattr(s, name))
    return _columns(gradient) if name == "x" else gradient


def _dL_dgamma(s):
    return (_u(s) * _x_hat(s)).sum(axis=0)


def _compact(s):
    m = len(_x(s))
    return s.gamma / (m * _r(s)) * (m * _u(s) - _u(s).sum(axis=0) - _x_hat(s) * _dL_dgamma(s))


def _channelwise(function, s):
    """Derivative of (m, C) values, or of C, with respect to x within each channel: (k, n, C) or (n, C)."""
    full = derivative(lambda x: function(s, x), _x(s))
    return np.einsum("kcnc->knc" if full.ndim == 4 else "cnc->nc", full)


def _dx_hat_dx(s):
    """The right side of (batch_norm.12), (k, n, C)."""
    m, x_hat = len(_x(s)), _x_hat(s)
    return (m * np.eye(m)[:, :, None] - 1 - x_hat[:, None] * x_hat) / (m * _r(s))


def _three_paths(s):
    m, x, r = len(_x(s)), _x(s), _r(s)
    through_variance = (x - _mu(s))[:, None] / (2 * r**3) * _channelwise(_variance, s)
    return (np.eye(m)[:, :, None] - _channelwise(_mu, s)) / r - through_variance


def _running(s, which):
    return running(s.mean, s.variance, s.x, momentum=s.rho)[which]


EQUATIONS = (
    Equation(
        "batch_norm.1",
        "μ = 1/m Σ_n x[n]",
        r"\mu = \frac{1}{m} \sum_n x_n",
        "Definition: the mean of the m values that a channel has in the mini-batch.",
        (lambda s: statistics(s.x)[0], _mu),
    ),
    Equation(
        "batch_norm.2",
        "σ² = 1/m Σ_n (x[n] - μ)² = 1/m Σ_n x[n]² - μ²",
        r"\sigma^2 = \frac{1}{m} \sum_n (x_n - \mu)^2 = \frac{1}{m} \sum_n x_n^2 - \mu^2",
        "Definition, biased; multiplied out it has a form in which large numbers cancel, so no program uses that.",
        (
            lambda s: statistics(s.x)[1],
            lambda s: ((_x(s) - _mu(s)) ** 2).mean(axis=0),
            lambda s: (_x(s) ** 2).mean(axis=0) - _mu(s) ** 2,
        ),
    ),
    Equation(
        "batch_norm.3",
        "x_hat[n] = (x[n] - μ) / √(σ² + ε) = (x[n] - μ) / r",
        r"\hat x_n = \frac{x_n - \mu}{\sqrt{\sigma^2 + \varepsilon}} = \frac{x_n - \mu}{r}",
        "Definition: measured from the mean, in standard deviations; r is short for the root.",
        (
            lambda s: _columns(normalized(s.x, *statistics(s.x), s.eps)),
            lambda s: (_x(s) - _x(s).mean(axis=0)) / np.sqrt(_x(s).var(axis=0) + s.eps),
            lambda s: (_x(s) - _mu(s)) / _r(s),
        ),
    ),
    Equation(
        "batch_norm.4",
        "z[n] = γ x_hat[n] + β",
        r"z_n = \gamma \hat x_n + \beta",
        "Definition: γ and β, one of each per channel, are learned and say how large and where the output is.",
        (
            _z,
            lambda s: s.gamma * _x_hat(s) + s.beta,
        ),
    ),
    Equation(
        "batch_norm.5",
        "Σ_n x_hat[n] = (Σ_n x[n] - m μ) / r = 0",
        r"\sum_n \hat x_n = \frac{\sum_n x_n - m \mu}{r} = 0",
        "The sum of (batch_norm.3), in which m μ is the sum of the x by (batch_norm.1).",
        (
            lambda s: _x_hat(s).sum(axis=0),
            lambda s: (_x(s).sum(axis=0) - len(_x(s)) * _mu(s)) / _r(s),
            lambda s: np.zeros(2),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.6",
        "Σ_n x_hat[n]² = 1/r² Σ_n (x[n] - μ)² = m σ² / (σ² + ε)",
        r"\sum_n \hat x_n^2 = \frac{1}{r^2} \sum_n (x_n - \mu)^2 = \frac{m \sigma^2}{\sigma^2 + \varepsilon}",
        "By (batch_norm.2): but for ε the variance of x_hat is 1.",
        (
            lambda s: (_x_hat(s) ** 2).sum(axis=0),
            lambda s: ((_x(s) - _mu(s)) ** 2).sum(axis=0) / _r(s) ** 2,
            lambda s: len(_x(s)) * _variance(s) / (_variance(s) + s.eps),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.7",
        "∂L/∂β = Σ_n ∂L/∂z[n] ∂z[n]/∂β = Σ_n ∂L/∂z[n]",
        r"\frac{\partial L}{\partial \beta} = \sum_n \frac{\partial L}{\partial z_n}"
        r" \frac{\partial z_n}{\partial \beta} = \sum_n \frac{\partial L}{\partial z_n}",
        "Chain rule over the m outputs that share β, as over the positions of a convolution; by (batch_norm.4).",
        (
            lambda s: _dL(s, "beta"),
            lambda s: (_u(s) * (_z(s, beta=s.beta + 1) - _z(s))).sum(axis=0),
            lambda s: _u(s).sum(axis=0),
        ),
    ),
    Equation(
        "batch_norm.8",
        "∂L/∂γ = Σ_n ∂L/∂z[n] ∂z[n]/∂γ = Σ_n ∂L/∂z[n] x_hat[n]",
        r"\frac{\partial L}{\partial \gamma} = \sum_n \frac{\partial L}{\partial z_n}"
        r" \frac{\partial z_n}{\partial \gamma} = \sum_n \frac{\partial L}{\partial z_n}\, \hat x_n",
        "The same for γ, by which x_hat is multiplied.",
        (
            lambda s: _dL(s, "gamma"),
            lambda s: (_u(s) * (_z(s, gamma=s.gamma + 1) - _z(s))).sum(axis=0),
            _dL_dgamma,
        ),
    ),
    Equation(
        "batch_norm.9",
        "∂μ/∂x[n] = 1/m",
        r"\frac{\partial \mu}{\partial x_n} = \frac{1}{m}",
        "x[n] occurs once in the sum of (batch_norm.1).",
        (lambda s: _channelwise(_mu, s), lambda s: np.full((6, 2), 1 / 6)),
        computed=False,
    ),
    Equation(
        "batch_norm.10",
        "∂σ²/∂x[n] = 2/m (x[n] - μ) - 2/m ∂μ/∂x[n] Σ_k (x[k] - μ) = 2/m (x[n] - μ)",
        r"\frac{\partial \sigma^2}{\partial x_n} = \frac{2}{m} (x_n - \mu) - \frac{2}{m}"
        r" \frac{\partial \mu}{\partial x_n} \sum_k (x_k - \mu) = \frac{2}{m} (x_n - \mu)",
        "x[n] is in one square of (batch_norm.2) itself and in all of them through μ; the latter sum is 0.",
        (
            lambda s: _channelwise(_variance, s),
            lambda s: 2 / 6 * (_x(s) - _mu(s)) - 2 / 6 * _channelwise(_mu, s) * (_x(s) - _mu(s)).sum(axis=0),
            lambda s: 2 / 6 * (_x(s) - _mu(s)),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.11",
        "∂x_hat[k]/∂x[n] = [k=n] / r - ∂μ/∂x[n] / r - (x[k] - μ) / (2 r³) ∂σ²/∂x[n]",
        r"\frac{\partial \hat x_k}{\partial x_n} = \frac{[k=n]}{r} - \frac{1}{r} \frac{\partial \mu}{\partial x_n}"
        r" - \frac{x_k - \mu}{2 r^3} \frac{\partial \sigma^2}{\partial x_n}",
        "Three paths: directly, through μ, and through σ², as the derivative of 1/r by σ² is -1/(2 r³).",
        (lambda s: _channelwise(_x_hat, s), _three_paths),
        computed=False,
    ),
    Equation(
        "batch_norm.12",
        "∂x_hat[k]/∂x[n] = (m [k=n] - 1 - x_hat[k] x_hat[n]) / (m r)",
        r"\frac{\partial \hat x_k}{\partial x_n} = \frac{m [k=n] - 1 - \hat x_k \hat x_n}{m r}",
        "(batch_norm.9) and (batch_norm.10) in (batch_norm.11); each x - μ is r x_hat by (batch_norm.3).",
        (lambda s: _channelwise(_x_hat, s), _dx_hat_dx),
        computed=False,
    ),
    Equation(
        "batch_norm.13",
        "∂L/∂x[n] = Σ_k ∂L/∂z[k] ∂z[k]/∂x_hat[k] ∂x_hat[k]/∂x[n] = γ Σ_k ∂L/∂z[k] ∂x_hat[k]/∂x[n]",
        r"\frac{\partial L}{\partial x_n} = \sum_k \frac{\partial L}{\partial z_k}"
        r" \frac{\partial z_k}{\partial \hat x_k} \frac{\partial \hat x_k}{\partial x_n}"
        r" = \gamma \sum_k \frac{\partial L}{\partial z_k} \frac{\partial \hat x_k}{\partial x_n}",
        "Chain rule over all outputs of the channel: by (batch_norm.11) every one of them depends on x[n].",
        (
            lambda s: _dL(s, "x"),
            lambda s: np.einsum("kc,knc->nc", _u(s) * s.gamma, _channelwise(_x_hat, s)),
            lambda s: s.gamma * np.einsum("kc,knc->nc", _u(s), _channelwise(_x_hat, s)),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.14",
        "∂L/∂x[n] = γ / (m r) Σ_k ∂L/∂z[k] (m [k=n] - 1 - x_hat[k] x_hat[n])",
        r"\frac{\partial L}{\partial x_n} = \frac{\gamma}{m r} \sum_k \frac{\partial L}{\partial z_k}"
        r" \left( m [k=n] - 1 - \hat x_k \hat x_n \right)",
        "(batch_norm.12) in (batch_norm.13).",
        (
            lambda s: _dL(s, "x"),
            lambda s: s.gamma / (6 * _r(s)) * np.einsum("kc,knc->nc", _u(s), 6 * _r(s) * _dx_hat_dx(s)),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.15",
        "∂L/∂x[n] = γ / (m r) (m ∂L/∂z[n] - Σ_k ∂L/∂z[k] - x_hat[n] Σ_k ∂L/∂z[k] x_hat[k])",
        r"\frac{\partial L}{\partial x_n} = \frac{\gamma}{m r} \left( m \frac{\partial L}{\partial z_n}"
        r" - \sum_k \frac{\partial L}{\partial z_k} - \hat x_n \sum_k \frac{\partial L}{\partial z_k}\, \hat x_k"
        r" \right)",
        "The sum of (batch_norm.14) term by term; both sums are known already, ∂L/∂β and ∂L/∂γ.",
        (lambda s: _dL(s, "x"), _compact),
    ),
    Equation(
        "batch_norm.16",
        "Σ_n ∂L/∂x[n] = γ / (m r) (m ∂L/∂β - m ∂L/∂β - ∂L/∂γ Σ_n x_hat[n]) = 0",
        r"\sum_n \frac{\partial L}{\partial x_n} = \frac{\gamma}{m r} \left( m \frac{\partial L}{\partial \beta}"
        r" - m \frac{\partial L}{\partial \beta} - \frac{\partial L}{\partial \gamma} \sum_n \hat x_n \right) = 0",
        "The sum of (batch_norm.15), with (batch_norm.5): a shift of all x changes no output, so none is asked for.",
        (
            lambda s: _dL(s, "x").sum(axis=0),
            lambda s: _compact(s).sum(axis=0),
            lambda s: np.zeros(2),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.17",
        "Σ_n ∂L/∂x[n] x_hat[n] = γ / (m r) ∂L/∂γ (m - Σ_n x_hat[n]²) = γ / r ∂L/∂γ ε / (σ² + ε)",
        r"\sum_n \frac{\partial L}{\partial x_n}\, \hat x_n = \frac{\gamma}{m r} \frac{\partial L}{\partial \gamma}"
        r" \left( m - \sum_n \hat x_n^2 \right) = \frac{\gamma}{r} \frac{\partial L}{\partial \gamma}"
        r" \frac{\varepsilon}{\sigma^2 + \varepsilon}",
        "The same weighted by x_hat, with (batch_norm.5) and (batch_norm.6): but for ε a stretch of all x changes no"
        " output either.",
        (
            lambda s: (_dL(s, "x") * _x_hat(s)).sum(axis=0),
            lambda s: s.gamma / (6 * _r(s)) * _dL_dgamma(s) * (6 - (_x_hat(s) ** 2).sum(axis=0)),
            lambda s: s.gamma / _r(s) * _dL_dgamma(s) * s.eps / (_variance(s) + s.eps),
        ),
        computed=False,
    ),
    Equation(
        "batch_norm.18",
        "∂L/∂x[n] = γ / √(σ²_run + ε) ∂L/∂z[n] (at inference)",
        r"\frac{\partial L}{\partial x_n} = \frac{\gamma}{\sqrt{\sigma^2_{\mathrm{run}} + \varepsilon}}"
        r" \frac{\partial L}{\partial z_n} \quad (\text{at inference})",
        "With constants for μ and σ² only the direct path of (batch_norm.11) is left.",
        (
            lambda s: _dL(s, "x", inference=True),
            lambda s: s.gamma / np.sqrt(s.variance + s.eps) * _u(s),
        ),
    ),
    Equation(
        "batch_norm.19",
        "μ_run,new = (1 - ρ) μ_run + ρ μ",
        r"\mu_{\mathrm{run,new}} = (1 - \rho)\, \mu_{\mathrm{run}} + \rho\, \mu",
        "Definition: an exponential mean over the mini-batches, of which the newest has the share ρ.",
        (lambda s: _running(s, 0), lambda s: (1 - s.rho) * s.mean + s.rho * _mu(s)),
    ),
    Equation(
        "batch_norm.20",
        "σ²_run,new = (1 - ρ) σ²_run + ρ m / (m - 1) σ² = (1 - ρ) σ²_run + ρ / (m - 1) Σ_n (x[n] - μ)²",
        r"\sigma^2_{\mathrm{run,new}} = (1 - \rho)\, \sigma^2_{\mathrm{run}} + \rho\, \frac{m}{m - 1} \sigma^2"
        r" = (1 - \rho)\, \sigma^2_{\mathrm{run}} + \frac{\rho}{m - 1} \sum_n (x_n - \mu)^2",
        "The same with the unbiased variance: the values lie closer to their own mean than to the true one.",
        (
            lambda s: _running(s, 1),
            lambda s: (1 - s.rho) * s.variance + s.rho * 6 / 5 * _variance(s),
            lambda s: (1 - s.rho) * s.variance + s.rho * _x(s).var(axis=0, ddof=1),
        ),
    ),
)
