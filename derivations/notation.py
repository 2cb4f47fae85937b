"""Every letter, once, and the small tools that all derivations share.

A literal function works on one sample, whose values are columns (``z = W x + b``); a mini-batch of N samples
is N such columns, and the gradients of parameters are summed over them. Losses, which average over the
samples, work on the whole mini-batch. Gradients are named as they are written: ``dL_dz`` is dL/dz, has the
shape of z, and is called the upstream gradient of the layer that computes z.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

# What a letter means unless a module says otherwise: a module's own LETTERS come before these.
LETTERS = (
    ("L", "the loss, a single number"),
    ("N, n", "number of samples in the mini-batch; one of them"),
    ("x", "input of a layer"),
    ("z", "output of a layer (of a dense or convolution layer before its activation function)"),
    ("a", "output of an activation function, where z is its input"),
    (
        "p, t",
        "prediction, of classes their probabilities; target, of classes 1 for the true one and 0 elsewhere",
    ),
    ("label", "the true classes: label[n] is that of sample n, from 0 to K - 1"),
    ("W, b", "weights and biases"),
    ("θ, g", "any parameter; its gradient dL/dθ, averaged over the mini-batch by the loss"),
    ("α", "learning rate"),
    (
        "i, j",
        "row and column of a weight matrix, a kernel or a window; output and input of a dense layer; i also a second k",
    ),
    ("I, J", "number of outputs and inputs of a dense layer"),
    ("K, k", "number of classes, or of elements of a vector; one of them"),
    ("C, c", "number of input channels; one of them"),
    ("O, o", "number of output channels (filters); one of them"),
    ("H, W; a, b", "rows and columns of an image; position (row a, column b) in the input of a layer"),
    ("P, Q; h, q", "rows and columns of a feature map; position (row h, column q) in the output of a layer"),
    (
        "f, s, p, d",
        "kernel (or window) size, stride, padding, dilation; of rows and of columns where they differ",
    ),
    ("ε", "a small number that keeps a divisor from 0"),
    ("E", "expected value, the mean over all that is drawn at random"),
    ("[A]", "1 if the statement A is true, else 0 (Iverson's bracket)"),
)

LECTURE_NOTES = (
    ("S0", "Deep Learning and Image Processing, section 9 of a course on computer vision, 2020"),
    ("S1", "Introduction to Deep Learning, lecture 13 of a course"),
    ("S2", "Machine Learning and Deep Learning, slides of weeks 22 and 23, by N. Aziz after A. Ng"),
    ("S3", "Deep Learning for Vision Systems, handwritten notes on the book of that name"),
    ("S4", "Deep Learning, lecture of the course CS473/573"),
)


@dataclass(frozen=True)
class Equation:
    """One numbered equation.

    Parameters
    ----------
    tag : str
        Its number, ``"dense.1"``; code that computes it ends with the comment ``# (dense.1)``.
    text : str
        The equation for the terminal, in Unicode, at most 96 columns. A relation sign is `` = `` with
        blanks around it, and an equals sign without blanks belongs to a bracket or a range.
    latex : str
        The same for a book.
    reason : str
        Why this step is allowed, in one sentence.
    sides : tuple of callable
        One function per side of the chain of equalities; each takes the point that the module's
        ``sample`` returned and gives a number or an array. A test demands that all sides agree and that
        there is one relation sign between each pair of them.
    computed : bool
        False for a step of the derivation that no program needs to compute.
    """

    tag: str
    text: str
    latex: str
    reason: str
    sides: tuple[Callable[[SimpleNamespace], object], ...]
    computed: bool = True


def zeros(*shape: int) -> np.ndarray:
    """Return an object array of exact zeros, ready to hold floats, fractions or symbols."""
    array = np.empty(shape, dtype=object)
    array.fill(0)
    return array


def positions(*shape: int):
    """Iterate over all index tuples of a shape, the last index fastest."""
    return np.ndindex(*shape)


def exp(value):
    """Return e to the power of a number or of a SymPy expression."""
    return _elementary("exp", value)


def log(value):
    """Return the natural logarithm of a number or of a SymPy expression."""
    return _elementary("log", value)


def tanh(value):
    """Return the hyperbolic tangent of a number or of a SymPy expression."""
    return _elementary("tanh", value)


def sqrt(value):
    """Return the square root of a number or of a SymPy expression."""
    return _elementary("sqrt", value)


def _elementary(name: str, value):
    if type(value).__module__.split(".")[0] == "sympy":  # then SymPy is loaded; nothing is imported here
        return getattr(sys.modules["sympy"], name)(value)
    if hasattr(value, name):  # numbers that bring their own functions, such as those of an exact derivative
        return getattr(value, name)()
    return getattr(math, name)(value)


def derivative(function: Callable[[np.ndarray], object], point: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Return the partial derivatives of a function from their definition, the limit of a difference quotient.

    Parameters
    ----------
    function : callable
        Takes an array like ``point`` and gives a number or an array.
    point : numpy.ndarray
        Where to differentiate, float.
    h : float
        Step of the central difference (f(x + h) - f(x - h)) / 2h, whose error is of the order h².

    Returns
    -------
    numpy.ndarray
        float64, of the function's shape followed by the point's shape.

    Examples
    --------
    >>> round(float(derivative(lambda x: x[0] ** 2, np.array([3.0]))[0]), 6)
    6.0
    """
    point = np.asarray(point, dtype=np.float64)
    columns = []
    for index in np.ndindex(*point.shape):
        plus, minus = point.copy(), point.copy()
        plus[index] += h
        minus[index] -= h
        high = np.asarray(function(plus), dtype=np.float64)
        low = np.asarray(function(minus), dtype=np.float64)
        columns.append((high - low) / (2 * h))
    shape = columns[0].shape if columns else ()
    return np.moveaxis(np.array(columns).reshape(point.shape + shape), range(point.ndim), range(-point.ndim, 0))


def pair(value) -> tuple:
    """Return (value, value) for a single number, and a pair as it is: rows first, then columns."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def four_sides(padding) -> tuple[int, int, int, int]:
    """Return padding as (top, bottom, left, right) from one number, (rows, columns), or all four."""
    if not isinstance(padding, (tuple, list)):
        return (padding,) * 4
    if len(padding) == 2:
        return (padding[0], padding[0], padding[1], padding[1])
    return tuple(padding)


def output_size(n: int, f: int, s: int, before: int, after: int, d: int = 1) -> int:
    """Return how many windows of size f fit a padded line: floor((n + 2p - d (f - 1) - 1) / s) + 1.

    Parameters
    ----------
    n : int
        Length of the line.
    f, s, d : int
        Window size, stride and dilation.
    before, after : int
        Padding on either end; their sum is the 2p of the formula.

    Examples
    --------
    >>> output_size(6, 3, 1, 0, 0), output_size(28, 5, 1, 2, 2), output_size(7, 3, 2, 0, 0)
    (4, 28, 3)
    """
    return (n + before + after - d * (f - 1) - 1) // s + 1


def windows(position: int, n: int, f: int, s: int, before: int, d: int = 1):
    """Iterate over the (offset, input position) pairs of one window that lie inside the line 0 … n - 1."""
    for i in range(f):
        a = s * position + d * i - before
        if 0 <= a < n:
            yield i, a


def windows_over(position: int, P: int, f: int, s: int, before: int, d: int = 1):
    """Iterate over the (offset i, window h) pairs of the windows that hold a position: s h + d i - p = position."""
    for i in range(f):
        h, remainder = divmod(position + before - d * i, s)
        if remainder == 0 and 0 <= h < P:
            yield i, h
