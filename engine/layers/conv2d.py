"""Two-dimensional convolution layer; equations in ``derivations/conv2d.py``.

Ladder: the literal loops of the derivation, then these tiles of TILE channels x LANES samples that stay in registers.
The weights are copied first so that the TILE numbers that one step needs lie side by side: ``by_output`` [tile, c, i,
j, t] for the forward pass, ``by_input`` [tile, o, i, j, t] for the input gradient. The bounds of the loops over the
kernel come from tables, so padding costs nothing, and stride and dilation change index arithmetic alone; where all of
the kernel is inside, the three loops of the forward pass become one over a table of offsets, up to a quarter faster.
The last tile of a group is filled up with zero weights whose results are stored first and then overwritten by the last
channel.
"""

from __future__ import annotations

import functools

import numpy as np

from ...derivations import conv2d as derivation
from ...derivations.notation import output_size
from .. import initializers
from ..backend import LANES, TILE, index, kernel, registers
from ..checks import ConfigurationError, ShapeError, require_positive_integers
from .layer import Layer, Shape, Share, require_image
from .window import Line, offset_steps, pair_of_integers, parse_padding, pixel_offsets

TILE_SIZE = TILE * LANES


@kernel
def pack_weights(W, groups, by_output, by_input):
    """Copy W (O, C/G, fh, fw) into both packed orders; groups follow one another in the first axis."""
    O, C, fh, fw = W.shape
    O_g = O // groups
    output_tiles, input_tiles = by_output.shape[0] // groups, by_input.shape[0] // groups
    for o in range(O):
        g = o // O_g
        o_in_group = o - g * O_g
        for c in range(C):
            for i in range(fh):
                for j in range(fw):
                    w = W[o, c, i, j]
                    by_output[g * output_tiles + o_in_group // TILE, c, i, j, o_in_group % TILE] = w
                    by_input[g * input_tiles + c // TILE, o_in_group, i, j, c % TILE] = w


@kernel
def conv2d_forward(x, pixels, by_output, weights, b, z, rows, columns, offsets, dilation, groups):
    """z[o,h,q] = b[o] + Σ W[o,c,i,j] x[c, s h + d i - p, s q + d j - p] for every sample.

    rows (P, 3) holds for each h the row s h - p and the range of i that stays inside the image; columns likewise.
    offsets (C/G fh fw,) says how many pixels behind its first one a window reads c, i, j: where all of the window is
    inside, the three loops are one, over pixels (blocks, C H W, LANES) and weights (tiles, C/G fh fw, TILE), which are
    x and by_output.
    """
    blocks, _, H, B, _ = x.shape
    all_tiles, C_g, fh, fw, _ = by_output.shape
    _, O, P, Q, _ = z.shape
    (dh, dw), tiles, O_g = dilation, all_tiles // groups, O // groups
    acc = registers((TILE, LANES), TILE_SIZE, x)
    for n in range(blocks):
        pixels_n = pixels[n]
        for tile in range(all_tiles):
            g = tile // tiles
            o = g * O_g + (tile - g * tiles) * TILE
            last, weights_o = (g + 1) * O_g - 1, weights[tile]
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[t, v] = b[min(o + t, last)]
                    if i_to - i_from == fh and j_to - j_from == fw:
                        start = (g * C_g * H + row) * B + column
                        for k in range(offsets.size):
                            x_k, w_k = pixels_n[index(start + offsets[k])], weights_o[index(k)]
                            for v in range(LANES):
                                for t in range(TILE):
                                    acc[t, v] += w_k[t] * x_k[v]  # (conv2d.1)
                    else:
                        for c in range(C_g):
                            for i in range(i_from, i_to):
                                x_row = x[n, index(g * C_g + c), index(row + dh * i)]
                                w_row = by_output[tile, c, i]
                                for j in range(j_from, j_to):
                                    x_j, w_j = x_row[index(column + dw * j)], w_row[index(j)]
                                    for v in range(LANES):
                                        for t in range(TILE):
                                            acc[t, v] += w_j[t] * x_j[v]  # (conv2d.1)
                    for t in range(TILE - 1, -1, -1):
                        z_t = z[n, index(min(o + t, last)), h, q]
                        for v in range(LANES):
                            z_t[v] = acc[t, v]


@kernel
def conv2d_input_gradient(by_input, dL_dz, dL_dx, rows, columns, steps, groups):
    """dL/dx[c,a,b] = Σ W[o,c,i,j] dL/dz[o, (a+p-di)/s, (b+p-dj)/s] where both quotients are whole and inside.

    rows (H, 3) holds for each a the first i and the end of those that contribute, and the h of the first; from one
    to the next i grows and h falls by fixed steps. columns likewise.
    """
    blocks, C, H, B, _ = dL_dx.shape
    all_tiles, O_g, _, _, _ = by_input.shape
    (i_step, h_step, j_step, q_step), tiles, C_g = steps, all_tiles // groups, C // groups
    acc = registers((TILE, LANES), TILE_SIZE, dL_dz)
    for n in range(blocks):
        for tile in range(all_tiles):
            g = tile // tiles
            c = g * C_g + (tile - g * tiles) * TILE
            last = (g + 1) * C_g - 1
            for a in range(H):
                i_from, i_to, h_from = rows[a, 0], rows[a, 1], rows[a, 2]
                for b in range(B):
                    j_from, j_to, q_from = columns[b, 0], columns[b, 1], columns[b, 2]
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[t, v] = 0
                    for o in range(O_g):
                        h = h_from
                        for i in range(i_from, i_to, i_step):
                            dL_dz_row, w_row = dL_dz[n, index(g * O_g + o), index(h)], by_input[tile, o, i]
                            h -= h_step
                            q = q_from
                            for j in range(j_from, j_to, j_step):
                                dL_dz_q, w_j = dL_dz_row[index(q)], w_row[index(j)]
                                q -= q_step
                                for v in range(LANES):
                                    for t in range(TILE):
                                        acc[t, v] += w_j[t] * dL_dz_q[v]  # (conv2d.7)
                    for t in range(TILE - 1, -1, -1):
                        dL_dx_t = dL_dx[n, index(min(c + t, last)), a, b]
                        for v in range(LANES):
                            dL_dx_t[v] = acc[t, v]


SUMS = 6 if TILE == 4 else 24  # products of channels and filters that a tile adds up: 12 of 16 registers, 24 of 32


def weight_tile(channels: int, filters: int) -> tuple[int, int]:
    """Return how many channels and filters of a group a tile of the weight gradient takes, so that few are surplus."""
    shapes = [(count, SUMS // count) for count in (3, 2, 1)]  # of equal ones the first: it reads the fewest numbers
    return min(shapes, key=lambda shape: -(-channels // shape[0]) * -(-filters // shape[1]))


@functools.cache
def weight_gradient(CHANNELS: int, FILTERS: int):
    """Return the kernel for tiles of so many input channels and filters."""
    WEIGHT_TILE = SUMS * LANES

    @kernel
    def conv2d_weight_gradient(x, dL_dz, dL_dW, rows, columns, stride, groups):
        """dL/dW[o,c,i,j] = Σ over samples and positions of dL/dz[o,h,q] x[c, s h + d i - p, s q + d j - p].

        rows (fh, 3) holds for each i the row d i - p and the range of h that stays inside the image; columns likewise.
        """
        blocks = x.shape[0]
        O, C_g, fh, fw = dL_dW.shape
        (sh, sw), O_g = stride, O // groups
        acc = registers((CHANNELS, FILTERS, LANES), WEIGHT_TILE, x)
        for g in range(groups):
            last = (g + 1) * O_g - 1
            for o in range(g * O_g, last + 1, FILTERS):
                for c in range(0, C_g, CHANNELS):
                    for i in range(fh):
                        row, h_from, h_to = rows[i, 0], rows[i, 1], rows[i, 2]
                        for j in range(fw):
                            column, q_from, q_to = columns[j, 0], columns[j, 1], columns[j, 2]
                            for v in range(LANES):
                                for r in range(CHANNELS):
                                    for t in range(FILTERS):
                                        acc[r, t, v] = 0
                            for n in range(blocks):
                                x_n, dL_dz_n = x[n], dL_dz[n]
                                for h in range(h_from, h_to):
                                    a = index(sh * h + row)
                                    for q in range(q_from, q_to):
                                        b = index(sw * q + column)
                                        for v in range(LANES):
                                            for r in range(CHANNELS):
                                                for t in range(FILTERS):
                                                    acc[r, t, v] += (
                                                        dL_dz_n[index(min(o + t, last)), index(h), index(q), v]
                                                        * x_n[index(g * C_g + min(c + r, C_g - 1)), a, b, v]
                                                    )  # (conv2d.4)
                            for r in range(CHANNELS - 1, -1, -1):
                                for t in range(FILTERS - 1, -1, -1):
                                    total = acc[r, t, 0]
                                    for v in range(1, LANES):
                                        total += acc[r, t, v]
                                    dL_dW[min(o + t, last), min(c + r, C_g - 1), i, j] = total

    return conv2d_weight_gradient


@kernel
def conv2d_bias_gradient(dL_dz, dL_db):
    """dL/db[o] = Σ over samples and positions of dL/dz[o,h,q]; dL_dz (blocks, O, P Q LANES)."""
    blocks, O, size = dL_dz.shape
    for o in range(O):
        total = dL_dz.dtype.type(0)
        for n in range(blocks):
            plane = dL_dz[n, o]
            for k in range(size):
                total += plane[k]  # (conv2d.5)
        dL_db[o] = total


def as_pixels(x: np.ndarray) -> np.ndarray:
    """Return the same memory as (blocks, C H W, LANES)."""
    return x.reshape(len(x), -1, LANES)


def as_tiles(packed: np.ndarray) -> np.ndarray:
    """Return the same packed weights as (tiles, C fh fw, TILE)."""
    return packed.reshape(len(packed), -1, TILE)


def steps_of(layer) -> tuple[int, int, int, int]:
    """Return by how much i grows and h falls, and j and q, from one contribution to an input pixel to the next."""
    return *offset_steps(layer.stride[0], layer.dilation[0]), *offset_steps(layer.stride[1], layer.dilation[1])


class Conv2D(Layer):
    """Convolution (cross-correlation) of images with learned kernels.

    Parameters
    ----------
    filters : int
        Number of output channels O.
    kernel_size : int or (rows, columns)
    stride : int or (rows, columns)
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
        Zeros around the image. "same" gives ceil(H / stride) rows; where the number of zeros is odd, the extra one
        is below or to the right, as in Keras.
    dilation : int or (rows, columns)
        Distance between the pixels that a kernel reads.
    groups : int
        The channels and filters are cut into so many groups that do not see each other.
    initializer : callable, optional
        How W starts, from ``handgrad.engine.initializers``; the biases start at 0.
    name : str, optional

    Notes
    -----
    Input (N, C, H, W), output (N, O, P, Q) with P = floor((H + 2p - d (f - 1) - 1) / s) + 1; parameters ``W``
    (O, C / groups, rows, columns) and ``b`` (O,), as in PyTorch.

    Examples
    --------
    >>> from handgrad.engine import Conv2D, Input
    >>> Conv2D(6, 5, padding="same")(Input((1, 28, 28))).shape
    (6, 28, 28)
    """

    kind = "conv"
    derivation = derivation

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        initializer=initializers.he,
        name: str | None = None,
    ):
        super().__init__(name)
        require_positive_integers(str(self), filters=filters, groups=groups)
        self.filters, self.groups, self.initializer = filters, groups, initializer
        self.kernel_size = pair_of_integers(self, "kernel_size", kernel_size)
        self.stride = pair_of_integers(self, "stride", stride)
        self.dilation = pair_of_integers(self, "dilation", dilation)
        self.padding = padding
        self._sides = parse_padding(self, padding, (1, 1), (1, 1), (1, 1), (1, 1))  # checked here, used when built
        if filters % groups:
            raise ConfigurationError(
                f"{self}: filters", got=f"{filters} in {groups} groups", expected="a multiple of groups"
            )

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (O, P, Q)."""
        C, H, B = require_image(self, x_shape)
        if C % self.groups:
            raise ShapeError(str(self), got=f"{C} channels", expected=f"a multiple of its {self.groups} groups")
        sides = parse_padding(self, self.padding, (H, B), self.kernel_size, self.stride, self.dilation)
        (fh, fw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        P = output_size(H, fh, sh, sides[0], sides[1], dh)  # (conv2d.2)
        Q = output_size(B, fw, sw, sides[2], sides[3], dw)  # (conv2d.2)
        if P < 1 or Q < 1:
            raise ShapeError(
                str(self),
                got=f"an image of {H} x {B} with padding {sides}",
                expected=f"at least {dh * (fh - 1) + 1} x {dw * (fw - 1) + 1} for its kernel of {fh} x {fw}",
                remedy="use a smaller kernel or dilation, or more padding",
            )
        return self.filters, P, Q

    def settle(self, x_shape: Shape) -> None:
        """Fix the padding of every side."""
        self._sides = parse_padding(self, self.padding, x_shape[1:], self.kernel_size, self.stride, self.dilation)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W and b."""
        return {"W": (self.filters, x_shape[0] // self.groups, *self.kernel_size), "b": (self.filters,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W; one output reads C/G fh fw values, one input reaches O/G fh fw."""
        O, C_g, fh, fw = parameters["W"].shape
        parameters["W"][...] = self.initializer(rng, (O, C_g, fh, fw), C_g * fh * fw, O // self.groups * fh * fw)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the packed weights, whose surplus lanes stay 0, and the bounds of the kernels' loops."""
        ((C, H, B),), G, (O, P, Q) = x_shapes, self.groups, self.output_shape(*x_shapes)
        O_g, C_g = O // G, C // G
        along_rows = Line(H, P, self.kernel_size[0], self.stride[0], self._sides[0], self.dilation[0])
        along_columns = Line(B, Q, self.kernel_size[1], self.stride[1], self._sides[2], self.dilation[1])
        return {
            "by_output": np.zeros((G * -(-O_g // TILE), C_g, *self.kernel_size, TILE), dtype),
            "by_input": np.zeros((G * -(-C_g // TILE), O_g, *self.kernel_size, TILE), dtype),
            "forward_rows": along_rows.offsets_inside(),
            "forward_columns": along_columns.offsets_inside(),
            "input_rows": along_rows.offsets_that_reach(),
            "input_columns": along_columns.offsets_that_reach(),
            "weight_rows": along_rows.outputs_inside(),
            "weight_columns": along_columns.outputs_inside(),
            "forward_offsets": pixel_offsets(C_g, self.kernel_size, (H, B), self.dilation),
        }

    def forward(self, share: Share) -> None:
        """Compute z, after packing the weights."""
        s, W, b = share.scratch, share.parameters["W"], share.parameters["b"]
        pack_weights(W, self.groups, s["by_output"], s["by_input"])
        x, w = (share.x[0], as_pixels(share.x[0])), (s["by_output"], as_tiles(s["by_output"]))
        bounds = s["forward_rows"], s["forward_columns"], s["forward_offsets"]
        conv2d_forward(*x, *w, b, share.z, *bounds, self.dilation, self.groups)

    def backward(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        rows, columns = scratch["weight_rows"], scratch["weight_columns"]
        conv2d_weight_gradient = weight_gradient(*weight_tile(x.shape[1] // self.groups, self.filters // self.groups))
        conv2d_weight_gradient(x, dL_dz, share.gradients["W"], rows, columns, self.stride, self.groups)
        conv2d_bias_gradient(dL_dz.reshape(*dL_dz.shape[:2], -1), share.gradients["b"])
        if dL_dx is not None:
            rows, columns = scratch["input_rows"], scratch["input_columns"]
            conv2d_input_gradient(scratch["by_input"], dL_dz, dL_dx, rows, columns, steps_of(self), self.groups)

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return O P Q C/G fh fw, the border counted as if it were inside."""
        O, P, Q = self.output_shape(x_shape)
        return O * P * Q * x_shape[0] // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return stride, padding, dilation and groups."""
        return {
            "stride": self.stride,
            "padding": self._sides,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def settings(self) -> dict[str, object]:
        """Return the hyper-parameters, the padding as (top, bottom, left, right)."""
        return {"filters": self.filters, "kernel_size": self.kernel_size, **self.literal_options()}
