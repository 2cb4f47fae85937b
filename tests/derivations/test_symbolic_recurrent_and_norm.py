"""Exact proofs for batch normalization and the recurrent layer: symbols and fractions, no rounding and no tolerance."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import assert_gradient, fractions, numbers_of, symbols

from handgrad.derivations import batch_norm, simple_rnn

EPS = sympy.Symbol("eps", positive=True)


def is_zero(expression):
    """Prove that an expression with square roots is 0: name each root r, and divide the numerator by r² - radicand."""
    roots = {}

    def named(power):
        radicand = sympy.expand(power.base)
        roots.setdefault(radicand, sympy.Symbol(f"r_{len(roots)}", positive=True))
        return roots[radicand] ** (2 * power.exp)

    expression = expression.replace(lambda e: e.is_Pow and e.exp.is_Rational and e.exp.q == 2, named)
    numerator = sympy.expand(sympy.numer(sympy.together(expression)))
    for radicand, r in roots.items():
        numerator = sympy.rem(numerator, r**2 - radicand, r)
    return sympy.expand(numerator) == 0


def assert_mini_batch(x, gamma, beta, **options):
    """The gradients of L = Σ u z must be its exact derivatives."""
    z = batch_norm.forward(x, gamma, beta, eps=EPS, **options)
    u = symbols("u", *z.shape)
    L = (u * z).sum()
    gradients = batch_norm.backward(u, x, gamma, beta, eps=EPS, **options)
    for name, value, gradient in zip(("x", "gamma", "beta"), (x, gamma, beta), gradients, strict=True):
        assert gradient.shape == value.shape, name
        for index in np.ndindex(*value.shape):
            assert is_zero(gradient[index] - sympy.diff(L, value[index])), f"dL_d{name}{list(index)}"
    return u, gradients


def test_the_proof_rejects_what_is_wrong():
    x, y = sympy.symbols("x y", real=True)
    root = sympy.sqrt(x**2 + y)
    assert is_zero((x**2 + y) / root**3 - 1 / root)
    assert not is_zero(x**2 / root**3 - 1 / root)
    assert not is_zero(root - x)


SHAPES = [(3, 1), (2, 2), (2, 1, 1, 2), (1, 2, 1, 2)]


@pytest.mark.parametrize("shape", [*SHAPES, (4, 1)], ids=str)
def test_batch_norm_of_a_mini_batch(shape):
    C = shape[1]
    assert_mini_batch(symbols("x", *shape), symbols("gamma", C), symbols("beta", C))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_at_inference(shape):
    C = shape[1]
    statistics = {"mean": symbols("mean", C), "variance": symbols("variance", C, positive=True)}
    x, gamma, beta = symbols("x", *shape), symbols("gamma", C), symbols("beta", C)
    u, (dL_dx, _, _) = assert_mini_batch(x, gamma, beta, **statistics)
    for index in np.ndindex(*shape):  # each value for itself
        assert is_zero(dL_dx[index] - gamma[index[1]] * u[index] / sympy.sqrt(statistics["variance"][index[1]] + EPS))


def test_batch_norm_removes_shift_and_stretch_from_the_gradient():
    x, gamma, beta, u = symbols("x", 3, 1), symbols("gamma", 1), symbols("beta", 1), symbols("u", 3, 1)
    dL_dx, dL_dgamma, _ = batch_norm.backward(u, x, gamma, beta, eps=EPS)
    mu, variance = batch_norm.statistics(x)
    x_hat = batch_norm.normalized(x, mu, variance, EPS)
    assert is_zero(dL_dx.sum())
    remainder = gamma[0] * EPS * dL_dgamma[0] / (variance[0] + EPS) ** sympy.Rational(3, 2)
    assert is_zero((dL_dx * x_hat).sum() - remainder)
    assert not is_zero((dL_dx * x_hat).sum())


def test_batch_norm_of_shifted_and_stretched_values():
    """With ε stretched by the same square, x and 5 x + y give the same output."""
    x, gamma, beta, y = symbols("x", 3, 1), symbols("gamma", 1), symbols("beta", 1), sympy.Symbol("y", real=True)
    z = batch_norm.forward(x, gamma, beta, eps=EPS)
    same = batch_norm.forward(5 * x + y, gamma, beta, eps=25 * EPS)
    for index in np.ndindex(3, 1):
        difference = (z[index] - same[index]).subs(EPS, 1)
        assert sympy.simplify(difference) == 0


def test_running_statistics_of_symbols():
    mean, variance, x, rho = symbols("mean", 1), symbols("variance", 1), symbols("x", 3, 1), sympy.Symbol("rho")
    new_mean, new_variance = batch_norm.running(mean, variance, x, momentum=rho)
    mu = x.sum() / 3
    assert is_zero(new_mean[0] - (1 - rho) * mean[0] - rho * mu)
    assert is_zero(new_variance[0] - (1 - rho) * variance[0] - rho * ((x - mu) ** 2).sum() / 2)


def rational(expression):
    """The numerator of a rational function of symbols, with one more symbol for each tanh and each A of an exp(n A)."""
    symbol, replacement = {}, {}
    for value in expression.atoms(sympy.exp, sympy.tanh):
        n, A = (1, value) if value.func == sympy.tanh else value.args[0].primitive()
        if value.func == sympy.exp and A.could_extract_minus_sign():
            n, A = -n, -A
        replacement[value] = symbol.setdefault(A, sympy.Symbol(f"f_{len(symbol)}", positive=True)) ** n
    return sympy.expand(sympy.numer(sympy.together(expression.xreplace(replacement))))


def assert_recurrent(*values, **options):
    """The gradients of L = Σ u a must be its exact derivatives."""
    a = simple_rnn.forward(*values, **options)
    u = symbols("u", *a.shape)
    gradients = simple_rnn.backward(u, *values, **options)
    for name, value, gradient in zip(("x", "W_x", "W_h", "b"), values, gradients, strict=True):
        assert gradient.shape == value.shape, name
        for index in np.ndindex(*value.shape):
            difference = gradient[index] - sympy.diff((u * a).sum(), value[index])
            assert rational(difference) == 0, f"dL_d{name}{list(index)}"


EVERY = pytest.mark.parametrize("every", [False, True], ids=["last state", "all states"])


@EVERY
@pytest.mark.parametrize(("T", "F", "U"), [(1, 2, 2), (2, 1, 2), (3, 1, 1)])
def test_recurrent_layer_of_tanh_units(T, F, U, every):
    values = symbols("x", T, F), symbols("W", U, F), symbols("V", U, U), symbols("b", U)
    assert_recurrent(*values, activation="tanh", return_sequences=every)


@EVERY
@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_recurrent_layer_of_sigmoid_units(sign, every):
    """All parameters of one sign, so that SymPy knows the sign of every z and which form of the sigmoid is meant."""
    signed = {sign: True}
    parameters = symbols("W", 2, 1, **signed), symbols("V", 2, 2, **signed), symbols("b", 2, **signed)
    x = symbols("x", 2, 1, positive=True)
    assert_recurrent(x, *parameters, activation="sigmoid", return_sequences=every)


def test_both_forms_of_the_sigmoid_are_one_function():
    positive, negative = sympy.Symbol("z", positive=True), sympy.Symbol("y", negative=True)
    for z in (positive, negative):
        assert rational(simple_rnn.activated(z, "sigmoid") - 1 / (1 + sympy.exp(-z))) == 0
    assert rational(simple_rnn.activated(positive, "sigmoid") - 1 / (1 + sympy.exp(positive))) != 0


def test_recurrent_layer_one_step_is_a_dense_layer_with_an_activation():
    """With T = 1 the state a_0 = 0 gives W_h no gradient, and the layer is tanh(W_x x + b)."""
    x, W_x, W_h, b = symbols("x", 1, 2), symbols("W", 1, 2), symbols("V", 1, 1), symbols("b", 1)
    a = simple_rnn.forward(x, W_x, W_h, b)
    assert a[0] == sympy.tanh(b[0] + W_x[0, 0] * x[0, 0] + W_x[0, 1] * x[0, 1])
    dL_dx, _, dL_dW_h, dL_db = simple_rnn.backward(symbols("u", 1), x, W_x, W_h, b)
    assert dL_dW_h[0, 0] == 0
    assert_gradient(a[0] * sympy.Symbol("u_0", real=True), b, dL_db, "dL_db")
    assert dL_dx.shape == x.shape


def test_the_gradient_of_the_first_step_is_the_product_of_the_slopes():
    """One silent tanh unit: the state stays 0, its slope 1, and after T steps the gradient is u w^(T-1)."""
    w, u = sympy.Symbol("w", real=True), symbols("u", 1)
    for T in (1, 2, 7):
        silence, one = np.zeros((T, 1), dtype=object) * sympy.Integer(0), np.array([[sympy.Integer(1)]])
        dL_dx, *_ = simple_rnn.backward(u, silence, one, np.array([[w]]), symbols("b", 1) * 0)
        assert [value - u[0] * w ** (T - 1 - t) for t, value in enumerate(dL_dx[:, 0])] == [0] * T


def running_case(rng):
    x, mean, variance = fractions(rng, 3, 2, 2, 1), fractions(rng, 2), fractions(rng, 2)
    return batch_norm.running(mean, variance, x, momentum=Fraction(1, 10))


EXACT = {"batch_norm.running": running_case}


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT.keys())
def test_fractions_stay_fractions(case):
    numbers = [number for result in case(np.random.default_rng(0)) for number in numbers_of(result)]
    assert {type(number) for number in numbers} <= {Fraction, int}
    assert Fraction in {type(number) for number in numbers}
