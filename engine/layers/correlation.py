"""Sizes of a convolution: tiles, bands and strips, copies with a border, and the tables that its kernels work with.

Floor 2. The kernels are in ``conv2d.py``; ``conv_transpose2d.py`` runs them in the other direction.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from ..backend import LANES
from ..cuda import IS_SIMULATED, REDUCERS, WARP
from ..tiles import INPUT_TILES, OUTPUT_TILES, WEIGHT_TILES, best_tile
from .layer import Shape
from .window import Line, offset_steps, pixel_offsets

NEAR = 36 * 1024  # bytes that stay in the nearest cache, more or less, while a tile goes over them again and again
NEAR_ROWS = 128 * 1024  # bytes of the output that stay in the second cache
WARPS = 2 if IS_SIMULATED else 4  # in a block of the weight gradient on a GPU
ROW_SUMS = 60  # sums that each thread of it may have: with 88 it needs 186 registers
BUSY = 6 if IS_SIMULATED else 528  # blocks of threads that keep a GPU busy: four for each of 132 multiprocessors
AT_ONCE = 256 * 1024  # bytes of unfinished sums, half of a usual second cache


def channel_tile_cuda(channels: int, positions: int) -> int:
    """Return how many channels a thread of the GPU takes: 8 with 4 columns, or 4 with 2 where that leaves it idle."""
    tiles = -(-channels // 8) * positions // 4
    return 8 if channels > 4 and tiles >= 8 * BUSY // 4 else 4


def parts_for(sums: int, blocks: int, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Return room for parts of sums over samples and positions, (parts, sums): so many that a GPU is busy."""
    numbers = math.prod(shape[1:]) * WARP
    return np.zeros((max(1, min(BUSY // sums, numbers // REDUCERS)), sums), dtype)


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
        """Return room for packed weights, copies with a border and sums, the offsets, and the bounds of the loops.

        Surplus filters of the weights and the borders stay 0.
        """
        C, O, G = self.x_shape[0], self.z_shape[0], self.groups
        O_g, C_g = O // G, C // G
        found = {"image": np.zeros((C, self.plane[0], LANES), dtype)} if self.is_placed else {}
        if self.is_pointwise:
            other = self.transposed
            back = other.output_tile[0]
            found |= {"back_offsets": other.offsets, "back_bias": np.zeros(C, dtype)}
            if other.is_placed:
                found["back_image"] = np.zeros((O, other.plane[0], LANES), dtype)
        else:
            back, blocks_at_once = self.input_tile(blocks)
            P, Q = self.z_shape[1:]
            if _is_crowded(O_g, P * Q):
                found["planes"] = np.zeros((blocks_at_once, O, P * Q + 1, LANES), dtype)
        out = self.output_tile[0]
        return {
            **found,
            "by_output": np.zeros((G * -(-O_g // out), C_g, *self.kernel_size, out), dtype),
            "by_input": np.zeros((G * -(-C_g // back), *self.kernel_size, O_g, back), dtype),
            "weight_sums": self._sums(dtype),
            "forward_offsets": self.offsets,
            **self._tables(),
        }

    @functools.cached_property
    def is_placed(self) -> bool:
        """Whether forward pass and weight gradient read a copy.

        It has a border of zeros, or planes that are less crowded, or only those pixels that a window reads.
        """
        C, H, B = self.x_shape
        return any(self.padding) or self.steps_there != (1, 1) or _is_crowded(C // self.groups, H * B)

    @functools.cached_property
    def steps_there(self) -> tuple[int, int]:
        """Every how manieth row and column is there: windows of a single row or column read no others."""
        (fh, fw), (sh, sw), (top, bottom, left, right) = self.kernel_size, self.stride, self.padding
        return sh if (fh, top, bottom) == (1, 0, 0) else 1, sw if (fw, left, right) == (1, 0, 0) else 1

    @property
    def stride_there(self) -> tuple[int, int]:
        """How far apart windows are there."""
        return self.stride[0] // self.steps_there[0], self.stride[1] // self.steps_there[1]

    @functools.cached_property
    def plane(self) -> tuple[int, int]:
        """Pixels from one channel to the next, and from one row to the next, of what they read."""
        rows, columns = (-(-size // step) for size, step in zip(self.x_shape[1:], self.steps_there, strict=True))
        top, bottom, left, right = self.padding
        pitch = left + columns + right
        pixels = (top + rows + bottom) * pitch
        return pixels + (self.is_placed and pixels % 2 == 0), pitch

    @property
    def offsets(self) -> np.ndarray:
        """How far behind its first pixel a window reads c, i, j, (C/G fh fw,) int64."""
        return pixel_offsets(self.x_shape[0] // self.groups, self.kernel_size, self.plane, self.dilation)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output reads one pixel, and every pixel belongs to one output."""
        return (self.kernel_size, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0, 0, 0))

    @property
    def transposed(self) -> Correlation:
        """From outputs to pixels, for a pointwise convolution."""
        return replace(self, x_shape=self.z_shape, z_shape=self.x_shape)

    @functools.cached_property
    def band(self) -> int:
        """How many rows the forward pass computes at a time: so many that they, and what they read, stay near."""
        O, _, Q = self.z_shape
        return max(1, NEAR_ROWS // (4 * LANES * O * Q))

    @property
    def _lines(self) -> tuple[Line, Line]:
        (_, H, B), (_, P, Q) = self.x_shape, self.z_shape
        along_rows = Line(H, P, self.kernel_size[0], self.stride[0], self.padding[0], self.dilation[0])
        along_columns = Line(B, Q, self.kernel_size[1], self.stride[1], self.padding[2], self.dilation[1])
        return along_rows, along_columns

    def _tables(self) -> dict[str, np.ndarray]:
        """Return the bounds of the input gradient's loops."""
        along_rows, along_columns = self._lines
        return {
            "input_rows": along_rows.offsets_that_reach(),
            "input_columns": along_columns.offsets_that_reach(),
        }

    def scratch_cuda(self, blocks: int, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return packed weights, room for parts of sums, both only where they are used, and the bounds of all loops."""
        (C, H, B), (O, P, Q), G, (fh, fw) = self.x_shape, self.z_shape, self.groups, self.kernel_size
        O_g, C_g = O // G, C // G
        found, filters, (along_rows, along_columns) = self._tables(), self.filters_cuda(dtype), self._lines
        found |= {"forward_rows": along_rows.offsets_inside(), "forward_columns": along_columns.offsets_inside()}
        found |= {"weight_rows": along_rows.outputs_inside(), "weight_columns": along_columns.outputs_inside()}
        if O_g > 2:  # with fewer filters most of a tile would be surplus
            tile = channel_tile_cuda(O_g, G * blocks * P * Q)
            found["by_output"] = np.zeros((G * -(-O_g // tile), C_g, fh, fw, tile), dtype)
        if C_g > 2 and self.stride == (1, 1):
            tile = channel_tile_cuda(C_g, G * blocks * H * B)
            found["by_input"] = np.zeros((G * -(-C_g // tile), O_g, fh, fw, tile), dtype)
            found["no_bias"] = np.zeros(C, dtype)
        if filters:
            rows = G * -(-O_g // filters) * C_g * fh
            most = max(1, blocks * P // WARPS)
            found["weight_parts"] = np.zeros((max(1, min(BUSY // rows, most)), O, C_g, fh, fw), dtype)
        return found

    def filters_cuda(self, dtype: np.dtype) -> int:
        """Return how many filters a thread of the weight gradient on a GPU takes; 0 where it takes a single weight."""
        most = ROW_SUMS * 4 // np.dtype(dtype).itemsize // self.kernel_size[1]
        O_g = self.z_shape[0] // self.groups
        return 0 if O_g < 3 or most < 4 else 4 if O_g <= 4 or most < 8 else 8

    @functools.cached_property
    def output_tile(self) -> tuple[int, int]:
        """How many filters and columns a tile of the forward pass takes."""
        return best_tile(OUTPUT_TILES, (self.z_shape[0] // self.groups, self.z_shape[2]))

    def input_tile(self, blocks: int) -> tuple[int, int]:
        """Return how many channels and blocks of samples a tile of the input gradient takes."""
        return best_tile(INPUT_TILES, (self.x_shape[0] // self.groups, blocks))

    @functools.cached_property
    def weight_tile(self) -> tuple[int, int]:
        """How many weights of a filter, and filters, a tile of the weight gradient takes."""
        return best_tile(WEIGHT_TILES, (self._weights, self.z_shape[0] // self.groups))

    @property
    def _weights(self) -> int:
        return self.x_shape[0] // self.groups * math.prod(self.kernel_size)

    def _sums(self, dtype: np.dtype) -> np.ndarray:
        """Return room for as many tiles as AT_ONCE holds: (tiles of filters, tiles of weights, *tile, LANES)."""
        shape = (-(-self._weights // self.weight_tile[0]), *self.weight_tile, LANES)
        most = AT_ONCE // (math.prod(shape) * np.dtype(dtype).itemsize)
        filters = self.z_shape[0] // self.groups
        return np.zeros((max(1, min(most, -(-filters // self.weight_tile[1]))), *shape), dtype)

    @functools.cached_property
    def strip(self) -> int:
        """How many rows of the output the weight gradient goes over at a time, so that they stay NEAR."""
        (C, _, _), (_, P, Q), (weights, filters) = self.x_shape, self.z_shape, self.weight_tile
        step = self.stride_there[0]
        channels, pitch = min(C // self.groups, (weights - 2) // math.prod(self.kernel_size) + 2), self.plane[1]
        beside = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - step  # rows of x that the next strip reads again
        most = (NEAR // (4 * LANES) - channels * beside * pitch) // (channels * step * pitch + filters * Q)
        return -(-P // -(-P // max(1, most)))

    @functools.cached_property
    def steps(self) -> tuple[int, int, int, int]:
        """By how much i grows and h falls, and j and q, from one contribution to an input pixel to the next."""
        return (*offset_steps(self.stride[0], self.dilation[0]), *offset_steps(self.stride[1], self.dilation[1]))


def _is_crowded(planes: int, pixels: int) -> bool:
    """Return whether planes push each other out of the nearest cache, which has eight places for each of 64 lines.

    Of planes a multiple of 64 pixels apart, 4 KiB, all have the same line; a multiple of 32 apart, one of two.
    """
    return pixels % 2 == 0 and planes > 8 * (64 // math.gcd(pixels, 64))
