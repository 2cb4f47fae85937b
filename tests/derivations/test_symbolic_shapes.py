"""Exact proofs for the layers that pool whole images, move values around, multiply or enlarge."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import assert_equal, assert_gradient, assert_layer, fractions, layer_case, numbers_of, symbols

from handgrad.derivations import (
    add,
    avgpool2d,
    concat,
    flatten,
    global_avgpool2d,
    global_maxpool2d,
    maxpool2d,
    multiply,
    reshape,
    upsample2d,
)

METHODS = ("nearest", "bilinear")
SCALES = (2, 3, (1, 4), (3, 2))


def test_global_avgpool2d():
    assert_layer(global_avgpool2d, symbols("x", 2, 2, 3), names="x")


def test_global_avgpool2d_is_average_pooling_with_one_window():
    x, u = symbols("x", 2, 2, 3), symbols("u", 2)
    z = avgpool2d.forward(x, size=(2, 3))
    (dL_dx,) = avgpool2d.backward(u.reshape(2, 1, 1), x, size=(2, 3))
    (found,) = global_avgpool2d.backward(u, x)
    for c in range(2):
        assert_equal(global_avgpool2d.forward(x)[c], z[c, 0, 0], f"z[{c}]")
    for place in np.ndindex(*x.shape):
        assert_equal(found[place], dL_dx[place], f"dL_dx{list(place)}")


@pytest.mark.parametrize("kind", [Fraction, sympy.Rational], ids=["fractions", "SymPy's rationals"])
def test_global_maxpool2d(kind):
    """Exact difference quotients are the derivatives, for L is linear as long as the winners stay the same."""
    rng = np.random.default_rng(0)
    x = np.empty((3, 3, 4), dtype=object)
    x.reshape(-1)[:] = [kind(int(value), 7) for value in rng.permutation(x.size) - x.size]  # negative: 0 would win
    u = symbols("u", 3) if kind is sympy.Rational else fractions(rng, 3)
    z, h = global_maxpool2d.forward(x), kind(1, 10**6)
    assert (z < 0).all()
    (dL_dx,) = global_maxpool2d.backward(u, x)
    for place in np.ndindex(*x.shape):
        changed = x.copy()
        changed[place] += h
        quotient = ((u * global_maxpool2d.forward(changed)).sum() - (u * z).sum()) / h
        assert sympy.simplify(dL_dx[place] - quotient) == 0, place


def test_global_maxpool2d_of_symbols_is_max_pooling_with_one_window():
    """x = one unknown plus known numbers: SymPy knows the winners, and the values stay symbols."""
    base, numbers = sympy.Symbol("base", real=True), np.array([[[3, 1, 4], [1, 5, 5]], [[0, -1, 0], [0, 0, -2]]])
    x, u = base + numbers.astype(object), symbols("u", 2)
    assert global_maxpool2d.forward(x).tolist() == [base + 5, base]
    assert global_maxpool2d.forward(x).tolist() == maxpool2d.forward(x, size=(2, 3)).reshape(2).tolist()
    (dL_dx,) = global_maxpool2d.backward(u, x)
    assert dL_dx.tolist() == [[[0, 0, 0], [0, u[0], 0]], [[u[1], 0, 0], [0, 0, 0]]]
    assert dL_dx.tolist() == maxpool2d.backward(u.reshape(2, 1, 1), x, size=(2, 3))[0].tolist()


def test_global_maxpool2d_gives_the_gradient_of_several_nan_to_the_last():
    nan = float("nan")
    x = np.array([[[7, nan], [nan, 1]]], dtype=object)
    assert global_maxpool2d.backward(np.array([5], dtype=object), x)[0].tolist() == [[[0, 0], [5, 0]]]


@pytest.mark.parametrize("shape", [(12,), (3, 4), (-1, 2), (2, 3, 2), (2, -1, 1, 3)])
def test_reshape(shape):
    assert_layer(reshape, symbols("x", 2, 2, 3), names="x", options={"shape": shape})


def test_reshape_to_one_dimension_is_flatten_and_undoes_itself():
    x = symbols("x", 2, 2, 3)
    assert reshape.forward(x, shape=(-1,)).tolist() == flatten.forward(x).tolist()
    assert reshape.forward(reshape.forward(x, shape=(4, 3)), shape=(2, 2, 3)).tolist() == x.tolist()


@pytest.mark.parametrize("shape", [(5, 5), (5, -1), (13, -1), (13,), (1,)])
def test_reshape_to_another_number_of_values_is_an_error(shape):
    with pytest.raises(ValueError, match="^reshape: 12 values do not fit the shape"):
        reshape.forward(symbols("x", 12), shape=shape)


@pytest.mark.parametrize(
    "shapes", [[(2,), (1,)], [(1,), (3,), (2,)], [(2, 2, 3), (1, 2, 3)], [(1, 1, 2), (3, 1, 2), (2, 1, 2)]], ids=str
)
def test_concat(shapes):
    inputs = [symbols(f"x{m}", *shape) for m, shape in enumerate(shapes)]
    assert_layer(concat, *inputs, names=[f"x{m}" for m in range(len(shapes))])
    assert concat.forward(*inputs).tolist() == np.concatenate(inputs).tolist()


@pytest.mark.parametrize("M", [2, 3, 4])
def test_multiply(M):
    inputs = [symbols(f"x{m}", 2, 2) for m in range(M)]
    assert_layer(multiply, *inputs, names=[f"x{m}" for m in range(M)])


@pytest.mark.parametrize("M", [2, 3])
def test_one_value_as_several_factors_is_a_power(M):
    x, u = symbols("x", 3), symbols("u", 3)
    z, dL_dx = multiply.forward(*[x] * M), add.fan_out(*multiply.backward(u, *[x] * M))
    assert_gradient((u * z).sum(), x, dL_dx, "dL_dx")
    for k in range(3):
        assert_equal(z[k], x[k] ** M, "z")
        assert_equal(dL_dx[k], M * x[k] ** (M - 1) * u[k], "dL_dx")


def test_multiply_by_zeros_is_the_limit_that_a_division_would_miss():
    """dL/dx_1 at x_1 = 0, and at x_1 = x_2 = 0, from SymPy's derivative for any value of the others."""
    x = [symbols(f"x{m}", 1) for m in range(3)]
    u = symbols("u", 1)
    for zeros in ({x[0][0]: 0}, {x[0][0]: 0, x[1][0]: 0}):
        at_zero = [np.array([factor[0].subs(zeros)], dtype=object) for factor in x]
        for m, dL_dx_m in enumerate(multiply.backward(u, *at_zero)):
            exact = sympy.diff((u * multiply.forward(*x)).sum(), x[m][0]).subs(zeros)
            assert_equal(dL_dx_m[0], exact, f"dL_dx{m}")


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_upsample2d(method, scale):
    assert_layer(upsample2d, symbols("x", 2, 2, 3), names="x", options={"scale": scale, "method": method})


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_upsample2d_neither_makes_nor_loses_gradient(method, scale):
    x = symbols("x", 1, 2, 3)
    u = symbols("u", *upsample2d.forward(x, scale=scale, method=method).shape)
    (dL_dx,) = upsample2d.backward(u, x, scale=scale, method=method)
    assert_equal(dL_dx.sum(), u.sum(), "sum of the gradient")


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("s", [1, 2, 3, 4])
def test_bilinear_weights_are_positive_add_up_to_1_and_have_the_centre_of_the_output_as_their_mean(n, s):
    for h in range(n * s):
        weights = upsample2d.weights(h, n, s, "bilinear")
        assert all(0 <= a < n and 0 < u <= 1 for a, u in weights)
        assert sum(u for _, u in weights) == 1
        centre = (h + Fraction(1, 2)) / s - Fraction(1, 2)
        assert sum(a * u for a, u in weights) == min(max(centre, 0), n - 1)


EXACT = {
    "global_avgpool2d": layer_case(global_avgpool2d, (2, 3, 4)),
    "global_maxpool2d": layer_case(global_maxpool2d, (2, 3, 4)),
    "reshape": layer_case(reshape, (2, 3, 4), shape=(-1, 6)),
    "concat": layer_case(concat, (2, 2, 2), (1, 2, 2), (3, 2, 2)),
    "multiply": layer_case(multiply, (2, 2), (2, 2), (2, 2)),
    "nearest": layer_case(upsample2d, (2, 2, 3), scale=(2, 3)),
    "bilinear": layer_case(upsample2d, (2, 2, 3), scale=(2, 3), method="bilinear"),
}


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT.keys())
def test_fractions_stay_fractions(case):
    numbers = [number for result in case(np.random.default_rng(0)) for number in numbers_of(result)]
    assert {type(number) for number in numbers} <= {Fraction, int}
    assert Fraction in {type(number) for number in numbers}
