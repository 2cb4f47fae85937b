"""Step, leaky ReLU, log-softmax, the perceptron and the initial weights on symbols and fractions, without rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import assert_equal, assert_gradient, assert_layer, fractions, is_zero, layer_case, numbers_of, symbols

from handgrad.derivations import (
    dense,
    initializers,
    leaky_relu,
    log_softmax,
    perceptron,
    softmax,
    softmax_cross_entropy,
    step,
)

SIGNS = np.array([[1, -1, -1], [-1, 1, 1]])
HALF = sympy.Rational(1, 2)


def of_both_signs():
    """Six symbols of which SymPy knows whether they are positive or negative, in an array of shape (2, 3)."""
    return np.where(SIGNS > 0, symbols("z", 2, 3, positive=True), symbols("z", 2, 3, negative=True))


def with_a_largest():
    """Three symbols, the first of which is the largest, as SymPy knows."""
    return np.array([sympy.Symbol("z0", positive=True), *symbols("y", 2, negative=True)], dtype=object)


def test_leaky_relu():
    slope = sympy.Symbol("slope", positive=True)
    assert_layer(leaky_relu, of_both_signs(), names="z", options={"slope": slope})
    z = of_both_signs()
    assert leaky_relu.forward(z, slope=slope)[0].tolist() == [z[0, 0], slope * z[0, 1], slope * z[0, 2]]


def test_step_is_0_or_1_and_its_derivative_is_0():
    z = of_both_signs()
    assert_layer(step, z, names="z")
    np.testing.assert_array_equal(step.forward(z), SIGNS > 0)
    u = symbols("u", 2, 3)
    assert set(numbers_of(step.backward(u, z))) == {0}


@pytest.mark.parametrize("surrogate", step.SURROGATES)
def test_a_surrogate_does_not_pass_for_a_derivative(surrogate):
    values = np.array([sympy.Rational(1, 3), sympy.Rational(-1, 4)], dtype=object)
    with pytest.raises(AssertionError, match="dL_dz"):
        z, u = symbols("z", 2), symbols("u", 2)
        dL_dz = step.backward(u, values, surrogate=surrogate)[0]
        assert_gradient((u * step.forward(values)).sum(), z, dL_dz, "dL_dz")


def test_straight_through_and_sigmoid_are_derivatives_of_what_stands_in():
    z, u = of_both_signs(), symbols("u", 2, 3)
    (dL_dz,) = step.backward(u, z, surrogate="straight-through")
    assert_gradient((u * z).sum(), z, dL_dz, "straight-through")
    (dL_dz,) = step.backward(u, z, surrogate="sigmoid")
    stand_in = np.array([[1 / (1 + sympy.exp(-value)) for value in row] for row in z])
    assert_gradient((u * stand_in).sum(), z, dL_dz, "sigmoid")


def test_triangle_is_the_derivative_of_a_ramp_of_two_parabolas():
    s = sympy.Symbol("s", real=True)
    left, right = (1 + s) ** 2 / 2, 1 - (1 - s) ** 2 / 2
    assert left.subs(s, -1) == 0 and left.subs(s, 0) == right.subs(s, 0) == HALF and right.subs(s, 1) == 1
    for place in [sympy.Rational(n, 7) for n in range(-10, 11)]:
        ramp = 0 if place < -1 else left if place < 0 else right if place <= 1 else 1
        expected = sympy.diff(sympy.sympify(ramp), s).subs(s, place)
        (dL_dz,) = step.backward(np.array([3], dtype=object), np.array([place], dtype=object), surrogate="triangle")
        assert dL_dz[0] == 3 * expected


def test_log_softmax_and_its_full_jacobian():
    z = with_a_largest()
    assert_layer(log_softmax, z, names="z")
    y, p = log_softmax.forward(z), softmax.forward(z)
    assert_equal(sum(sympy.exp(value) for value in y), 1, "sum of the probabilities")
    for i in range(3):
        assert_equal(sympy.exp(y[i]), p[i], f"exp(y[{i}])")
        (row,) = log_softmax.backward(np.eye(3, dtype=int)[i].astype(object), z)
        for k in range(3):
            assert_equal(row[k], int(i == k) - p[k], f"dy[{i}]/dz[{k}]")


def test_log_softmax_and_picking_a_class_is_the_cross_entropy():
    z = with_a_largest()
    for label in range(3):
        picked = np.array([-int(k == label) for k in range(3)], dtype=object)
        assert is_zero((picked * log_softmax.forward(z)).sum() - softmax_cross_entropy.forward(z[None], [label]))
        (dL_dz,) = log_softmax.backward(picked, z)
        for k, together in enumerate(softmax_cross_entropy.backward(z[None], [label])[0]):
            assert_equal(dL_dz[k], together, f"dL_dz[{k}]")


def test_perceptron():
    a, t = symbols("a", 2, 3), symbols("t", 2, 3)
    assert_gradient(perceptron.forward(a, t), a, perceptron.backward(a, t), "dL_da")


@pytest.mark.parametrize("t", [0, 1])
@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_rosenblatts_rule_is_gradient_descent_through_a_straight_line(sign, t):
    """w, b and x are symbols; the signs say whether the neuron fires, for the rule and for the layers alike."""
    w, b = symbols("w", 2, **{sign: True}), sympy.Symbol("b", **{sign: True})
    x, alpha = symbols("x", 2, positive=True), sympy.Symbol("alpha")
    z = dense.forward(x, w[None], np.array([b], dtype=object))
    a = step.forward(z)
    assert a[0] == (1 if sign == "positive" else 0)
    dL_da = perceptron.backward(a[None], np.array([[t]]))[0]
    dL_da = np.array([sympy.nsimplify(value) for value in dL_da], dtype=object)
    (dL_dz,) = step.backward(dL_da, z, surrogate="straight-through")
    _, dL_dW, dL_db = dense.backward(dL_dz, x, w[None], np.array([b], dtype=object))
    w_new, b_new = perceptron.update(w, b, x, t, learning_rate=alpha)
    for i in range(2):
        assert_equal(w_new[i], w[i] - alpha * dL_dW[0, i], f"w_new[{i}]")
    assert_equal(b_new, b - alpha * dL_db[0], "b_new")
    assert (b_new == b) == (a[0] == t), "a right answer changes nothing"


def test_initial_sizes():
    J, I, v = sympy.symbols("J I v", positive=True)
    assert sympy.solve(J * v / 2 - 1, v) == [2 / J] and is_zero(initializers.he(J, I) ** 2 - 2 / J)
    w, limit = sympy.Symbol("w"), initializers.xavier(J, I)
    variance = sympy.integrate(w**2 / (2 * limit), (w, -limit, limit))
    assert_equal(variance, 2 / (1 / (1 / J) + 1 / (1 / I)), "variance of the uniform numbers")


CASES = {
    "leaky_relu": layer_case(leaky_relu, (2, 4), slope=Fraction(1, 100)),
    "step": layer_case(step, (2, 4)),
    "step, straight-through": layer_case(step, (2, 4), surrogate="straight-through"),
    "step, triangle": layer_case(step, (2, 4), surrogate="triangle"),
    "perceptron": lambda rng: perceptron_case(rng),
    "update": lambda rng: perceptron.update(
        fractions(rng, 3), Fraction(1, 3), fractions(rng, 3), 1, learning_rate=Fraction(1, 10)
    ),
}


def perceptron_case(rng):
    a, t = fractions(rng, 2, 3), fractions(rng, 2, 3)
    return perceptron.forward(a, t), perceptron.backward(a, t)


@pytest.mark.parametrize("case", CASES)
def test_fractions_stay_fractions(case):
    result = CASES[case](np.random.default_rng(0))
    values = [number for part in result for number in numbers_of(part)]
    assert values and all(isinstance(value, (Fraction, int)) for value in values)


def test_fractions_give_what_the_formula_says():
    z = np.array([Fraction(-3, 2), Fraction(0), Fraction(1, 3)], dtype=object)
    u = np.array([Fraction(2), Fraction(3), Fraction(5)], dtype=object)
    assert leaky_relu.forward(z, slope=Fraction(1, 3)).tolist() == [Fraction(-1, 2), 0, Fraction(1, 3)]
    assert leaky_relu.backward(u, z, slope=Fraction(1, 3))[0].tolist() == [Fraction(2, 3), 1, 5]
    assert step.backward(u, z, surrogate="triangle")[0].tolist() == [0, 3, Fraction(10, 3)]
