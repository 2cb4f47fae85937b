"""The literal code is run on symbols and on fractions, where there is no rounding and no tolerance.

The forward pass on symbols gives a formula; SymPy differentiates it; the backward pass on the same symbols must
give exactly the same. The loss is L = Σ u z with a symbol u for every output, whose gradient dL/dz is u.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import (
    assert_equal,
    assert_gradient,
    assert_layer,
    fractions,
    is_zero,
    layer_case,
    numbers_of,
    symbols,
)

from handgrad.derivations import (
    adam,
    add,
    avgpool2d,
    conv2d,
    dense,
    dropout,
    flatten,
    linear,
    maxpool2d,
    mean_squared_error,
    momentum,
    relu,
    sgd,
    sigmoid,
    softmax,
    softmax_cross_entropy,
    tanh,
)

SIGNS = np.array([[1, -1, -1], [-1, 1, 1]])


def symbols_of_both_signs():
    """Six symbols of which SymPy knows whether they are positive or negative, in an array of shape (2, 3)."""
    positive, negative = symbols("z", 2, 3, positive=True), symbols("z", 2, 3, negative=True)
    return np.where(SIGNS > 0, positive, negative)


def test_the_proof_rejects_what_is_wrong():
    x, y = sympy.symbols("x y", real=True)
    assert is_zero(sympy.exp(x - y) * sympy.exp(y) - sympy.exp(x))
    assert not is_zero(sympy.exp(x - y) - sympy.exp(y - x))
    z = symbols("z", 2)
    with pytest.raises(AssertionError, match="dL_dz"):
        assert_gradient((2 * z).sum(), z, linear.backward(symbols("u", 2), z)[0], "dL_dz")


def test_dense():
    assert_layer(dense, symbols("x", 3), symbols("W", 2, 3), symbols("b", 2), names="xWb")


@pytest.mark.parametrize(
    ("W_shape", "options"),
    [
        ((2, 2, 2, 2), {}),
        ((2, 1, 2, 3), {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2}),
    ],
    ids=["plain", "every option"],
)
def test_conv2d(W_shape, options):
    assert_layer(conv2d, symbols("x", 2, 3, 3), symbols("W", *W_shape), symbols("b", 2), names="xWb", options=options)


@pytest.mark.parametrize(
    "options",
    [{"size": 2}, {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}],
    ids=["side by side", "overlapping"],
)
def test_avgpool2d(options):
    assert_layer(avgpool2d, symbols("x", 2, 4, 4), names="x", options=options)


def test_flatten():
    assert_layer(flatten, symbols("x", 2, 2, 3), names="x")


def test_dropout():
    options = {"mask": np.array([[1, 0, 1], [1, 1, 0]], dtype=object), "rate": sympy.Symbol("rate")}
    assert_layer(dropout, symbols("x", 2, 3), names="x", options=options)


@pytest.mark.parametrize("M", [1, 2, 3])
def test_add(M):
    inputs = [symbols(f"x{m}", 2, 2) for m in range(M)]
    assert_layer(add, *inputs, names=[f"x{m}" for m in range(M)])


def test_fan_out_of_a_value_that_two_layers_read():
    """y is read by a dense layer and by an addition of that layer's output and y: a residual block."""
    y, W, b = symbols("y", 2), symbols("W", 2, 2), symbols("b", 2)
    f = dense.forward(y, W, b)
    u = symbols("u", 2)
    dL_df, dL_dy_past = add.backward(u, f, y)
    dL_dy_through, _, _ = dense.backward(dL_df, y, W, b)
    assert_gradient((u * add.forward(f, y)).sum(), y, add.fan_out(dL_dy_through, dL_dy_past), "dL_dy")


@pytest.mark.parametrize("module", [linear, sigmoid, tanh, relu], ids=lambda module: module.__name__.split(".")[-1])
def test_activation_functions(module):
    assert_layer(module, symbols_of_both_signs(), names="z")


def test_softmax_and_its_full_jacobian():
    z = np.array([symbols("z", 1, positive=True)[0], *symbols("y", 2, negative=True)], dtype=object)
    assert_layer(softmax, z, names="z")
    assert_equal(softmax.forward(z).sum(), 1, "sum of the probabilities")
    for i in range(3):
        p, one_hot = softmax.forward(z), np.eye(3, dtype=int)[i].astype(object)
        (row,) = softmax.backward(one_hot, z)  # of the Jacobian: dL/dp is 1 for p[i], 0 for the others
        for k in range(3):
            assert_equal(row[k], p[i] * (int(i == k) - p[k]), f"dp[{i}]/dz[{k}]")


