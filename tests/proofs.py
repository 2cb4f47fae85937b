"""Exact proofs for the literal code of the derivations: symbols, fractions, and SymPy's derivatives.

The forward pass on symbols gives a formula; SymPy differentiates it; the backward pass on the same symbols must
give exactly the same. The loss is L = Σ u z with a symbol u for every output, whose gradient dL/dz is u.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import sympy


def symbols(letter, *shape, **assumptions):
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        array[index] = sympy.Symbol("_".join([letter, *map(str, index)]), **{"real": True} | assumptions)
    return array


def fractions(rng, *shape):
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        array[index] = Fraction(int(rng.integers(-99, 100)), int(rng.integers(1, 20)))
    return array


def is_zero(expression):
    """Prove that an expression is 0: as a quotient of polynomials in symbols and their exponentials, or by force."""
    expression = sympy.expand(expression)  # exp(a - b) becomes exp(a) exp(-b)
    exponentials = {sympy.exp(s): sympy.Symbol(f"exp_{s}", positive=True) for s in expression.free_symbols}
    numerator = sympy.expand(sympy.numer(sympy.together(expression.subs(exponentials))))
    return numerator == 0 or sympy.simplify(expression) == 0


def assert_equal(found, expected, what):
    assert is_zero(found - expected), f"{what}: {found}, expected {expected}"


def assert_gradient(L, variable, gradient, what):
    """The gradient must be the exact derivative of L with respect to every element of the variable."""
    assert gradient.shape == variable.shape, what
    for index in np.ndindex(*variable.shape):
        assert_equal(gradient[index], sympy.diff(L, variable[index]), f"{what}{list(index)}")


def assert_layer(module, *values, names, options=None):
    """Differentiate a layer with respect to each of its inputs and parameters."""
    options = options or {}
    z = module.forward(*values, **options)
    u = symbols("u", *z.shape)
    gradients = module.backward(u, *values, **options)
    assert isinstance(gradients, tuple) and len(gradients) == len(values) == len(names)
    for name, value, gradient in zip(names, values, gradients):
        assert_gradient((u * z).sum(), value, gradient, f"{module.__name__}: dL_d{name}")


def numbers_of(result):
    """All numbers in a number, an array or a tuple of arrays."""
    arrays = result if isinstance(result, tuple) else (result,)
    return [value for array in arrays for value in np.asarray(array, dtype=object).reshape(-1)]


def layer_case(module, *shapes, **options):
    def run(rng):
        values = [fractions(rng, *shape) for shape in shapes]
        z = module.forward(*values, **options)
        return z, module.backward(fractions(rng, *z.shape), *values, **options)

    return run
