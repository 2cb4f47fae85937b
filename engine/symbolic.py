"""Exact derivatives: the literal forward pass on symbols, differentiated by SymPy and evaluated with 30 digits.

Floor 4. SymPy is optional; where it is missing, this view of a gradient is left out. A number is carried in two forms
at once, as an expression and as its value at the point of interest, because piecewise formulas (ReLU, pooling) have to
compare numbers while they run.
"""

from __future__ import annotations

import math

import numpy as np

DIGITS = 30


def is_available() -> bool:
    """Return whether SymPy can be imported."""
    try:
        import sympy  # noqa: F401
    except ImportError:
        return False
    return True


class Expression:
    """A number as a SymPy expression together with its value; comparisons look at the value.

    Parameters
    ----------
    expression : sympy.Expr
    value : float
    """

    __slots__ = ("expression", "value")

    def __init__(self, expression, value: float):
        self.expression, self.value = expression, float(value)

    @staticmethod
    def of(number) -> Expression:
        """Return any number as an expression; a float is the fraction that it stores, exactly."""
        import sympy

        if isinstance(number, Expression):
            return number
        return Expression(sympy.Rational(number) if math.isfinite(number) else sympy.Float(number), number)

    def _with(self, other, combine, swapped: bool = False) -> Expression:
        left, right = (Expression.of(other), self) if swapped else (self, Expression.of(other))
        return Expression(combine(left.expression, right.expression), combine(left.value, right.value))

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other):
        return self._with(other, lambda a, b: a / b)

    def __pow__(self, other):
        return self._with(other, lambda a, b: a**b)

    def __radd__(self, other):
        return self._with(other, lambda a, b: a + b, swapped=True)

    def __rsub__(self, other):
        return self._with(other, lambda a, b: a - b, swapped=True)

    def __rmul__(self, other):
        return self._with(other, lambda a, b: a * b, swapped=True)

    def __rtruediv__(self, other):
        return self._with(other, lambda a, b: a / b, swapped=True)

    def __rpow__(self, other):
        return self._with(other, lambda a, b: a**b, swapped=True)

    def __neg__(self):
        return Expression(-self.expression, -self.value)

    def __lt__(self, other):
        return self.value < Expression.of(other).value

    def __le__(self, other):
        return self.value <= Expression.of(other).value

    def __gt__(self, other):
        return self.value > Expression.of(other).value

    def __ge__(self, other):
        return self.value >= Expression.of(other).value

    def __eq__(self, other):
        return self.value == Expression.of(other).value

    def __ne__(self, other):
        return self.value != Expression.of(other).value

    __hash__ = None

    def _elementary(self, name: str) -> Expression:
        import sympy

        return Expression(getattr(sympy, name)(self.expression), getattr(math, name)(self.value))

    def exp(self) -> Expression:
        """Return e to this power."""
        return self._elementary("exp")

    def log(self) -> Expression:
        """Return the natural logarithm."""
        return self._elementary("log")

    def tanh(self) -> Expression:
        """Return the hyperbolic tangent."""
        return self._elementary("tanh")

    def sqrt(self) -> Expression:
        """Return the square root."""
        return self._elementary("sqrt")


def variables(name: str, values: np.ndarray) -> np.ndarray:
    """Return an array of new variables that have these values.

    Parameters
    ----------
    name : str
    values : numpy.ndarray

    Returns
    -------
    numpy.ndarray of Expression, of the same shape
    """
    import sympy

    result = np.empty(values.shape, dtype=object)
    for place in np.ndindex(*values.shape):
        symbol = sympy.Symbol("_".join([name, *map(str, place)]), real=True)
        result[place] = Expression(symbol, values[place])
    return result


def gradients(L: Expression, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the exact derivatives of an expression with respect to arrays of variables, rounded to float64 at the end.

    Parameters
    ----------
    L : Expression
    named : dict of str to numpy.ndarray of Expression
        From ``variables``.

    Returns
    -------
    dict of str to numpy.ndarray, float64
    """
    import mpmath
    import sympy

    every = [variable for array in named.values() for variable in array.reshape(-1)]
    symbols = [variable.expression for variable in every]
    derivatives = [sympy.diff(L.expression, symbol) for symbol in symbols]
    evaluate = sympy.lambdify(symbols, derivatives, modules="mpmath", cse=True)
    with mpmath.workdps(DIGITS):
        numbers = [float(number) for number in evaluate(*(mpmath.mpf(variable.value) for variable in every))]
    result, start = {}, 0
    for name, array in named.items():
        result[name] = np.array(numbers[start : start + array.size], dtype=np.float64).reshape(array.shape)
        start += array.size
    return result
