"""The literal code of the losses is run on symbols and on fractions, where there is no rounding and no tolerance."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import assert_equal, assert_gradient, fractions, is_zero, numbers_of, symbols

from handgrad.derivations import (
    binary_cross_entropy,
    cross_entropy,
    hinge,
    mean_absolute_error,
    sigmoid,
    softmax,
    softmax_cross_entropy,
)

SIGNS = np.array([[1, -1, -1], [-1, 1, 1]])


def symbols_of_both_signs(letter, signs=SIGNS):
    """Symbols of which SymPy knows whether they are positive or negative."""
    positive, negative = symbols(letter, *signs.shape, positive=True), symbols(letter, *signs.shape, negative=True)
    return np.where(signs > 0, positive, negative)


def test_cross_entropy():
    p = symbols("p", 2, 3, positive=True)
    for labels in ([0, 2], [1, 1]):
        L, dL_dp = cross_entropy.forward(p, labels), cross_entropy.backward(p, labels)
        assert_gradient(L, p, dL_dp, "dL_dp")
        assert_equal(sympy.expand_log(L), sum(-sympy.log(p[n, labels[n]]) for n in range(2)) / sympy.Integer(2), "L")


def test_cross_entropy_after_the_softmax_is_softmax_cross_entropy():
    """The chain rule through the full Jacobian gives (p - t) / N, and the same as the loss that fuses both."""
    z = symbols("z", 2, 3, negative=True)
    z[0, 0], z[1, 1] = symbols("m", 2, positive=True)  # the largest of each sample, as SymPy knows
    labels = [0, 2]  # it belongs to the true class of one sample and not of the other
    p = np.array([softmax.forward(row) for row in z])
    dL_dp, fused = cross_entropy.backward(p, labels), softmax_cross_entropy.backward(z, labels)
    for n in range(2):
        (dL_dz,) = softmax.backward(dL_dp[n], z[n])
        for k in range(3):
            assert_equal(dL_dz[k], (p[n, k] - int(k == labels[n])) / 2, f"(p - t) / N [{n}, {k}]")
            assert_equal(dL_dz[k], fused[n, k], f"fused [{n}, {k}]")


def test_cross_entropy_at_0():
    p = np.array([[0, 1]], dtype=object)
    assert cross_entropy.forward(p, [0]) == 100
    assert cross_entropy.backward(p, [0]).tolist() == [[-(10**12), 0]]


def test_binary_cross_entropy_of_probabilities():
    p, t = symbols("p", 2, 3, positive=True), symbols("t", 2, 3)
    assert_gradient(binary_cross_entropy.forward(p, t), p, binary_cross_entropy.backward(p, t), "dL_dp")


def test_binary_cross_entropy_of_logits():
    z, t = symbols_of_both_signs("z"), symbols("t", 2, 3)
    L, dL_dz = binary_cross_entropy.forward(z, t, logits=True), binary_cross_entropy.backward(z, t, logits=True)
    assert_gradient(L, z, dL_dz, "dL_dz")


def test_both_forms_of_the_binary_cross_entropy_are_one_through_the_sigmoid():
    """The difference of the values has the derivative 0 for every z, and is 0 at z = ±1."""
    z, t = symbols_of_both_signs("z", np.array([[1, -1]])), symbols("t", 1, 2)
    p = sigmoid.forward(z)
    (dL_dz,) = sigmoid.backward(binary_cross_entropy.backward(p, t), z)
    together = binary_cross_entropy.backward(z, t, logits=True)
    difference = binary_cross_entropy.forward(p, t) - binary_cross_entropy.forward(z, t, logits=True)
    for k in range(2):
        assert_equal(dL_dz[0, k], together[0, k], f"dL_dz[{k}]")
        assert_equal(sympy.diff(difference, z[0, k]), 0, f"derivative of the difference for z[{k}]")
    start = difference.subs({z[0, 0]: 1, z[0, 1]: -1})
    for targets in ([0, 0], [1, 0], [0, 1]):  # linear in both
        assert abs(sympy.N(start.subs(dict(zip(t[0], targets))), 50)) < 1e-40  # of 50 digits


def test_binary_cross_entropy_at_0_and_1():
    p, t = np.array([[0, 1]], dtype=object), np.array([[1, 0]], dtype=object)
    assert binary_cross_entropy.forward(p, t) == 100
    assert binary_cross_entropy.backward(p, t).tolist() == [[Fraction(-(10**12), 2), Fraction(10**12, 2)]]
    assert binary_cross_entropy.forward(p, p) == 0 and not binary_cross_entropy.backward(p, p).any()


def test_mean_absolute_error():
    t = symbols("t", 2, 3)
    p = t + symbols_of_both_signs("residual")
    prediction = symbols("p", 2, 3)
    L = mean_absolute_error.forward(p, t).subs(dict(zip((p - t).flat, (prediction - t).flat)), simultaneous=True)
    assert_gradient(L, prediction, mean_absolute_error.backward(p, t), "dL_dp")


def test_hinge_of_several_classes():
    """Numbers far apart, and a small unknown e in each: SymPy knows which margins are violated."""
    e, margin = symbols("e", 2, 4, positive=True), sympy.Symbol("margin", positive=True)
    labels, signs = [1, 3], np.array([[1, 0, -1, 1], [-1, -1, 1, 0]])
    z = np.empty((2, 4), dtype=object)
    for n in range(2):
        for k in range(4):
            z[n, k] = e[n, k] if k == labels[n] else e[n, labels[n]] - margin + signs[n, k] * e[n, k]
    scores = symbols("z", 2, 4)
    v = [(n, k) for n in range(2) for k in range(4) if signs[n, k] > 0]
    L = sum(margin - scores[n, labels[n]] + scores[n, k] for n, k in v) / sympy.Integer(8)
    assert_equal(hinge.forward(z, labels, margin), L.subs(dict(zip(scores.flat, z.flat)), simultaneous=True), "L")
    dL_dz = hinge.backward(z, labels, margin)
    assert_gradient(L, scores, dL_dz, "dL_dz")
    for n in range(2):
        assert_equal(dL_dz[n].sum(), 0, "sum over the classes")


def test_hinge_of_one_score():
    e, margin = symbols("e", 4, positive=True), sympy.Symbol("margin", positive=True)
    t, y = np.array([[1], [0], [1], [0]], dtype=object), [1, -1, 1, -1]
    z = np.array([[y[n] * (margin + (e[n] if n < 2 else -e[n]))] for n in range(4)], dtype=object)
    score = symbols("z", 4, 1)
    L = sum(margin - y[n] * score[n, 0] for n in (2, 3)) / sympy.Integer(4)
    assert_equal(hinge.forward(z, t, margin), L.subs(dict(zip(score.flat, z.flat)), simultaneous=True), "L")
    assert_gradient(L, score, hinge.backward(z, t, margin), "dL_dz")


def test_kinks_have_the_subgradient_0():
    assert mean_absolute_error.backward(np.array([[7]]), np.array([[7]])).tolist() == [[0]]
    assert hinge.backward(np.array([[2, 3]], dtype=object), [1]).tolist() == [[0, 0]]
    assert hinge.backward(np.array([[1]], dtype=object), np.array([[1]], dtype=object)).tolist() == [[0]]


def test_nan_survives():
    nan = np.array([[float("nan"), 0]], dtype=object)
    zero = np.array([[0, 0]], dtype=object)
    for L in (mean_absolute_error.forward(nan, zero), hinge.forward(nan, [1]), cross_entropy.forward(nan, [0])):
        assert L != L
    dL_dp = mean_absolute_error.backward(nan, zero)
    assert dL_dp[0, 0] != dL_dp[0, 0] and dL_dp[0, 1] == 0


def test_the_proofs_reject_what_is_wrong():
    p = symbols("p", 2, 3, positive=True)
    with pytest.raises(AssertionError, match="dL_dp"):
        assert_gradient(cross_entropy.forward(p, [0, 2]), p, -cross_entropy.backward(p, [0, 2]), "dL_dp")
    assert not is_zero(binary_cross_entropy.forward(p[:1], p[:1]))


SIGN_TARGETS = np.array([[1], [0], [1]], dtype=object)
EXACT = {
    "cross_entropy": lambda rng: (cross_entropy.backward(fractions(rng, 2, 3) + 100, [0, 2]),),
    "binary_cross_entropy": lambda rng: (
        binary_cross_entropy.backward(fractions(rng, 2, 3) + 100, fractions(rng, 2, 3)),
    ),
    "mean_absolute_error": lambda rng: [
        function(*(fractions(np.random.default_rng(seed), 2, 3) for seed in (1, 2)))
        for function in (mean_absolute_error.forward, mean_absolute_error.backward)
    ],
    "hinge": lambda rng: [
        f(fractions(np.random.default_rng(1), 2, 3), [0, 2], TENTH) for f in (hinge.forward, hinge.backward)
    ],
    "hinge of one score": lambda rng: [
        f(fractions(np.random.default_rng(1), 3, 1), SIGN_TARGETS, TENTH) for f in (hinge.forward, hinge.backward)
    ],
}
TENTH = Fraction(1, 10)


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT.keys())
def test_fractions_stay_fractions(case):
    numbers = [number for result in case(np.random.default_rng(0)) for number in numbers_of(result)]
    assert {type(number) for number in numbers} <= {Fraction, int}
    assert Fraction in {type(number) for number in numbers}