def test_softmax_cross_entropy():
    z = symbols("z", 2, 3, negative=True)
    z[0, 0], z[1, 1] = symbols("m", 2, positive=True)  # the largest of each sample, as SymPy knows
    for labels in ([0, 0], [2, 1]):  # it belongs to the true class of one sample and not of the other
        dL_dz = softmax_cross_entropy.backward(z, labels)
        assert_gradient(softmax_cross_entropy.forward(z, labels), z, dL_dz, "dL_dz")
        for n in range(2):
            assert_equal(dL_dz[n].sum(), 0, "sum of the gradient over the classes")


def test_mean_squared_error():
    p, t = symbols("p", 2, 3), symbols("t", 2, 3)
    assert_gradient(mean_squared_error.forward(p, t), p, mean_squared_error.backward(p, t), "dL_dp")


def test_the_gradient_of_the_loss_is_that_of_softmax_and_logarithm_one_after_the_other():
    z = np.array([sympy.Symbol("z0", positive=True), *symbols("z", 2, negative=True)], dtype=object)
    p = softmax.forward(z)
    dL_dp = np.array([0, -1 / p[1], 0], dtype=object)  # L = -log p[1]
    (one_by_one,) = softmax.backward(dL_dp, z)
    for k, together in enumerate(softmax_cross_entropy.backward(z[None], [1])[0]):
        assert_equal(one_by_one[k], together, f"dL_dz[{k}]")


def quotients(module, x, dL_dz, options):
    """Exact difference quotients of L, equal to its derivatives: the layer is linear as long as no winner changes."""

    def L(x):
        return (dL_dz * module.forward(x, **options)).sum()

    h, gradient = Fraction(1, 10**6), np.empty(x.shape, dtype=object)
    for index in np.ndindex(*x.shape):
        changed = x.copy()
        changed[index] += h
        gradient[index] = (L(changed) - L(x)) / h
    return gradient


@pytest.mark.parametrize("kind", [Fraction, sympy.Rational], ids=["fractions", "SymPy's rationals"])
@pytest.mark.parametrize(
    "options",
    [{"size": 2}, {"size": 3, "stride": 1}, {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}],
    ids=["side by side", "overlapping", "padded"],
)
def test_maxpool2d(kind, options):
    rng = np.random.default_rng(0)
    x = np.empty((2, 4, 5), dtype=object)
    x.reshape(-1)[:] = [kind(int(value), 7) for value in rng.permutation(x.size) - x.size]  # negative: 0 would win
    z = maxpool2d.forward(x, **options)
    assert (z < 0).all()
    dL_dz = np.empty(z.shape, dtype=object)
    dL_dz.reshape(-1)[:] = [kind(int(value), 3) for value in rng.integers(-9, 10, size=z.size)]
    (dL_dx,) = maxpool2d.backward(dL_dz, x, **options)
    assert (dL_dx == quotients(maxpool2d, x, dL_dz, options)).all()


def test_maxpool2d_of_symbols():
    """x = one unknown plus known numbers: SymPy knows the winners, and the values stay symbols."""
    base, numbers = sympy.Symbol("base", real=True), np.array([[[3, 1, 4], [1, 5, 9], [2, 6, 0]]])
    x = base + numbers.astype(object)
    assert maxpool2d.forward(x, 2, stride=1).tolist() == [[[base + 5, base + 9], [base + 6, base + 9]]]
    u = symbols("u", 1, 2, 2)
    (dL_dx,) = maxpool2d.backward(u, x, 2, stride=1)
    assert dL_dx[0, 1].tolist() == [0, u[0, 0, 0], u[0, 0, 1] + u[0, 1, 1]]
    assert dL_dx[0, 2].tolist() == [0, u[0, 1, 0], 0]
    assert dL_dx[0, 0].tolist() == [0, 0, 0]


def test_maxpool2d_gives_the_gradient_of_a_tie_to_the_first_winner_alone():
    x = np.array([[[0, 7, 7], [7, 1, 2], [0, 0, 0]]], dtype=object)
    (dL_dx,) = maxpool2d.backward(np.array([[[1, 10], [100, 1000]]], dtype=object), x, 2, stride=1)
    assert dL_dx.tolist() == [[[0, 11, 0], [100, 0, 1000], [0, 0, 0]]]


def test_maxpool2d_of_a_window_that_holds_no_pixel_is_an_error():
    with pytest.raises(ValueError, match=r"window \(0, 0\)"):
        maxpool2d.forward(np.ones((1, 2, 2), dtype=object), 2, padding=2)


def test_nan_is_neither_rectified_nor_beaten():
    nan = float("nan")
    a = relu.forward(np.array([nan, -1, 1], dtype=object))
    assert a[0] != a[0] and a[1:].tolist() == [0, 1]
    for x in ([nan, 1, 2, 3], [3, nan, 1, 2], [1, 2, 3, nan]):
        z = maxpool2d.forward(np.array(x, dtype=object).reshape(1, 2, 2), 2)
        assert z[0, 0, 0] != z[0, 0, 0]


