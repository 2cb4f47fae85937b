"""Sizes of a convolution: the tiles, the strips, and the tables of loop bounds that its kernels work with.

Floor 2. The kernels are in ``conv2d.py``; ``conv_transpose2d.py`` runs them in the other direction.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ..backend import LANES, TILE
from .layer import Shape
from .window import Line, offset_steps, pixel_offsets

SUMS = 6 if TILE == 4 else 24  # products of channels and filters that a tile adds up: 12 of 16 registers, 24 of 32
NEAR = 36 * 1024  # bytes that stay in the nearest cache, more or less, while a tile goes over them again and again
AT_ONCE = 256 * 1024  # bytes of unfinished sums, half of a usual second cache


def weight_tile(channels: int, filters: int) -> tuple[int, int]:
    """Return how many channels and filters of a group a tile of the weight gradient takes, so that few are surplus."""
    shapes = [(count, SUMS // count) for count in (3, 2, 1)]  # of equal ones the first: it reads the fewest numbers
    return min(shapes, key=lambda shape: -(-channels // shape[0]) * -(-filters // shape[1]))


def channel_tile(channels: int, blocks: int) -> tuple[int, int]:
    """Return how many channels of a group, and blocks of samples, a tile takes, so that little of it is surplus."""
    shapes = [(TILE, 1), (TILE * 3 // 4, 2)]
    return min(shapes, key=lambda shape: -(-channels // shape[0]) * shape[0] * -(-blocks // shape[1]) * shape[1])


@dataclass(frozen=True)
class Correlation:
    """A convolution between shapes that are known; a transposed one is the same, read backwards.

    Attributes
    ----------
    x_shape, z_shape : (channels, rows, columns)
    kernel_size, stride, dilation : (rows, columns)
    padding : (top, bottom, left, right)
    groups : int
    """

    x_shape: Shape
    z_shape: Shape
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def scratch(self, blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return room for packed weights, whose surplus lanes stay 0, and for sums, and the bounds of the loops."""
        (C, H, B), (O, P, Q), G = self.x_shape, self.z_shape, self.groups
        O_g, C_g = O // G, C // G
        along_rows = Line(H, P, self.kernel_size[0], self.stride[0], self.padding[0], self.dilation[0])
        along_columns = Line(B, Q, self.kernel_size[1], self.stride[1], self.padding[2], self.dilation[1])
        (out, at_once), (back, _) = self.output_tile(blocks), self.input_tile(blocks)
        return {
            "by_output": np.zeros((G * -(-O_g // out), C_g, *self.kernel_size, out), dtype),
            "by_input": np.zeros((G * -(-C_g // back), O_g, *self.kernel_size, back), dtype),
            "near": np.zeros((at_once, out, P, Q, LANES), dtype),
            "forward_rows": along_rows.offsets_inside(),
            "forward_columns": along_columns.offsets_inside(),
            "forward_offsets": pixel_offsets(C_g, self.kernel_size, (H, B), self.dilation),
            "input_rows": along_rows.offsets_that_reach(),
            "input_columns": along_columns.offsets_that_reach(),
            "weight_rows": along_rows.outputs_inside(),
            "weight_columns": along_columns.outputs_inside(),
            "weight_sums": self._sums(dtype),
        }

    def output_tile(self, blocks: int) -> tuple[int, int]:
        """Return how many filters and blocks of samples a tile of the forward pass takes."""
        return channel_tile(self.z_shape[0] // self.groups, blocks)

    def input_tile(self, blocks: int) -> tuple[int, int]:
        """Return how many channels and blocks of samples a tile of the input gradient takes."""
        return channel_tile(self.x_shape[0] // self.groups, blocks)

    @functools.cached_property
    def weight_tile(self) -> tuple[int, int]:
        """How many channels and filters a tile of the weight gradient takes."""
        return weight_tile(self.x_shape[0] // self.groups, self.z_shape[0] // self.groups)

    def _sums(self, dtype: np.dtype) -> np.ndarray:
        """Return room for as many tiles as AT_ONCE holds: (filters, channels, fh, fw, *tile, LANES), both in tiles."""
        channels, filters = self.x_shape[0] // self.groups, self.z_shape[0] // self.groups
        shape = (-(-channels // self.weight_tile[0]), *self.kernel_size, *self.weight_tile, LANES)
        most = AT_ONCE // (math.prod(shape) * np.dtype(dtype).itemsize)
        return np.zeros((max(1, min(most, -(-filters // self.weight_tile[1]))), *shape), dtype)

    @functools.cached_property
    def strip(self) -> int:
        """How many rows of the output the weight gradient goes over at a time, so that they stay NEAR."""
        (_, _, B), (_, P, Q), tile, step = self.x_shape, self.z_shape, self.weight_tile, self.stride[0]
        beside = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - step  # rows of x that the next strip reads again
        most = (NEAR // (4 * LANES) - tile[0] * beside * B) // (tile[0] * step * B + tile[1] * Q)
        return -(-P // -(-P // max(1, most)))

    @functools.cached_property
    def steps(self) -> tuple[int, int, int, int]:
        """By how much i grows and h falls, and j and q, from one contribution to an input pixel to the next."""
        return (*offset_steps(self.stride[0], self.dilation[0]), *offset_steps(self.stride[1], self.dilation[1]))
