"""Dense (fully connected) layer; equations in ``derivations/dense.py``.

Ladder: the literal loops of the derivation, then these tiles of TILE_ROWS outputs x one or two blocks of LANES samples
that stay in registers. The tile loop is outside the loop over blocks, so that a row of W is read once for the whole
mini-batch. Both gradients read copies, panels, in which what one tile needs follows one another: in rows of all
features those numbers are a power of two apart for the usual sizes, and push each other out of the cache (49 GFLOP/s
before for the weights, 52 for the input). Panels for the weights hold the samples of all workers, each of which then
has some of the outputs.

Ladder on a GPU: one thread for each output; four outputs for a thread, so that a number of x is used four times and
four weights are read at once, with the sum cut into stretches for several warps, of which there would be too few; for
wide layers tiles of 128 x 128 outputs for a block of 256 threads, 8 x 8 for each, whose operands pass through shared
memory, the next stretch while the last is being multiplied (as in CUTLASS: "Efficient GEMM in CUDA").
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from ...derivations import dense as derivation
from .. import initializers
from ..backend import LANES, SQUARE, copy_lanes, index, kernel, registers, transpose, uint32
from ..checks import require_positive_integers
from ..cuda import WARP, add_up, cuda, cuda_kernel, device_function, features, load4, position, store4
from ..scalar import identity
from ..tiles import DENSE_TILES, best_tile
from .elementwise import activate, activate_cuda
from .layer import Layer, Shape, Share, require_features, some_outputs

TILE_ROWS = DENSE_TILES[0][0]  # the same for all of them
TILE_SIZE = TILE_ROWS * LANES
AT_ONCE = 4  # products of a sum in one turn of a loop; on a core that others use as well it is 3 to 10 % faster
STRIP = 8 * TILE_ROWS  # columns of W that are copied at a time
SIDE = 16 if WARP == 32 else 4  # on a GPU: a block of threads has SIDE x SIDE weights
PITCH = WARP + 1
SHARERS = 8 if WARP == 32 else 2  # warps that share a sum
TILE_SIDE = 128  # outputs of a tile, one way and the other, for wide layers
WIDE = 100  # tiles from which on there is one for most of a GPU's multiprocessors


@functools.cache
def forward_kernel(BLOCKS: int):
    """Return the kernel whose tiles take one or two blocks of samples."""
    SIZE = TILE_SIZE * BLOCKS

    @kernel
    def dense_forward(x, W, b, z):
        """z = W x + b; x (blocks, J, LANES), W (I, J), b (I,), z (blocks, I, LANES)."""
        blocks, J, _ = x.shape
        I, whole = W.shape[0], J // AT_ONCE * AT_ONCE
        acc = registers((BLOCKS, TILE_ROWS, LANES), SIZE, x)
        for i in range(0, I, TILE_ROWS):
            for n in range(0, blocks, BLOCKS):
                n_next = min(n + BLOCKS, blocks) - 1
                x_n, x_next = x[n], x[n_next]
                for v in range(LANES):
                    for m in range(BLOCKS):
                        for t in range(TILE_ROWS):
                            acc[m, t, v] = b[min(i + t, I - 1)]
                for first in range(0, whole, AT_ONCE):
                    for j in range(first, first + AT_ONCE):
                        for v in range(LANES):
                            for t in range(TILE_ROWS):
                                acc[0, t, v] += W[index(min(i + t, I - 1)), index(j)] * x_n[index(j), v]  # (dense.1)
                            if BLOCKS == 2:
                                for t in range(TILE_ROWS):
                                    acc[1, t, v] += W[index(min(i + t, I - 1)), index(j)] * x_next[index(j), v]
                for j in range(whole, J):
                    for v in range(LANES):
                        for t in range(TILE_ROWS):
                            acc[0, t, v] += W[index(min(i + t, I - 1)), index(j)] * x_n[index(j), v]  # (dense.1)
                        if BLOCKS == 2:
                            for t in range(TILE_ROWS):
                                acc[1, t, v] += W[index(min(i + t, I - 1)), index(j)] * x_next[index(j), v]
                for t in range(TILE_ROWS - 1, -1, -1):
                    row = index(min(i + t, I - 1))
                    if BLOCKS == 2:
                        copy_lanes(z[n_next, row], acc[BLOCKS - 1, t])
                    copy_lanes(z[n, row], acc[0, t])

    return dense_forward


@kernel
def dense_forward_one(x, W, b, one, z):
    """The same for the sample in lane 0 alone: vectors are of neighbouring features here, which W holds side by side.

    x (1, J, lanes), z (1, I, lanes), of which there may be a single one.
    """
    I, J = W.shape
    whole = J // LANES * LANES
    acc = registers((TILE_ROWS, LANES), TILE_SIZE, x)
    for j in range(J):
        one[j] = x[0, j, 0]
    for i in range(0, I, TILE_ROWS):
        for v in range(LANES):
            for t in range(TILE_ROWS):
                acc[t, v] = 0
        for j in range(0, whole, LANES):
            for v in range(LANES):
                for t in range(TILE_ROWS):
                    acc[t, v] += W[index(min(i + t, I - 1)), index(j + v)] * one[index(j + v)]  # (dense.1)
        for t in range(TILE_ROWS - 1, -1, -1):
            last = min(i + t, I - 1)
            total = b[last]
            for v in range(LANES):
                total += acc[t, v]
            for v in range(z.shape[2]):
                z[0, last, v] = b[last]
            for j in range(whole, J):
                total += W[last, j] * one[j]  # (dense.1)
            z[0, last, 0] = total


@kernel(short_loops=True)
def copy_columns(W, j, columns):
    """Copy STRIP columns of W from j on to columns (tiles, I, TILE_ROWS), where a tile reads its numbers in order."""
    I, J = W.shape
    tiles = columns.shape[0]
    some = registers((TILE_ROWS,), TILE_ROWS, W)
    for i in range(I):
        row = W[i]
        if j + tiles * TILE_ROWS <= J:
            for k in range(tiles):
                target = columns[k, i]
                for t in range(TILE_ROWS):
                    some[t] = row[index(j + k * TILE_ROWS + t)]
                for t in range(TILE_ROWS):
                    target[t] = some[t]
        else:
            for k in range(J - j):
                columns[k // TILE_ROWS, i, k % TILE_ROWS] = row[index(j + k)]


@functools.cache
def input_kernel(BLOCKS: int):
    """Return the kernel whose tiles take one or two blocks of samples."""
    SIZE = TILE_SIZE * BLOCKS

    @kernel
    def dense_input_gradient(W, dL_dz, dL_dx, columns):
        """dL/dx = Wᵀ dL/dz."""
        blocks, J, _ = dL_dx.shape
        I, whole = W.shape[0], W.shape[0] // AT_ONCE * AT_ONCE
        acc = registers((BLOCKS, TILE_ROWS, LANES), SIZE, dL_dz)
        for first in range(0, J, STRIP):
            copy_columns(W, first, columns)
            for n in range(0, blocks, BLOCKS):
                n_next = min(n + BLOCKS, blocks) - 1
                dL_dz_n, dL_dz_next = dL_dz[n], dL_dz[n_next]
                for j in range(first, min(first + STRIP, J), TILE_ROWS):
                    w = columns[(j - first) // TILE_ROWS]
                    for v in range(LANES):
                        for m in range(BLOCKS):
                            for t in range(TILE_ROWS):
                                acc[m, t, v] = 0
                    for start in range(0, whole, AT_ONCE):
                        for i in range(start, start + AT_ONCE):
                            for v in range(LANES):
                                for t in range(TILE_ROWS):
                                    acc[0, t, v] += w[index(i), t] * dL_dz_n[index(i), v]  # (dense.6)
                                if BLOCKS == 2:
                                    for t in range(TILE_ROWS):
                                        acc[1, t, v] += w[index(i), t] * dL_dz_next[index(i), v]
                    for i in range(whole, I):
                        for v in range(LANES):
                            for t in range(TILE_ROWS):
                                acc[0, t, v] += w[index(i), t] * dL_dz_n[index(i), v]  # (dense.6)
                            if BLOCKS == 2:
                                for t in range(TILE_ROWS):
                                    acc[1, t, v] += w[index(i), t] * dL_dz_next[index(i), v]
                    for t in range(TILE_ROWS - 1, -1, -1):
                        row = index(min(j + t, J - 1))
                        if BLOCKS == 2:
                            copy_lanes(dL_dx[n_next, row], acc[BLOCKS - 1, t])
                        copy_lanes(dL_dx[n, row], acc[0, t])

    return dense_input_gradient


@kernel
def input_panels(x, panels, first):
    """Copy x (blocks, J, LANES) to panels (tiles, samples, LANES) from a sample on, LANES features side by side."""
    blocks, J, _ = x.shape
    square, whole = registers((LANES, LANES), SQUARE, x), J // LANES * LANES
    for j in range(0, whole, LANES):
        panel = panels[j // LANES]
        for n in range(blocks):
            for k in range(LANES):
                copy_lanes(square[k], x[n, index(j + k)])
            transpose(square)
            for v in range(LANES):
                copy_lanes(panel[index(first + n * LANES + v)], square[v])
    for j in range(whole, J):
        for n in range(blocks):
            for v in range(LANES):
                panels[j // LANES, index(first + n * LANES + v), index(j - whole)] = x[n, j, v]


@functools.cache
def gradient_panels(gradient):
    """Return the kernel that copies dL/dz and first goes back through an activation with this gradient, or none."""
    IS_ACTIVATED = gradient is not None

    @kernel(short_loops=True)
    def dense_gradient_panels(a, dL_dz, panels, first):
        """Copy dL/dz (blocks, I, LANES) to panels (tiles, blocks, TILE_ROWS, LANES) from a block on.

        With an activation, whose value is a, dL_dz arrives as dL/da, and is replaced.
        """
        blocks, I, _ = dL_dz.shape
        zero, one = a.dtype.type(0), a.dtype.type(1)
        some = registers((LANES,), LANES, a)
        for i in range(I):
            panel, t = panels[i // TILE_ROWS], i % TILE_ROWS
            for n in range(blocks):
                a_i, dL_dz_i = a[n, i], dL_dz[n, i]
                if IS_ACTIVATED:
                    for v in range(LANES):
                        some[v] = gradient(a_i[v], dL_dz_i[v], zero, one)
                    copy_lanes(dL_dz_i, some)
                    copy_lanes(panel[index(first + n), index(t)], some)
                else:
                    copy_lanes(panel[index(first + n), index(t)], dL_dz_i)

    return dense_gradient_panels


@functools.cache
def weight_kernel(PANELS: int):
    """Return the kernel whose tiles take one or two panels of x."""
    SIZE = TILE_SIZE * PANELS

    @kernel
    def dense_weight_gradient(x_panels, dL_dz_panels, tiles, dL_dW):
        """dL/dW = Σ over samples of dL/dz xᵀ for some tiles of outputs; panels of x stay in the cache as they go by."""
        all_panels, blocks = x_panels.shape[0], dL_dz_panels.shape[1]
        I, J = dL_dW.shape
        acc = registers((PANELS, TILE_ROWS, LANES), SIZE, x_panels)
        for p in range(0, all_panels, PANELS):
            p_next = min(p + PANELS, all_panels) - 1
            x, x_next = x_panels[p], x_panels[p_next]
            for tile in range(tiles[0], tiles[1]):
                i, dL_dz = tile * TILE_ROWS, dL_dz_panels[tile]
                for v in range(LANES):
                    for k in range(PANELS):
                        for t in range(TILE_ROWS):
                            acc[k, t, v] = 0
                for n in range(blocks):
                    dL_dz_n = dL_dz[n]
                    for m in range(LANES):  # a sample
                        x_m, x_next_m = x[index(n * LANES + m)], x_next[index(n * LANES + m)]
                        for v in range(LANES):
                            for t in range(TILE_ROWS):
                                acc[0, t, v] += dL_dz_n[t, index(m)] * x_m[v]  # (dense.4)
                            if PANELS == 2:
                                for t in range(TILE_ROWS):
                                    acc[1, t, v] += dL_dz_n[t, index(m)] * x_next_m[v]
                for t in range(TILE_ROWS - 1, -1, -1):
                    row = dL_dW[index(min(i + t, I - 1))]
                    for k in range(PANELS):
                        j = min(p + k, p_next) * LANES
                        if j + LANES <= J:
                            copy_lanes(row[j : j + LANES], acc[k, t])
                        else:
                            for v in range(J - j):
                                row[index(j + v)] = acc[k, t, v]

    return dense_weight_gradient


@kernel
def dense_bias_gradient(dL_dz_panels, tiles, dL_db):
    """dL/db = Σ over samples of dL/dz, for the same tiles of outputs."""
    blocks = dL_dz_panels.shape[1]
    totals = registers((LANES,), LANES, dL_dz_panels)
    for i in range(tiles[0] * TILE_ROWS, min(tiles[1] * TILE_ROWS, dL_db.size)):
        dL_dz, t = dL_dz_panels[i // TILE_ROWS], i % TILE_ROWS
        for v in range(LANES):
            totals[v] = 0
        for n in range(blocks):
            for v in range(LANES):
                totals[v] += dL_dz[index(n), index(t), v]  # (dense.5)
        total = totals[0]
        for v in range(1, LANES):
            total += totals[v]
        dL_db[i] = total


@cuda_kernel
def dense_forward_cuda(x, W, b, z):
    """z = W x + b, one thread for each output of each sample; x (blocks, J, WARP), z (blocks, I, WARP)."""
    n, _, _, i, v = position(1)
    if i < z.shape[1]:
        total = b[i]
        for j in range(x.shape[1]):
            total += W[i, j] * x[n, j, v]  # (dense.1)
        z[n, i, v] = total


@cuda_kernel
def dense_input_gradient_cuda(W, dL_dz, dL_dx):
    """dL/dx = Wᵀ dL/dz, one thread for each input of each sample."""
    n, _, _, j, v = position(1)
    if j < dL_dx.shape[1]:
        total = dL_dz.dtype.type(0)
        for i in range(dL_dz.shape[1]):
            total += W[i, j] * dL_dz[n, i, v]  # (dense.6)
        dL_dx[n, j, v] = total


@cuda_kernel
def dense_weight_gradient_cuda(x, dL_dz, dL_dW):
    """dL/dW = Σ over samples of dL/dz xᵀ: a block of SIDE x SIDE threads has as many weights.

    The SIDE rows of x and dL/dz that it needs are first copied side by side to shared memory, where a warp's threads,
    which have different weights, can read them at full speed; one number more per row puts them into different banks.
    """
    x_tile = cuda.shared.array((SIDE, PITCH), dL_dW.dtype)
    dL_dz_tile = cuda.shared.array((SIDE, PITCH), dL_dW.dtype)
    I, J = dL_dW.shape
    first_i, first_j = cuda.blockIdx.y * SIDE, cuda.blockIdx.x * SIDE
    thread = cuda.threadIdx.y * SIDE + cuda.threadIdx.x
    zero = dL_dW.dtype.type(0)
    total = zero
    for n in range(x.shape[0]):
        for k in range(thread, SIDE * WARP, SIDE * SIDE):
            row, v = k // WARP, k % WARP
            x_tile[row, v] = x[n, first_j + row, v] if first_j + row < J else zero
            dL_dz_tile[row, v] = dL_dz[n, first_i + row, v] if first_i + row < I else zero
        cuda.syncthreads()
        for v in range(WARP):
            total += dL_dz_tile[cuda.threadIdx.y, v] * x_tile[cuda.threadIdx.x, v]  # (dense.4)
        cuda.syncthreads()
    i, j = first_i + cuda.threadIdx.y, first_j + cuda.threadIdx.x
    if i < I and j < J:
        dL_dW[i, j] = total


@functools.cache
def bias_kernel(gradient):
    """Return the kernel that adds up dL/dz and, where an activation follows, first goes back through it."""
    IS_ACTIVATED = gradient is not None

    @cuda_kernel
    def dense_bias_gradient_cuda(a, dL_dz, dL_db):
        """dL/db = Σ over samples of dL/dz, one warp for each output.

        dL_dz arrives as dL/da where an activation follows, and is replaced; a is the activation's value.
        """
        partial = cuda.shared.array(WARP, dL_dz.dtype)
        i, v = cuda.blockIdx.x, cuda.threadIdx.x
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        total = zero
        for n in range(dL_dz.shape[0]):
            dL_dz_v = dL_dz[n, i, v]
            if IS_ACTIVATED:
                dL_dz_v = gradient(a[n, i, v], dL_dz_v, zero, one)
                dL_dz[n, i, v] = dL_dz_v
            total += dL_dz_v  # (dense.5)
        partial[v] = total
        add_up(partial, v, WARP)
        if v == 0:
            dL_db[i] = partial[0]

    return dense_bias_gradient_cuda


@functools.cache
def fours_kernel(IS_FORWARD: bool, activation):
    """Return the kernel whose threads have four neighbours: of activation(W x + b), or of dL/dx = Wᵀ dL/dz."""
    COUNT = 4 * SHARERS

    @cuda_kernel(threads=WARP * SHARERS)
    def dense_fours_cuda(W, b, x, z, J):
        """Fill z (blocks, I, WARP) from x (blocks, J, WARP), or dL/dx from dL/dz; W is flat, its rows J long.

        Each warp of a block adds up every SHARERS-th stretch; the first ones then add what the others found.
        """
        partial = cuda.shared.array((COUNT, WARP), z.dtype)
        n, v, warp, first = cuda.blockIdx.y, cuda.threadIdx.x, cuda.threadIdx.y, 4 * cuda.blockIdx.x
        zero, end = z.dtype.type(0), z.shape[1]
        acc0, acc1, acc2, acc3 = zero, zero, zero, zero
        if IS_FORWARD:
            last = end - 1
            at0, at1 = first * J, min(first + 1, last) * J
            at2, at3 = min(first + 2, last) * J, min(first + 3, last) * J
            for j in range(4 * warp, J, 4 * SHARERS):
                x0, x1, x2, x3 = x[n, j, v], x[n, j + 1, v], x[n, j + 2, v], x[n, j + 3, v]
                w0, w1, w2, w3 = load4(W, at0 + j)
                acc0 = acc0 + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3  # (dense.1)
                w0, w1, w2, w3 = load4(W, at1 + j)
                acc1 = acc1 + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3  # (dense.1)
                w0, w1, w2, w3 = load4(W, at2 + j)
                acc2 = acc2 + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3  # (dense.1)
                w0, w1, w2, w3 = load4(W, at3 + j)
                acc3 = acc3 + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3  # (dense.1)
        else:
            for i in range(warp, x.shape[1], SHARERS):
                w0, w1, w2, w3 = load4(W, i * J + first)
                x_i = x[n, i, v]
                acc0 += w0 * x_i  # (dense.6)
                acc1 += w1 * x_i  # (dense.6)
                acc2 += w2 * x_i  # (dense.6)
                acc3 += w3 * x_i  # (dense.6)
        partial[4 * warp, v], partial[4 * warp + 1, v] = acc0, acc1
        partial[4 * warp + 2, v], partial[4 * warp + 3, v] = acc2, acc3
        cuda.syncthreads()
        for k in range(warp, 4, SHARERS):
            if first + k < end:
                total = b[first + k] if IS_FORWARD else zero
                for other in range(SHARERS):
                    total += partial[4 * other + k, v]
                z[n, first + k, v] = activation(total, zero, z.dtype.type(1))

    return dense_fours_cuda


@device_function
def lanes_at(row, sample, rows):
    """Return where a number of (blocks, rows, WARP) lies, for whole samples numbered through all blocks."""
    return (sample // uint32(WARP) * rows + row) * uint32(WARP) + sample % uint32(WARP)


@functools.cache
def matrix_kernel(kind: str, ROWS: int, COLUMNS: int):
    """Return a matrix product C = A B for blocks of ROWS x COLUMNS numbers of C, both multiples of 16.

    Parameters
    ----------
    kind : {"forward", "input", "weights"}
        z = W x + b (A = W, B = x); dL/dx = Wᵀ dL/dz (A = Wᵀ, B = dL/dz); dL/dW = dL/dz xᵀ (A = dL/dz, B = xᵀ). They
        differ in where a number lies, and in whether neighbours along the sum are neighbours in memory.
    """
    DEPTH = 8  # numbers of the sum that pass through shared memory at a time
    HALF_ROWS, HALF_COLUMNS = ROWS // 2, COLUMNS // 2
    ACROSS, THREADS = COLUMNS // 8, ROWS * COLUMNS // 64
    A_SIZE, B_SIZE = DEPTH * ROWS, DEPTH * COLUMNS
    TWO_A, TWO_B, A_LOADS, B_LOADS = 2 * A_SIZE, 2 * B_SIZE, A_SIZE // 4 // THREADS, B_SIZE // 4 // THREADS
    IS_FORWARD, IS_WEIGHTS, A_ALONG_SUM = kind == "forward", kind == "weights", kind != "input"

    @device_function
    def a_at(row, k, rows, depth):
        """Return where A[row, k] lies."""
        if IS_FORWARD:
            return row * depth + k
        return lanes_at(row, k, rows) if IS_WEIGHTS else k * rows + row

    @device_function
    def b_at(column, k, columns, depth):
        """Return where B[k, column] lies."""
        return lanes_at(column, k, columns) if IS_WEIGHTS else lanes_at(k, column, depth)

    def loader(place, IS_ALONG_SUM, SIZE):
        """Return what loads four neighbours of A or B for a tile of SIZE rows or columns."""

        @device_function
        def load(M, number, first, k0, end, depth):
            """Return four numbers, zeros outside, and where they go in shared memory, [k, row or column]."""
            if IS_ALONG_SUM:
                at, k = number // uint32(DEPTH // 4), number % uint32(DEPTH // 4) * uint32(4)
            else:
                k, at = number // uint32(SIZE // 4), number % uint32(SIZE // 4) * uint32(4)
            zero = M.dtype.type(0)
            n0, n1, n2, n3 = zero, zero, zero, zero
            if first + at < end and k0 + k < depth:
                n0, n1, n2, n3 = load4(M, place(first + at, k0 + k, end, depth))
            return n0, n1, n2, n3, k * uint32(SIZE) + at

        return load

    load_a, load_b = loader(a_at, A_ALONG_SUM, ROWS), loader(b_at, IS_WEIGHTS, COLUMNS)

    @device_function
    def keep(tile, at, n0, n1, n2, n3, is_along_sum, pitch):
        """Store four numbers in shared memory, where neighbours along the sum lie a row apart."""
        if is_along_sum:
            tile[at], tile[at + pitch] = n0, n1
            tile[at + pitch + pitch], tile[at + pitch + pitch + pitch] = n2, n3
        else:
            store4(tile, at, n0, n1, n2, n3)

    @device_function
    def multiply(a_tile, b_tile, a_from, b_from, a, b, acc):
        """Add the products of one k: 8 numbers of A by 8 of B, each two groups of four, half a tile apart."""
        a[0], a[1], a[2], a[3] = load4(a_tile, a_from)
        a[4], a[5], a[6], a[7] = load4(a_tile, a_from + uint32(HALF_ROWS))
        b[0], b[1], b[2], b[3] = load4(b_tile, b_from)
        b[4], b[5], b[6], b[7] = load4(b_tile, b_from + uint32(HALF_COLUMNS))
        for r in range(8):
            for c in range(8):
                acc[r, c] += a[r] * b[c]  # (dense.1) (dense.4) (dense.6)

    @cuda_kernel(threads=THREADS, blocks=2)
    def dense_matrix_cuda(A, B, bias, C, rows, columns, depth):
        """C = A B, all flat, with sizes as uint32; rows of C, features of x and dL/dz are multiples of 4."""
        a_tile, b_tile = cuda.shared.array(TWO_A, C.dtype, 16), cuda.shared.array(TWO_B, C.dtype, 16)
        acc, a, b = cuda.local.array((8, 8), C.dtype), cuda.local.array(8, C.dtype), cuda.local.array(8, C.dtype)
        next_a, next_b = cuda.local.array((A_LOADS, 4), C.dtype), cuda.local.array((B_LOADS, 4), C.dtype)
        a_to, b_to = cuda.local.array(A_LOADS, uint32), cuda.local.array(B_LOADS, uint32)
        thread = uint32(cuda.threadIdx.x)
        row, column = thread // uint32(ACROSS) * uint32(4), thread % uint32(ACROSS) * uint32(4)
        first_row, first_column = uint32(cuda.blockIdx.y) * uint32(ROWS), uint32(cuda.blockIdx.x) * uint32(COLUMNS)
        for r in range(8):
            start = C.dtype.type(0)
            if IS_FORWARD:
                place = first_row + row + uint32(r % 4 + r // 4 * HALF_ROWS)
                start = bias[min(place, rows - uint32(1))]
            for c in range(8):
                acc[r, c] = start
        for m in range(A_LOADS):
            n0, n1, n2, n3, at = load_a(A, thread + uint32(m * THREADS), first_row, uint32(0), rows, depth)
            keep(a_tile, at, n0, n1, n2, n3, A_ALONG_SUM, uint32(ROWS))
        for m in range(B_LOADS):
            n0, n1, n2, n3, at = load_b(B, thread + uint32(m * THREADS), first_column, uint32(0), columns, depth)
            keep(b_tile, at, n0, n1, n2, n3, IS_WEIGHTS, uint32(COLUMNS))
        cuda.syncthreads()
        half, k0 = uint32(0), uint32(0)
        while k0 < depth:
            k0 += uint32(DEPTH)
            if k0 < depth:
                for m in range(A_LOADS):
                    number = thread + uint32(m * THREADS)
                    next_a[m, 0], next_a[m, 1], next_a[m, 2], next_a[m, 3], a_to[m] = load_a(
                        A, number, first_row, k0, rows, depth
                    )
                for m in range(B_LOADS):
                    number = thread + uint32(m * THREADS)
                    next_b[m, 0], next_b[m, 1], next_b[m, 2], next_b[m, 3], b_to[m] = load_b(
                        B, number, first_column, k0, columns, depth
                    )
            a_from, b_from = half * uint32(A_SIZE) + row, half * uint32(B_SIZE) + column
            # written out: in a loop the compiler would not read the next numbers while it multiplies
            multiply(a_tile, b_tile, a_from, b_from, a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(1 * ROWS), b_from + uint32(1 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(2 * ROWS), b_from + uint32(2 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(3 * ROWS), b_from + uint32(3 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(4 * ROWS), b_from + uint32(4 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(5 * ROWS), b_from + uint32(5 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(6 * ROWS), b_from + uint32(6 * COLUMNS), a, b, acc)
            multiply(a_tile, b_tile, a_from + uint32(7 * ROWS), b_from + uint32(7 * COLUMNS), a, b, acc)
            if k0 < depth:
                half = uint32(1) - half
                for m in range(A_LOADS):
                    at = half * uint32(A_SIZE) + a_to[m]
                    keep(a_tile, at, next_a[m, 0], next_a[m, 1], next_a[m, 2], next_a[m, 3], A_ALONG_SUM, uint32(ROWS))
                for m in range(B_LOADS):
                    at = half * uint32(B_SIZE) + b_to[m]
                    keep(
                        b_tile, at, next_b[m, 0], next_b[m, 1], next_b[m, 2], next_b[m, 3], IS_WEIGHTS, uint32(COLUMNS)
                    )
                cuda.syncthreads()
        for r in range(8):
            i = first_row + row + uint32(r % 4 + r // 4 * HALF_ROWS)
            for c in range(0, 8, 4):
                j = first_column + column + uint32(c // 4 * HALF_COLUMNS)
                if i < rows and j < columns:
                    at = i * columns + j if IS_WEIGHTS else lanes_at(i, j, rows)
                    store4(C, at, acc[r, c], acc[r, c + 1], acc[r, c + 2], acc[r, c + 3])

    return dense_matrix_cuda


class Dense(Layer):
    """Fully connected layer, z = W x + b.

    Parameters
    ----------
    features : int
        Number of outputs I.
    initializer : callable, optional
        How W starts, from ``handgrad.engine.initializers``; the biases start at 0.
    name : str, optional

    Notes
    -----
    Input (N, J), output (N, I); parameters ``W`` (I, J) and ``b`` (I,), the orientation of PyTorch's Linear.

    Examples
    --------
    >>> from handgrad.engine import Dense, Input
    >>> Dense(10)(Input((784,))).shape
    (10,)
    """

    kind = "dense"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    finishes = True
    takes_activation = True
    takes_activation_cuda = True
    passing: ClassVar[dict[str, str]] = {key: key for key in ("x_panels", "dL_dz_panels")} | {"columns": "rows"}

    def __init__(self, features: int, *, initializer=initializers.he, name: str | None = None):
        super().__init__(name)
        require_positive_integers(str(self), features=features)
        self.features, self.initializer = features, initializer

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (I,)."""
        require_features(self, x_shape)
        return (self.features,)

    def parameter_shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of W and b."""
        return {"W": (self.features, x_shape[0]), "b": (self.features,)}

    def initialize(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Draw W with fan-in J and fan-out I."""
        I, J = parameters["W"].shape
        parameters["W"][...] = self.initializer(rng, (I, J), J, I)
        parameters["b"][...] = 0

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for some columns of W, and for a single sample."""
        columns = np.zeros((STRIP // TILE_ROWS, self.features, TILE_ROWS), dtype)
        return {"columns": columns, "one": np.zeros(x_shapes[0][0], dtype)}

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return room for a single sample."""
        return {"one": np.zeros(x_shapes[0][0], dtype)}

    def part_of_one(self, share: Share, rank: int, size: int) -> Share | None:
        """Return some of the outputs."""
        return some_outputs(share, TILE_ROWS, rank, size)

    def common_scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return room for the panels of x and dL/dz, whose surplus columns are computed with and not stored."""
        ((J,),), samples = x_shapes, blocks * LANES
        return {
            "x_panels": np.zeros((-(-J // LANES), samples, LANES), dtype),
            "dL_dz_panels": np.zeros((-(-self.features // TILE_ROWS), blocks, TILE_ROWS, LANES), dtype),
        }

    def forward(self, share: Share) -> None:
        """Compute z = W x + b."""
        W, b, (x,), z = share.parameters["W"], share.parameters["b"], share.x, share.z
        if share.N == 1:
            dense_forward_one(x, W, b, share.scratch["one"], z)
        else:
            forward_kernel(_blocks(W.shape[0], len(x)))(x, W, b, z)
        if share.activation is not None:
            activate(share.activation.formulas[0], z[:, :, None], (0, z.shape[1]))

    def backward(self, share: Share) -> None:
        """Compute the gradient of x, where it is wanted, and make panels for those of W and b."""
        (x,), (dL_dx,), dL_dz, panels = share.x, share.dL_dx, share.dL_dz, share.common["dL_dz_panels"]
        input_panels(x, share.common["x_panels"], share.first_sample)
        gradient = share.activation_gradient
        gradient_panels(gradient)(share.z, dL_dz, panels, share.first_sample // LANES)
        if dL_dx is not None:
            W = share.parameters["W"]
            input_kernel(_blocks(W.shape[1], len(dL_dx)))(W, dL_dz, dL_dx, share.scratch["columns"])

    def finish(self, share: Share, rank: int, size: int) -> None:
        """Compute the gradients of W and b for some of the outputs."""
        x, dL_dz, count = share.common["x_panels"], share.common["dL_dz_panels"], len(share.common["dL_dz_panels"])
        tiles = count * rank // size, count * (rank + 1) // size
        weight_kernel(_blocks(len(share.gradients["W"]), len(x)))(x, dL_dz, tiles, share.gradients["W"])
        dense_bias_gradient(dL_dz, tiles, share.gradients["b"])

    def forward_cuda(self, share: Share) -> None:
        """Compute z = W x + b."""
        (x,), z, W, b = share.x, share.z, share.parameters["W"], share.parameters["b"]
        activation = identity if share.activation is None else share.activation.formulas[0]
        if W.shape[1] % 4 == 0 and not is_wide(W, x):
            dense_fours(True, W, b, x, z, activation)
            return
        if is_wide(W, x):
            multiply_matrices("forward", W, x, b, z)
        else:
            dense_forward_cuda[features(z)](x, W, b, z)
        activate_cuda(activation, z)

    def backward_cuda(self, share: Share) -> None:
        """Compute the gradients of W, b and, where it is wanted, x."""
        (x,), (dL_dx,), dL_dz = share.x, share.dL_dx, share.dL_dz
        dL_dW, dL_db, W = share.gradients["W"], share.gradients["b"], share.parameters["W"]
        gradient = share.activation_gradient
        bias_kernel(gradient)[dL_db.size, WARP](share.z, dL_dz, dL_db)
        if tiles_of(*W.shape) >= WIDE and W.shape[0] % 4 == W.shape[1] % 4 == 0:
            multiply_matrices("weights", dL_dz, x, dL_db, dL_dW)
        else:
            grid = -(-dL_dW.shape[1] // SIDE), -(-dL_dW.shape[0] // SIDE)
            dense_weight_gradient_cuda[grid, (SIDE, SIDE)](x, dL_dz, dL_dW)
        if dL_dx is None:
            return
        if is_wide(W, x):
            multiply_matrices("input", W, dL_dz, dL_db, dL_dx)
        elif W.shape[1] % 4 == 0:
            dense_fours(False, W, dL_db, dL_dz, dL_dx)
        else:
            dense_input_gradient_cuda[features(dL_dx)](W, dL_dz, dL_dx)

    def multiply_adds(self, x_shape: Shape) -> int:
        """Return I J."""
        return self.features * x_shape[0]

    def settings(self) -> dict[str, object]:
        """Return the number of outputs."""
        return {"features": self.features}


def _blocks(rows: int, blocks: int) -> int:
    """Return how many blocks, or panels, of LANES numbers each a tile takes beside its rows."""
    return best_tile(DENSE_TILES, (rows, blocks))[1]


def tiles_of(rows: int, columns: int) -> int:
    """Return how many tiles of TILE_SIDE x TILE_SIDE numbers a matrix has."""
    return -(-rows // TILE_SIDE) * -(-columns // TILE_SIDE)


def is_wide(W, x) -> bool:
    """Return whether the products of W with the samples of x keep a GPU busy in large tiles."""
    return W.shape[0] % 4 == W.shape[1] % 4 == 0 and tiles_of(min(W.shape), len(x) * WARP) >= WIDE


def multiply_matrices(kind: str, A, B, bias, C, side: int = TILE_SIDE) -> None:
    """Launch a matrix product; W has two axes, the samples (blocks, features, WARP) three."""
    if kind == "weights":
        (rows, columns), depth = C.shape, len(A) * WARP
    else:
        rows, columns, depth = C.shape[1], len(C) * WARP, B.shape[1]
    grid = -(-columns // side), -(-rows // side)
    sizes = np.uint32(rows), np.uint32(columns), np.uint32(depth)
    kernel = matrix_kernel(kind, side, side)
    kernel[grid, side * side // 64](A.reshape(-1), B.reshape(-1), bias, C.reshape(-1), *sizes)


def dense_fours(is_forward: bool, W, b, x, z, activation=identity) -> None:
    """Launch the kernel with four outputs for each thread."""
    grid = -(-z.shape[1] // 4), len(z)
    fours_kernel(is_forward, activation)[grid, (WARP, SHARERS)](W.reshape(-1), b, x, z, W.shape[1])
