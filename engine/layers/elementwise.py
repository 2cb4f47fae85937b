"""What activation functions share: any shape in, the same shape out, and kernels that see flat arrays.

Floor 2.
"""

from __future__ import annotations

from .layer import Layer, Shape


class Elementwise(Layer):
    """Base of the activation functions; their input is called z and their output a."""

    letter = "a"

    def output_shape(self, z_shape: Shape) -> Shape:
        """Return the input's shape."""
        return z_shape
