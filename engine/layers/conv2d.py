"""Two-dimensional convolution layer; equations in ``derivations/conv2d.py``.

Ladder: the literal loops of the derivation, then tiles of sums x LANES samples that stay in registers. A number that is
loaded should serve several sums, so a tile has two sides: some filters and one or two columns in the forward pass, some
channels and one or two blocks of samples in the input gradient, some weights of one filter and some filters in the
weight gradient; which shapes there are, and which leaves few surplus sums (LeNet-5 has 6 filters), says ``tiles.py``.
The weights are copied first so that the numbers that one step needs lie side by side: ``by_output`` [tile, c, i, j, t]
for the forward pass, ``by_input`` [tile, i, j, o, t] for the input gradient. Where there is padding, forward pass and
weight gradient read a copy with a border of zeros, so that the three loops over the kernel are one over a table of
offsets; the products with these zeros are computed as well. The input gradient takes the bounds of its two loops over
the kernel from tables, because in a border as wide as it needs most products would be zeros, and has the sum over the
filters inside, whose length never changes. Stride and dilation change index arithmetic alone. What of a tile hangs over
the end of a group, a row or a mini-batch is computed from numbers that belong elsewhere, and is stored before what
belongs there, or nowhere.

All filters read the rows of a window before the next ones are touched. The weight gradient goes over strips of rows
that stay in the nearest cache while all weights take their sums: reading whole planes, it waited for memory (46 GFLOP/s
against 70). An activation that follows is applied to a band of rows while it is near.

On two rungs further up the work itself is done otherwise: kernels of 3 x 3 with many channels take a quarter of the
products in ``winograd.py``, and a single sample, beside which 15 of 16 lanes would be empty, goes without lanes in
``conv2d_one.py``.

Ladder on a GPU: one thread for each output, or each block of threads for a weight, straight from the equations; then a
tile of filters and columns for each thread, so that what it reads is used several times, with packed weights that are
read four at a time. The weight gradient's threads have the sums of some filters and one row of the kernel.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from ...derivations import conv2d as derivation
from ...derivations.notation import output_size
from .. import initializers
from ..arrays import clear
from ..backend import LANES, TILE, copy_lanes, index, int32, kernel, registers, uint32
from ..checks import ConfigurationError, ShapeError, require_positive_integers
from ..cuda import REDUCERS, WARP, add_up, cuda, cuda_kernel, flat, load4, maps, position, sum_of_parts_cuda
from ..scalar import identity
from .conv2d_one import correlate_one, scratch_one
from .correlation import WARPS, Correlation, parts_for
from .elementwise import activate, activate_cuda
from .layer import Layer, Shape, Share, require_image, some_outputs
from .window import pair_of_integers, parse_padding
from .winograd import MIRRORED, PASSING, Tiling


@kernel
def pack_weights(W, groups, by_output, by_input):
    """Copy W (O, C/G, fh, fw) into both packed orders; groups follow one another in the first axis."""
    O, C, fh, fw = W.shape
    O_g, output_tile, input_tile = O // groups, by_output.shape[4], by_input.shape[4]
    output_tiles, input_tiles = by_output.shape[0] // groups, by_input.shape[0] // groups
    for o in range(O):
        g = o // O_g
        o_in_group = o - g * O_g
        for c in range(C):
            for i in range(fh):
                for j in range(fw):
                    w = W[o, c, i, j]
                    by_output[g * output_tiles + o_in_group // output_tile, c, i, j, o_in_group % output_tile] = w
                    by_input[g * input_tiles + c // input_tile, i, j, o_in_group, c % input_tile] = w


@kernel
def place_image(x, image, pitch, first):
    """Copy x (C, H, W, LANES) to image (C, numbers of a plane, LANES): rows are pitch apart, pixel (0, 0) is first."""
    C, H, B, _ = x.shape
    for c in range(C):
        for a in range(H):
            for b in range(B):
                copy_lanes(image[index(c), index(first + a * pitch + b)], x[index(c), index(a), index(b)])


@functools.cache
def forward_kernel(FILTERS: int, COLUMNS: int):
    """Return the kernel for tiles of so many filters and one or two columns."""
    SIZE = FILTERS * COLUMNS * LANES

    @kernel
    def conv2d_forward(image, weights, b, z, rows, offsets, group, pitch, stride, groups):
        """z[o,h,q] = b[o] + Σ W[o,c,i,j] x[c, s h + d i - p, s q + d j - p] for some rows h of a block of samples.

        image (pixels, LANES) is x with its border, a group is so many pixels and a row pitch. offsets (C/G fh fw,) says
        how far behind its first pixel a window reads c, i, j. weights (tiles, C/G fh fw, FILTERS), z (O, P, Q, LANES).
        """
        O, _, Q, _ = z.shape
        (sh, sw), tiles, O_g = stride, len(weights) // groups, O // groups
        acc = registers((COLUMNS, FILTERS, LANES), SIZE, image)
        for h in range(rows[0], rows[1]):
            for tile in range(len(weights)):
                g = tile // tiles
                o = g * O_g + (tile - g * tiles) * FILTERS
                last, w = (g + 1) * O_g - 1, weights[tile]
                for first in range(0, Q, COLUMNS):
                    q = max(0, min(first, Q - COLUMNS))
                    q_next = min(q + COLUMNS, Q) - 1
                    for v in range(LANES):
                        for m in range(COLUMNS):
                            for t in range(FILTERS):
                                acc[m, t, v] = b[min(o + t, last)]
                    start, to_next = g * group + sh * h * pitch + sw * q, index(sw * (q_next - q))
                    for k in range(offsets.size):
                        at, w_k = index(start + offsets[k]), w[index(k)]
                        x_k, x_next = image[at], image[at + to_next]
                        for v in range(LANES):
                            for t in range(FILTERS):
                                acc[0, t, v] += w_k[t] * x_k[v]  # (conv2d.1)
                            if COLUMNS == 2:
                                for t in range(FILTERS):
                                    acc[1, t, v] += w_k[t] * x_next[v]
                    for t in range(FILTERS - 1, -1, -1):
                        row = z[index(min(o + t, last)), index(h)]
                        if COLUMNS == 2:
                            copy_lanes(row[index(q_next)], acc[COLUMNS - 1, t])
                        copy_lanes(row[index(q)], acc[0, t])

    return conv2d_forward


@functools.cache
def input_kernel(CHANNELS: int, BLOCKS: int):
    """Return the kernel for tiles of so many channels and one or two blocks of samples."""
    SIZE = CHANNELS * BLOCKS * LANES

    @kernel
    def conv2d_input_gradient(by_input, dL_dz, dL_dz_next, dL_dx, dL_dx_next, rows, columns, steps, pitch, groups):
        """dL/dx[c,a,b] = Σ W[o,c,i,j] dL/dz[o, (a+p-di)/s, (b+p-dj)/s] where both quotients are whole and inside.

        dL_dz (O, pixels, LANES), dL_dx (C, H, W, LANES); a row of dL_dz is pitch pixels long. rows (H, 3) holds for
        each a the first i and the end of those that contribute, and the h of the first; from one to the next i grows
        and h falls by fixed steps. columns likewise.
        """
        C, H, B, _ = dL_dx.shape
        all_tiles, _, _, O_g, _ = by_input.shape
        (i_step, h_step, j_step, q_step), tiles, C_g = steps, all_tiles // groups, C // groups
        acc = registers((BLOCKS, CHANNELS, LANES), SIZE, dL_dz)
        for tile in range(all_tiles):
            g = tile // tiles
            c, first = g * C_g + (tile - g * tiles) * CHANNELS, g * O_g
            last = (g + 1) * C_g - 1
            for a in range(H):
                i_from, i_to, h_from = rows[a, 0], rows[a, 1], rows[a, 2]
                for b in range(B):
                    j_from, j_to, q_from = columns[b, 0], columns[b, 1], columns[b, 2]
                    for v in range(LANES):
                        for m in range(BLOCKS):
                            for t in range(CHANNELS):
                                acc[m, t, v] = 0
                    h = h_from
                    for i in range(i_from, i_to, i_step):
                        q = q_from
                        for j in range(j_from, j_to, j_step):
                            w, at = by_input[tile, i, j], index(h * pitch + q)
                            for o in range(O_g):
                                w_o, dL_dz_o = w[index(o)], dL_dz[index(first + o), at]
                                dL_dz_next_o = dL_dz_next[index(first + o), at]
                                for v in range(LANES):
                                    for t in range(CHANNELS):
                                        acc[0, t, v] += w_o[t] * dL_dz_o[v]  # (conv2d.7)
                                    if BLOCKS == 2:
                                        for t in range(CHANNELS):
                                            acc[1, t, v] += w_o[t] * dL_dz_next_o[v]
                            q -= q_step
                        h -= h_step
                    for t in range(CHANNELS - 1, -1, -1):
                        channel = index(min(c + t, last))
                        if BLOCKS == 2:
                            copy_lanes(dL_dx_next[channel, index(a), index(b)], acc[BLOCKS - 1, t])
                        copy_lanes(dL_dx[channel, index(a), index(b)], acc[0, t])

    return conv2d_input_gradient


@functools.cache
def weight_kernel(WEIGHTS: int, FILTERS: int):
    """Return the kernel for tiles of so many weights of so many filters."""
    SIZE = WEIGHTS * FILTERS * LANES

    @kernel
    def conv2d_weight_gradient(image, dL_dz, sums, filters, offsets, pitch, stride, strip):
        """Add dL/dW[o,c,i,j] = Σ over positions of dL/dz[o,h,q] x[c, s h + d i - p, s q + d j - p], lane by lane.

        image and offsets are those of the forward pass, from a group's first pixel on; dL_dz (O, P, Q, LANES). filters
        says which ones, from and to; sums (tiles of filters, tiles of weights, WEIGHTS, FILTERS, LANES). The sums over
        a strip of rows are taken for all c, i and j before the next strip, which then stays in the cache.
        """
        _, P, Q, _ = dL_dz.shape
        (sh, sw), last_o, last_k = stride, filters[1] - 1, offsets.size - 1
        acc = registers((WEIGHTS, FILTERS, LANES), SIZE, image)
        for top in range(0, P, strip):
            for o in range(filters[0], filters[1], FILTERS):
                for k in range(0, offsets.size, WEIGHTS):
                    sums_k = sums[(o - filters[0]) // FILTERS, k // WEIGHTS]
                    for r in range(WEIGHTS):
                        for t in range(FILTERS):
                            copy_lanes(acc[r, t], sums_k[r, t])
                    for h in range(top, min(top + strip, P)):
                        for q in range(Q):
                            start = sh * h * pitch + sw * q
                            for v in range(LANES):
                                for r in range(WEIGHTS):
                                    for t in range(FILTERS):
                                        acc[r, t, v] += (
                                            dL_dz[index(min(o + t, last_o)), index(h), index(q), v]
                                            * image[index(start + offsets[min(k + r, last_k)]), v]
                                        )  # (conv2d.4)
                    for r in range(WEIGHTS):
                        for t in range(FILTERS):
                            copy_lanes(sums_k[r, t], acc[r, t])

    return conv2d_weight_gradient


@kernel
def add_lanes(sums, dL_dW):
    """Add the sums over the lanes to dL/dW; dL_dW (filters, C/G, fh, fw), sums (..., ..., WEIGHTS, FILTERS, LANES)."""
    filters, channels, fh, fw = dL_dW.shape
    _, _, WEIGHTS, FILTERS, _ = sums.shape
    for o in range(filters):
        for c in range(channels):
            for i in range(fh):
                for j in range(fw):
                    k = (c * fh + i) * fw + j
                    lanes = sums[o // FILTERS, k // WEIGHTS, k % WEIGHTS, o % FILTERS]
                    total = lanes[0]
                    for v in range(1, LANES):
                        total += lanes[v]
                    dL_dW[o, c, i, j] += total


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


@functools.cache
def activated_bias_gradient(gradient):
    """Return the kernel that goes back through an activation on the way."""

    @kernel(short_loops=True)
    def conv2d_activated_bias_gradient(a, upstream, dL_db):
        """Replace dL/da by dL/dz, and dL/db[o] = Σ over samples and positions of it; both (blocks, O, P Q, LANES)."""
        blocks, O, size, _ = a.shape
        zero, one = a.dtype.type(0), a.dtype.type(1)
        dL_dz, sums = registers((LANES,), LANES, a), registers((LANES,), LANES, a)
        for o in range(O):
            for v in range(LANES):
                sums[v] = zero
            for n in range(blocks):
                for k in range(size):
                    a_k, upstream_k = a[n, o, k], upstream[n, o, k]
                    for v in range(LANES):
                        dL_dz[v] = gradient(a_k[v], upstream_k[v], zero, one)
                    for v in range(LANES):
                        sums[v] += dL_dz[v]  # (conv2d.5)
                    for v in range(LANES):
                        upstream_k[v] = dL_dz[v]
            total = sums[0]
            for v in range(1, LANES):
                total += sums[v]
            dL_db[o] = total

    return conv2d_activated_bias_gradient


@cuda_kernel
def conv2d_forward_cuda(x, W, b, z, rows, columns, dilation, groups):
    """z[o,h,q] = b[o] + Σ W[o,c,i,j] x[c, s h + d i - p, s q + d j - p], one thread for each.

    rows and columns as in ``Line.offsets_inside``.
    """
    (_, O, _, Q, _), C_g, (dh, dw) = z.shape, W.shape[1], dilation
    n, o, h, q, v = position(O)
    if q < Q:
        first = o // (O // groups) * C_g
        row, column = rows[h, 0], columns[q, 0]
        total = b[o]
        for c in range(C_g):
            for i in range(rows[h, 1], rows[h, 2]):
                for j in range(columns[q, 1], columns[q, 2]):
                    total += W[o, c, i, j] * x[n, first + c, row + dh * i, column + dw * j, v]  # (conv2d.1)
        z[n, o, h, q, v] = total


@cuda_kernel
def conv2d_input_gradient_cuda(W, dL_dz, dL_dx, rows, columns, steps, groups):
    """dL/dx[c,a,b] = Σ W[o,c,i,j] dL/dz[o, (a+p-di)/s, (b+p-dj)/s], one thread for each; tables as on the CPU."""
    (_, C, _, B, _), (O, C_g, _, _) = dL_dx.shape, W.shape
    i_step, h_step, j_step, q_step = steps
    n, c, a, b, v = position(C)
    if b < B:
        g, O_g = c // C_g, O // groups
        total = dL_dz.dtype.type(0)
        for o in range(g * O_g, (g + 1) * O_g):
            h = rows[a, 2]
            for i in range(rows[a, 0], rows[a, 1], i_step):
                q = columns[b, 2]
                for j in range(columns[b, 0], columns[b, 1], j_step):
                    total += W[o, c - g * C_g, i, j] * dL_dz[n, o, h, q, v]  # (conv2d.7)
                    q -= q_step
                h -= h_step
        dL_dx[n, c, a, b, v] = total


@cuda_kernel
def conv2d_weight_gradient_cuda(x, dL_dz, dL_dW, rows, columns, stride, groups):
    """dL/dW[o,c,i,j] = Σ of dL/dz[o,h,q] x[c, s h + d i - p, s q + d j - p], one block of threads for each.

    rows and columns as in ``Line.outputs_inside``.
    """
    partial = cuda.shared.array(REDUCERS, dL_dW.dtype)
    O, C_g, _, _ = dL_dW.shape
    o, c = cuda.blockIdx.x // C_g, cuda.blockIdx.x % C_g
    i, j = cuda.blockIdx.y, cuda.blockIdx.z
    channel = o // (O // groups) * C_g + c
    thread = cuda.threadIdx.x
    row, column, q_to = rows[i, 0], columns[j, 0], columns[j, 2]
    v, beside = thread % WARP, REDUCERS // WARP
    total = dL_dW.dtype.type(0)
    for n in range(x.shape[0]):
        for h in range(rows[i, 1], rows[i, 2]):
            for q in range(columns[j, 1] + thread // WARP, q_to, beside):
                total += (
                    dL_dz[n, o, h, q, v] * x[n, channel, stride[0] * h + row, stride[1] * q + column, v]
                )  # (conv2d.4)
    partial[thread] = total
    add_up(partial, thread, REDUCERS)
    if thread == 0:
        dL_dW[o, c, i, j] = partial[0]


@functools.cache
def bias_kernel(gradient):
    """Return the kernel that adds up dL/dz and, where an activation follows, first goes back through it."""
    IS_ACTIVATED = gradient is not None

    @cuda_kernel
    def conv2d_bias_gradient_cuda(a, dL_dz, parts):
        """Fill parts[m, o] with a part of dL/db[o] = Σ over samples and positions of dL/dz.

        a and dL_dz (blocks, O, P Q WARP); dL_dz arrives as dL/da where an activation follows, and is replaced.
        """
        partial = cuda.shared.array(REDUCERS, dL_dz.dtype)
        o, m, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        total = zero
        for n in range(dL_dz.shape[0]):
            for k in range(m * REDUCERS + thread, dL_dz.shape[2], parts.shape[0] * REDUCERS):
                dL_dz_k = dL_dz[n, o, k]
                if IS_ACTIVATED:
                    dL_dz_k = gradient(a[n, o, k], dL_dz_k, zero, one)
                    dL_dz[n, o, k] = dL_dz_k
                total += dL_dz_k  # (conv2d.5)
        partial[thread] = total
        add_up(partial, thread, REDUCERS)
        if thread == 0:
            parts[m, o] = partial[0]

    return conv2d_bias_gradient_cuda


@cuda_kernel
def pack_weights_cuda(W, packed, groups, is_by_input):
    """Copy W to packed [tile, c, i, j, t], one thread for each number: by output, or with inputs and outputs exchanged.

    What lies behind the last filter of a group is set to 0.
    """
    k = cuda.grid(1)
    if k < packed.size:
        tiles, C_g, fh, fw, tile = packed.shape
        place = k // tile
        j, i = place % fw, place // fw % fh
        c, at = place // (fw * fh) % C_g, place // (fw * fh * C_g)
        g = at // (tiles // groups)
        o = (at - g * (tiles // groups)) * tile + k % tile  # in its group
        w = W.dtype.type(0)
        if is_by_input:
            if o < W.shape[1]:
                w = W[g * C_g + c, o, i, j]
        elif o < W.shape[0] // groups:
            w = W[g * (W.shape[0] // groups) + o, c, i, j]
        packed[at, c, i, j, k % tile] = w


@functools.cache
def tile_kernel(CHANNELS: int, COLUMNS: int, activation):
    """Return the kernel whose threads have so many channels, 4 or 8, of so many neighbouring columns."""

    @cuda_kernel(threads=256)
    def conv2d_tile_cuda(x, packed, flat_packed, b, z, x_shape, z_shape, stride, offset, step, groups):
        """z[o,h,q] = activation(b[o] + Σ packed[c,i,j,o] x[c, stride h + offset + step i, stride q + offset + step j]).

        The forward pass has offset -p and step d. The input gradient, with stride 1, is the same sum over dL/dz with
        the weights packed by input, offset p and step -d. x and z are flat, flat_packed is packed in one dimension.
        """
        (C, H, B), (O, P, Q), (all_tiles, C_g, fh, fw, _) = x_shape, z_shape, packed.shape
        n, tile, h, group_of_columns, v = position(all_tiles)
        q = group_of_columns * COLUMNS
        if q < Q:
            tiles, O_g = all_tiles // groups, O // groups
            g = tile // tiles
            o, end = g * O_g + (tile - g * tiles) * CHANNELS, (g + 1) * O_g
            acc, w = cuda.local.array((COLUMNS, CHANNELS), z.dtype), cuda.local.array(CHANNELS, z.dtype)
            zero, one = z.dtype.type(0), z.dtype.type(1)
            for t in range(CHANNELS):
                b_t = b[min(o + t, end - 1)]
                for k in range(COLUMNS):
                    acc[k, t] = b_t
            column = int32(stride[1] * q + offset[1])
            for c in range(C_g):
                for i in range(fh):
                    a = stride[0] * h + offset[0] + step[0] * i
                    if a >= 0 and a < H:
                        at = uint32(((tile * C_g + c) * fh + i) * fw * CHANNELS)
                        row = uint32((n * C + g * C_g + c) * H + a) * uint32(B * WARP) + uint32(v)
                        for j in range(fw):
                            w[0], w[1], w[2], w[3] = load4(flat_packed, at)
                            if CHANNELS == 8:
                                w[4], w[5], w[6], w[7] = load4(flat_packed, at + uint32(4))
                            at += uint32(CHANNELS)
                            for k in range(COLUMNS):
                                pixel = column + int32(stride[1] * k + step[1] * j)
                                x_k = zero
                                if pixel >= 0 and pixel < B:
                                    x_k = x[row + uint32(pixel) * uint32(WARP)]
                                for t in range(CHANNELS):
                                    acc[k, t] += w[t] * x_k  # (conv2d.1) (conv2d.7)
            first = uint32((n * O + o) * P + h) * uint32(Q * WARP) + uint32(q * WARP + v)
            for t in range(CHANNELS):
                if o + t < end:
                    for k in range(COLUMNS):
                        if q + k < Q:
                            z[first + uint32(k * WARP)] = activation(acc[k, t], zero, one)
                first += uint32(P * Q * WARP)

    return conv2d_tile_cuda


@functools.cache
def row_kernel(FILTERS: int, WIDTH: int):
    """Return the kernel whose threads have the weights of so many filters and one row, of WIDTH, of the kernel."""
    COUNT, PITCH = FILTERS * WIDTH, WARP * WARPS + 1

    @cuda_kernel(threads=WARP * WARPS)
    def conv2d_weight_rows_cuda(x, dL_dz, parts, x_shape, z_shape, rows, stride, column, dilation, groups):
        """Fill parts[m, o, c, i, j] with a part of dL/dW[o,c,i,j]; column is -p, x and dL_dz are flat.

        rows as in ``Line.outputs_inside``. Every warp goes along some rows of dL/dz with all its samples, which are
        added up at the end.
        """
        sums = cuda.shared.array((COUNT, PITCH), x.dtype)
        acc, dL_dz_q = cuda.local.array((FILTERS, WIDTH), x.dtype), cuda.local.array(FILTERS, x.dtype)
        (C, H, B), (O, P, Q), (count, _, C_g, fh, _) = x_shape, z_shape, parts.shape
        blocks, plane = dL_dz.size // (O * P * Q * WARP), uint32(P * Q * WARP)
        tiles, O_g, zero = (O // groups + FILTERS - 1) // FILTERS, O // groups, x.dtype.type(0)
        i, c = cuda.blockIdx.x % fh, cuda.blockIdx.x // fh % C_g
        tile = cuda.blockIdx.x // (fh * C_g)
        g = tile // tiles
        o, end = g * O_g + (tile - g * tiles) * FILTERS, (g + 1) * O_g
        m, v, warp = cuda.blockIdx.y, cuda.threadIdx.x, cuda.threadIdx.y
        for f in range(FILTERS):
            for j in range(WIDTH):
                acc[f, j] = zero
        height, last = rows[i, 2] - rows[i, 1], uint32(end - 1 - o)
        for k in range(m * WARPS + warp, blocks * height, count * WARPS):
            n, h = k // height, rows[i, 1] + k % height
            a = stride[0] * h + rows[i, 0]
            row = uint32((n * C + g * C_g + c) * H + a) * uint32(B * WARP) + uint32(v)
            at = uint32((n * O + o) * P + h) * uint32(Q * WARP) + uint32(v)
            for q in range(Q):
                for f in range(FILTERS):
                    dL_dz_q[f] = dL_dz[at + min(uint32(f), last) * plane]
                at += uint32(WARP)
                for j in range(WIDTH):
                    pixel = int32(stride[1] * q + column + dilation[1] * j)
                    x_j = zero
                    if pixel >= 0 and pixel < B:
                        x_j = x[row + uint32(pixel) * uint32(WARP)]
                    for f in range(FILTERS):
                        acc[f, j] += dL_dz_q[f] * x_j  # (conv2d.4)
        thread = warp * WARP + v
        for f in range(FILTERS):
            for j in range(WIDTH):
                sums[f * WIDTH + j, thread] = acc[f, j]
        cuda.syncthreads()
        for k in range(thread, COUNT, WARP * WARPS):
            total = zero
            for other in range(WARP * WARPS):
                total += sums[k, other]
            if o + k // WIDTH < end:
                parts[m, o + k // WIDTH, c, i, k % WIDTH] = total

    return conv2d_weight_rows_cuda


def correlate(sizes: Correlation, x, b, z, scratch: dict[str, np.ndarray], activation=identity) -> None:
    """Fill z from x and the packed weights; with an activation, what follows from z."""
    image = scratch.get("image")
    _correlate(sizes, x, scratch["by_output"], b, z, scratch["forward_offsets"], image, activation)


def _correlate(sizes: Correlation, x, w, b, z, offsets, image, activation=identity) -> None:
    (FILTERS, COLUMNS), P = sizes.output_tile, z.shape[2]
    conv2d_forward, weights = forward_kernel(FILTERS, COLUMNS), w.reshape(len(w), -1, FILTERS)
    for x_n, z_n in zip(x, z, strict=True):
        pixels = _placed(sizes, x_n, image)
        steps = offsets, len(pixels) // sizes.groups, sizes.plane[1], sizes.stride_there, sizes.groups
        for h in range(0, P, sizes.band):
            rows = h, min(h + sizes.band, P)
            conv2d_forward(pixels, weights, b, z_n, rows, *steps)
            activate(activation, z_n, rows)


def _placed(sizes: Correlation, x, image):
    """Return the pixels of a block that kernels read, (pixels, LANES): a copy in image where there is room, or x."""
    if image is None:
        return x.reshape(-1, LANES)
    pitch, (sh, sw) = sizes.plane[1], sizes.steps_there
    place_image(x[:, ::sh, ::sw], image, pitch, sizes.padding[0] * pitch + sizes.padding[2])
    return image.reshape(-1, LANES)


def input_gradient(sizes: Correlation, dL_dz, dL_dx, scratch: dict[str, np.ndarray]) -> None:
    """Fill dL_dx from dL_dz and the packed weights; where windows are single pixels, by a convolution as well."""
    if sizes.is_pointwise:
        packed, offsets, image = scratch["by_input"], scratch["back_offsets"], scratch.get("back_image")
        _correlate(sizes.transposed, dL_dz, packed, scratch["back_bias"], dL_dx, offsets, image)  # (conv2d.7)
        return
    CHANNELS, BLOCKS = sizes.input_tile(len(dL_dx))
    conv2d_input_gradient, pitch = input_kernel(CHANNELS, BLOCKS), dL_dz.shape[3]
    steps = scratch["input_rows"], scratch["input_columns"], sizes.steps, pitch, sizes.groups
    for n in range(0, len(dL_dx), BLOCKS):
        pair = n, min(n + BLOCKS, len(dL_dx)) - 1
        if "planes" in scratch:
            read = [scratch["planes"][0], scratch["planes"][BLOCKS - 1]]
            for k in range(BLOCKS):
                place_image(dL_dz[pair[k]], read[k], pitch, 0)
        else:
            read = [dL_dz[block].reshape(dL_dz.shape[1], -1, LANES) for block in pair]
        conv2d_input_gradient(scratch["by_input"], *read, dL_dx[pair[0]], dL_dx[pair[1]], *steps)


def pack_for_cuda(sizes: Correlation, W, scratch: dict) -> None:
    """Fill the packed weights that the kernels of this convolution read."""
    for name in ("by_output", "by_input"):
        if name in scratch:
            packed = scratch[name]
            pack_weights_cuda[flat(packed.size)](W, packed, sizes.groups, name == "by_input")


def correlate_cuda(sizes: Correlation, x, W, b, z, scratch: dict, activation=identity) -> None:
    """Fill z from x, on a GPU, or what follows from z; the weights have been packed."""
    top, _, left, _ = sizes.padding
    if "by_output" in scratch:
        steps = sizes.stride, (-top, -left), sizes.dilation, sizes.groups
        _tiles_cuda(x, scratch["by_output"], b, z, *steps, activation)
    else:
        rows, columns = scratch["forward_rows"], scratch["forward_columns"]
        conv2d_forward_cuda[maps(z.shape)](x, W, b, z, rows, columns, sizes.dilation, sizes.groups)
        activate_cuda(activation, z)


def input_gradient_cuda(sizes: Correlation, W, dL_dz, dL_dx, scratch: dict) -> None:
    """Fill dL_dx from dL_dz, on a GPU; the weights have been packed."""
    if "by_input" in scratch:
        (top, _, left, _), (dh, dw) = sizes.padding, sizes.dilation
        packed, no_bias = scratch["by_input"], scratch["no_bias"]
        _tiles_cuda(dL_dz, packed, no_bias, dL_dx, sizes.stride, (top, left), (-dh, -dw), sizes.groups)
    else:
        rows, columns = scratch["input_rows"], scratch["input_columns"]
        conv2d_input_gradient_cuda[maps(dL_dx.shape)](W, dL_dz, dL_dx, rows, columns, sizes.steps, sizes.groups)


def _tiles_cuda(x, packed, b, z, stride, offset, step, groups, activation=identity) -> None:
    channels = packed.shape[4]
    columns = channels // 2
    grid = maps((len(z), len(packed), *z.shape[2:]), columns)
    shapes = tuple(x.shape[1:4]), tuple(z.shape[1:4])
    kernel = tile_kernel(channels, columns, activation)
    kernel[grid](x.reshape(-1), packed, packed.reshape(-1), b, z.reshape(-1), *shapes, stride, offset, step, groups)


def weight_gradient_cuda(sizes: Correlation, x, dL_dz, dL_dW, scratch: dict) -> None:
    """Fill dL_dW from x and dL_dz, on a GPU."""
    if "weight_parts" not in scratch:
        rows, columns = scratch["weight_rows"], scratch["weight_columns"]
        grid = dL_dW.shape[0] * dL_dW.shape[1], *dL_dW.shape[2:]
        conv2d_weight_gradient_cuda[grid, REDUCERS](x, dL_dz, dL_dW, rows, columns, sizes.stride, sizes.groups)
        return
    parts, rows, groups = scratch["weight_parts"], scratch["weight_rows"], sizes.groups
    filters = sizes.filters_cuda(dL_dW.dtype)
    tiles = groups * -(-(dL_dW.shape[0] // groups) // filters)
    grid = tiles * dL_dW.shape[1] * dL_dW.shape[2], len(parts)
    shapes, column = (tuple(x.shape[1:4]), tuple(dL_dz.shape[1:4])), -sizes.padding[2]
    row_kernel(filters, dL_dW.shape[3])[grid, (WARP, WARPS)](
        x.reshape(-1), dL_dz.reshape(-1), parts, *shapes, rows, sizes.stride, column, sizes.dilation, groups
    )
    flat_parts = parts.reshape(len(parts), -1)
    sum_of_parts_cuda[flat(dL_dW.size)](flat_parts, dL_dW.reshape(-1))


def bias_gradient_cuda(dL_dz, dL_db, scratch: dict, a=None, gradient=None) -> None:
    """Fill dL_db from dL_dz, on a GPU; with an activation, whose value is a, dL_dz is first made from dL/da."""
    parts, planes = scratch["bias_parts"], (*dL_dz.shape[:2], -1)
    a = dL_dz if a is None else a
    kernel = bias_kernel(gradient)
    kernel[(len(dL_db), len(parts)), REDUCERS](a.reshape(*planes), dL_dz.reshape(*planes), parts)
    sum_of_parts_cuda[flat(dL_db.size)](parts, dL_db)


def weight_gradient(sizes: Correlation, x, dL_dz, dL_dW, scratch: dict[str, np.ndarray]) -> None:
    """Fill dL_dW from x and dL_dz, in rounds of as many filters as there is room for their sums."""
    WEIGHTS, FILTERS = sizes.weight_tile
    conv2d_weight_gradient, sums, image = weight_kernel(WEIGHTS, FILTERS), scratch["weight_sums"], scratch.get("image")
    steps = scratch["forward_offsets"], sizes.plane[1], sizes.stride_there, sizes.strip
    O_g, C_g, in_a_round = len(dL_dW) // sizes.groups, dL_dW.shape[1], len(sums) * FILTERS
    blocks = list(zip(x, dL_dz, strict=True))
    # with several rounds, those of one block of samples follow one another, so that its image is placed only once
    stretches = [blocks] if image is None or in_a_round >= O_g else [[block] for block in blocks]
    clear(dL_dW.reshape(-1))
    for g in range(sizes.groups):
        channels = slice(g * C_g, (g + 1) * C_g)
        room = None if image is None else image[channels]
        for stretch in stretches:
            for first in range(g * O_g, (g + 1) * O_g, in_a_round):
                filters = first, min(first + in_a_round, (g + 1) * O_g)
                clear(sums.reshape(-1))
                for x_n, dL_dz_n in stretch:
                    if image is None or first == g * O_g:
                        pixels = _placed(sizes, x_n[channels], room)
                    conv2d_weight_gradient(pixels, dL_dz_n, sums, filters, *steps)
                add_lanes(sums, dL_dW[slice(*filters)])


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
    kernels_alone = True
    takes_one = True
    takes_activation = True
    takes_activation_cuda = True
    passing: ClassVar[dict[str, str]] = PASSING | {"weight_sums": "planes", "planes": "planes", "back_image": "planes"}
    only_for_dL_dx: ClassVar[tuple[str, ...]] = ("planes", "back_image", *MIRRORED)

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
        """Fix the padding of every side, and with it all sizes."""
        self._sides = parse_padding(self, self.padding, x_shape[1:], self.kernel_size, self.stride, self.dilation)
        sizes = self.kernel_size, self.stride, self._sides, self.dilation, self.groups
        self._sizes = Correlation(x_shape, self.output_shape(x_shape), *sizes)
        self._tiling = Tiling.of(self._sizes)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W and b."""
        return {"W": (self.filters, x_shape[0] // self.groups, *self.kernel_size), "b": (self.filters,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W; one output reads C/G fh fw values, one input reaches O/G fh fw."""
        O, C_g, fh, fw = parameters["W"].shape
        parameters["W"][...] = self.initializer(rng, (O, C_g, fh, fw), C_g * fh * fw, O // self.groups * fh * fw)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for packed weights and sums, and the bounds of the kernels' loops."""
        return self._sizes.scratch(blocks, dtype) if self._tiling is None else self._tiling.scratch(dtype)

    def forward(self, share: Share) -> None:
        """Compute z, after packing the weights."""
        W, b, scratch = share.parameters["W"], share.parameters["b"], share.scratch
        activation = identity if share.activation is None else share.activation.formulas[0]
        if self._tiling is not None:
            self._tiling.forward(share.x[0], W, b, share.z, scratch, activation)
            return
        pack_weights(W, self.groups, scratch["by_output"], scratch["by_input"])
        correlate(self._sizes, share.x[0], b, share.z, scratch, activation)

    def backward(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        W, dL_dW = share.parameters["W"], share.gradients["W"]
        planes, gradient = (*dL_dz.shape[:2], -1), share.activation_gradient
        if gradient is None:
            conv2d_bias_gradient(dL_dz.reshape(planes), share.gradients["b"])
        else:  # what arrives is dL/da
            flat = *planes, LANES
            activated_bias_gradient(gradient)(share.z.reshape(flat), dL_dz.reshape(flat), share.gradients["b"])
        if self._tiling is not None:
            self._tiling.weight_gradient(x, dL_dz, dL_dW, scratch)
            if dL_dx is not None:
                self._tiling.input_gradient(W, dL_dz, dL_dx, scratch)
            return
        weight_gradient(self._sizes, x, dL_dz, dL_dW, scratch)
        if dL_dx is not None:
            input_gradient(self._sizes, dL_dz, dL_dx, scratch)

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return room for the image with its border, and a table of offsets."""
        return scratch_one(self._sizes, dtype)

    def forward_one(self, share: Share) -> None:
        """Compute z for a single sample."""
        W, b = share.parameters["W"], share.parameters["b"]
        correlate_one(self._sizes, share.x[0], W, b, share.z, share.scratch)

    def part_of_one(self, share: Share, rank: int, size: int) -> Share | None:
        """Return some of the filters, where all of them read the same channels."""
        return some_outputs(share, TILE, rank, size if self.groups == 1 else 1)

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for packed weights and for parts of sums, and the bounds of the kernels' loops."""
        O = self.filters
        return {
            **self._sizes.scratch_cuda(blocks, dtype),
            "bias_parts": parts_for(O, blocks, self._sizes.z_shape, dtype),
        }

    def forward_cuda(self, share: Share) -> None:
        """Compute z, after packing the weights."""
        (x,), W, b = share.x, share.parameters["W"], share.parameters["b"]
        pack_for_cuda(self._sizes, W, share.scratch)
        activation = identity if share.activation is None else share.activation.formulas[0]
        correlate_cuda(self._sizes, x, W, b, share.z, share.scratch, activation)

    def backward_cuda(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x."""
        (x,), (dL_dx,), dL_dz, scratch = share.x, share.dL_dx, share.dL_dz, share.scratch
        gradient = share.activation_gradient
        bias_gradient_cuda(dL_dz, share.gradients["b"], scratch, share.z, gradient)
        weight_gradient_cuda(self._sizes, x, dL_dz, share.gradients["W"], scratch)
        if dL_dx is not None:
            input_gradient_cuda(self._sizes, share.parameters["W"], dL_dz, dL_dx, scratch)

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
