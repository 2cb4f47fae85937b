"""What layers share that treat every element alone: the same shape out as in, and kernels that see flat arrays.

Floor 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

from ..backend import LANES, copy_lanes, index, kernel, registers
from ..checks import ShapeError
from ..cuda import cuda, cuda_kernel, flat
from ..scalar import identity
from .layer import Layer, Shape

STRETCH = 8 * LANES  # numbers that an activation computes before it writes them back


@functools.cache
def activation_kernel(activation):
    """Return the kernel of an activation that another layer applies."""

    @kernel
    def activate_rows(z, first, stop):
        """z = activation(z) for the numbers from the first up to the last of each map; z (maps, numbers).

        In place, LLVM would make a store that happens only where the number changes, one after the other.
        """
        zero, one = z.dtype.type(0), z.dtype.type(1)
        a = registers((STRETCH,), STRETCH, z)
        whole = stop - (stop - first) % STRETCH
        for m in range(z.shape[0]):
            for k in range(first, whole, STRETCH):
                numbers = z[m, k : k + STRETCH]
                for v in range(STRETCH):
                    a[v] = activation(numbers[v], zero, one)
                for v in range(0, STRETCH, LANES):
                    copy_lanes(numbers[v:], a[v:])
            for k in range(whole, stop):
                z[m, index(k)] = activation(z[m, index(k)], zero, one)

    return activate_rows


def activate(activation, z, rows: tuple[int, int]) -> None:
    """Replace some rows of z (O, P, Q, LANES), which have just been stored and are still near, by their activation."""
    if activation is not identity:
        width = z[0, 0].size
        activation_kernel(activation)(z.reshape(len(z), -1), rows[0] * width, rows[1] * width)


@functools.cache
def _activation_kernel_cuda(activation):
    @cuda_kernel
    def activation_cuda(z):
        """Replace z by activation(z), one thread for each number."""
        k = cuda.grid(1)
        if k < z.size:
            z[k] = activation(z[k], z.dtype.type(0), z.dtype.type(1))

    return activation_cuda


def activate_cuda(activation, z) -> None:
    """Replace z by activation(z) on a GPU, where the kernel that made z has not done so."""
    if activation is not identity:
        _activation_kernel_cuda(activation)[flat(z.size)](z.reshape(-1))


class Elementwise(Layer):
    """Base of the activation functions; their input is called z and their output a.

    Attributes
    ----------
    formulas : (callable, callable) or None
        a = value(z, zero, one) and dL/dz = gradient(a, dL/da, zero, one), for activations whose derivative follows from
        their value: the layer before can then apply both, and what it computes needs no array of its own.
    """

    letter = "a"
    formulas: ClassVar[tuple[Callable, Callable] | None] = None

    def output_shape(self, z_shape: Shape) -> Shape:
        """Return the input's shape."""
        return z_shape


class OfEqualInputs(Layer):
    """Base of the layers that join two or more inputs of one shape, element by element."""

    inputs = None

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """Return the shape that all inputs have."""
        different = [shape for shape in x_shapes if shape != x_shapes[0]]
        if different:
            raise ShapeError(
                str(self), got=f"inputs of {x_shapes[0]} and {different[0]}", expected="inputs of one shape"
            )
        return x_shapes[0]