def test_relu_takes_slope_0_at_the_kink():
    (dL_dz,) = relu.backward(np.array([5], dtype=object), np.array([0], dtype=object))
    assert dL_dz.tolist() == [0]


def test_sigmoid_does_not_overflow():
    a = sigmoid.forward(np.array([-(10**4), 10**4], dtype=object))
    assert a.tolist() == [0, 1]


def test_sgd():
    """On symbols: the step is that of the definition, and L falls at the rate |g|² at its start."""
    alpha, theta, A = sympy.Symbol("alpha"), symbols("theta", 2), symbols("A", 2, 2)
    L = sympy.expand((theta @ A @ theta) ** 2)
    g = np.array([sympy.diff(L, value) for value in theta], dtype=object)
    stepped = sgd.update(theta, g, learning_rate=alpha)
    after = L.subs(dict(zip(theta, stepped)), simultaneous=True)
    assert_equal(sympy.diff(after, alpha).subs(alpha, 0), -(g @ g), "dL/dalpha")


def test_momentum():
    """On symbols: the velocity is the geometric sum of the gradients, and each step follows it."""
    alpha, mu = sympy.symbols("alpha mu")
    start, g = symbols("theta", 2), symbols("g", 3, 2)
    theta, v = start, np.zeros(2, dtype=object)
    for gradient in g:
        theta, v = momentum.update(theta, gradient, v, learning_rate=alpha, momentum=mu)
    for k in range(2):
        g1, g2, g3 = g[:, k]
        assert_equal(v[k], g3 + mu * g2 + mu**2 * g1, "velocity")
        assert_equal(theta[k], start[k] - alpha * (g1 + (g2 + mu * g1) + v[k]), "theta")


def test_adam():
    """On symbols: a constant gradient makes every step α g / (g + ε) long, so the bias is corrected exactly."""
    alpha, beta1, beta2, eps = sympy.symbols("alpha beta1 beta2 eps", positive=True)
    start, g = symbols("theta", 1), symbols("g", 1, positive=True)
    theta, m, v = start, np.zeros(1, dtype=object), np.zeros(1, dtype=object)
    for t in (1, 2, 3):
        before = theta[0]
        theta, m, v = adam.update(theta, g, m, v, t, learning_rate=alpha, beta1=beta1, beta2=beta2, eps=eps)
        assert_equal(m[0], g[0] * (1 - beta1**t), "m")
        assert_equal(v[0], g[0] ** 2 * (1 - beta2**t), "v")
        length = (before - theta[0]) / alpha  # g / (√v_hat + eps), in which v_hat must reduce to g²
        assert_equal(sympy.simplify(length), g[0] / (g[0] + eps), "step")


def loss_case(rng):
    p, t = fractions(rng, 2, 3), fractions(rng, 2, 3)
    return mean_squared_error.forward(p, t), mean_squared_error.backward(p, t)


POOL = {"size": (3, 2), "stride": (2, 1), "padding": (1, 0, 0, 1)}
MASK = np.array([1, 0, 1], dtype=object)
TENTH = Fraction(1, 10)
EXACT = {
    "dense": layer_case(dense, (3,), (2, 3), (2,)),
    "conv2d": layer_case(conv2d, (2, 3, 3), (2, 1, 2, 2), (2,), stride=2, padding=1, groups=2),
    "avgpool2d": layer_case(avgpool2d, (2, 4, 4), **POOL),
    "maxpool2d": layer_case(maxpool2d, (2, 4, 4), **POOL),
    "relu": layer_case(relu, (2, 3)),
    "linear": layer_case(linear, (2, 3)),
    "add": layer_case(add, (2, 2), (2, 2), (2, 2)),
    "fan_out": lambda rng: (add.fan_out(fractions(rng, 2, 2), fractions(rng, 2, 2)),),
    "flatten": layer_case(flatten, (2, 2, 3)),
    "dropout": layer_case(dropout, (3,), mask=MASK, rate=Fraction(1, 5)),
    "mean_squared_error": loss_case,
    "sgd": lambda rng: (sgd.update(fractions(rng, 3), fractions(rng, 3), TENTH),),
    "momentum": lambda rng: momentum.update(*(fractions(rng, 3) for _ in range(3)), TENTH, 9 * TENTH),
}


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT.keys())
def test_fractions_stay_fractions(case):
    numbers = [number for result in case(np.random.default_rng(0)) for number in numbers_of(result)]
    assert {type(number) for number in numbers} <= {Fraction, int}
    assert Fraction in {type(number) for number in numbers}
