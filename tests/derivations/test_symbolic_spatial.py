"""Exact proofs for transposed convolution, Winograd's convolution and local response normalization, on symbols and on fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from proofs import assert_equal, assert_layer, fractions, layer_case, numbers_of, symbols

from handgrad.derivations import conv2d, conv_transpose2d, local_response_norm, winograd
from handgrad.derivations.notation import zeros

EVERY_OPTION = {
    "stride": (3, 2),
    "padding": (1, 0, 2, 1),
    "output_padding": (2, 1),
    "dilation": (2, 1),
    "groups": 2,
}


@pytest.mark.parametrize(
    ("W_shape", "options"),
    [((2, 3, 2, 2), {}), ((2, 3, 2, 2), {"stride": 3}), ((2, 1, 2, 3), EVERY_OPTION)],
    ids=["plain", "holes", "every option"],
)
def test_conv_transpose2d(W_shape, options):
    filters = W_shape[1] * options.get("groups", 1)
    values = symbols("x", 2, 2, 2), symbols("W", *W_shape), symbols("b", filters)
    assert_layer(conv_transpose2d, *values, names="xWb", options=options)


def test_conv_transpose2d_is_the_transpose_of_conv2d():
    """<conv(y), x> = <y, convT(x)> for all x, y and W; and both backward passes are each other's forward passes."""
    x, W, u = symbols("x", 2, 2, 2), symbols("W", 2, 1, 2, 3), symbols("u", 2, 2, 2)
    z = conv_transpose2d.forward(x, W, zeros(2), **EVERY_OPTION)
    y, options = symbols("y", *z.shape), {k: v for k, v in EVERY_OPTION.items() if k != "output_padding"}
    conv = conv2d.forward(y, W, zeros(2), **options)
    assert_equal((conv * x).sum(), (y * z).sum(), "scalar product")
    there, dL_dW, _ = conv_transpose2d.backward(y, x, W, zeros(2), **EVERY_OPTION)
    back, mirrored_dL_dW, _ = conv2d.backward(u, y, W, zeros(2), **options)
    for one, other in (
        (there, conv),
        (back, conv_transpose2d.forward(u, W, zeros(2), **EVERY_OPTION)),
        (dL_dW, conv2d.backward(x, y, W, zeros(2), **options)[1]),
        (mirrored_dL_dW, conv_transpose2d.backward(y, u, W, zeros(2), **EVERY_OPTION)[1]),
    ):
        assert one.shape == other.shape
        for place in np.ndindex(*one.shape):
            assert_equal(one[place], other[place], f"{place}")


def test_conv_transpose2d_leaves_the_bias_where_nothing_reaches():
    x, W, b = symbols("x", 1, 1, 2), symbols("W", 1, 1, 1, 1), symbols("b", 1)
    z = conv_transpose2d.forward(x, W, b, stride=(1, 3), output_padding=(0, 1))
    assert z.tolist() == [[[W[0, 0, 0, 0] * x[0, 0, 0] + b[0], b[0], b[0], W[0, 0, 0, 0] * x[0, 0, 1] + b[0], b[0]]]]


def test_winograd():
    values = symbols("x", 1, 2, 3), symbols("W", 1, 1, 3, 3), symbols("b", 1)
    assert_layer(winograd, *values, names="xWb", options={"padding": (1, 0, 0, 1)})


@pytest.mark.parametrize("padding", [0, 1, (2, 0, 1, 3)])
def test_winograd_is_conv2d(padding):
    """In fractions nothing is rounded: tiles of all kinds give exactly the convolution and its gradients."""
    rng = np.random.default_rng(0)
    x, W, b = fractions(rng, 2, 7, 6), fractions(rng, 2, 2, 3, 3), fractions(rng, 2)
    z = conv2d.forward(x, W, b, padding=padding)
    assert (winograd.forward(x, W, b, padding) == z).all()
    u = fractions(rng, *z.shape)
    expected = conv2d.backward(u, x, W, b, padding=padding)
    for gradient, other in zip(winograd.backward(u, x, W, b, padding), expected, strict=True):
        assert (gradient == other).all()


ALPHA, BETA, K = sympy.symbols("alpha beta k", positive=True)


@pytest.mark.parametrize("beta", [1, 2, sympy.Rational(3, 4), BETA], ids=str)
@pytest.mark.parametrize(("C", "size"), [(1, 1), (1, 4), (2, 9), (3, 1), (3, 2), (3, 3), (4, 4)])
def test_local_response_norm(C, size, beta):
    options = {"size": size, "alpha": ALPHA, "beta": beta, "k": K}
    assert_layer(local_response_norm, symbols("x", C, 1, 1), names="x", options=options)


def test_local_response_norm_of_a_window_of_even_size():
    """PyTorch's convention: size // 2 channels back, (size - 1) // 2 ahead."""
    x = symbols("x", 5, 1, 1)
    d = local_response_norm.divisor(x, 4, 4, K)[:, 0, 0]
    squares = (x**2)[:, 0, 0]
    for c, window in enumerate([squares[:2], squares[:3], squares[:4], squares[1:], squares[2:]]):
        assert_equal(d[c], K + window.sum(), f"d[{c}]")


EXACT = {
    "winograd": layer_case(winograd, (1, 5, 3), (2, 1, 3, 3), (2,), padding=(1, 0, 1, 1)),
    "conv_transpose2d": layer_case(conv_transpose2d, (2, 2, 3), (2, 1, 2, 3), (2,), **EVERY_OPTION),
    "local_response_norm": layer_case(
        local_response_norm, (4, 2, 1), size=3, alpha=Fraction(1, 7), beta=2, k=Fraction(3, 2)
    ),
}


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT.keys())
def test_fractions_stay_fractions(case):
    numbers = [number for result in case(np.random.default_rng(0)) for number in numbers_of(result)]
    assert {type(number) for number in numbers} <= {Fraction, int}
    assert Fraction in {type(number) for number in numbers}


def test_local_response_norm_of_fractions_by_hand():
    x = np.array([Fraction(1, 2), Fraction(1, 3)], dtype=object).reshape(2, 1, 1)
    z = local_response_norm.forward(x, size=3, alpha=Fraction(3), beta=2, k=1)
    d = 1 + Fraction(1, 4) + Fraction(1, 9)
    assert z[:, 0, 0].tolist() == [Fraction(1, 2) / d**2, Fraction(1, 3) / d**2]
