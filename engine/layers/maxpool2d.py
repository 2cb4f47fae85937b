"""Max pooling; equations in ``derivations/maxpool2d.py``.

The forward pass remembers which offset of each window won, and the backward pass sends the gradient there. A NaN wins
against every number and is not beaten by one. Ladder: windows over a padded image read their bounds from tables;
without padding the window's size is a constant of the forward kernel, so that its loops unroll and 16 lanes go side by
side, and of the backward kernel, where it makes a division cheap. Through an activation in front the backward pass goes
back as well, where nobody else reads that: the winner's a is the window's z, and for the others dL/da = 0, so that
dL/da a'(a) is computed once for each window instead of once for each pixel. On a GPU every pixel asks the windows that
hold it whether it won, so that windows may overlap without any two threads adding to the same number.
"""

from __future__ import annotations

import functools

import numpy as np

from ...derivations import maxpool2d as derivation
from ..backend import LANES, index, kernel, registers
from ..cuda import WARP, cuda_kernel, maps, position
from .layer import Share
from .pool import Pool2D, gradient_before


@functools.cache
def unpadded(fh: int, fw: int):
    """Return the forward kernel for windows of fh x fw inside the image."""

    @kernel
    def maxpool2d_forward(x, z, winner, sh, sw):
        """z = the largest value of each window; winner = its offset, i * fw + j, the first one if several are equal."""
        blocks, C, P, Q, _ = z.shape
        for n in range(blocks):
            for c in range(C):
                for h in range(P):
                    for q in range(Q):
                        for v in range(LANES):
                            best, best_offset = x[n, c, index(sh * h), index(sw * q), v], np.int32(0)
                            for i in range(fh):
                                for j in range(fw):
                                    value = x[n, c, index(sh * h + i), index(sw * q + j), v]
                                    if value > best or value != value:
                                        best, best_offset = value, np.int32(i * fw + j)
                            z[n, c, h, q, v] = best  # (maxpool2d.1)
                            winner[n, c, h, q, v] = best_offset

    return maxpool2d_forward


@functools.cache
def unpadded_backward(fh: int, fw: int, gradient):
    """Return (backward, backward where windows do not overlap), through an activation in front with that gradient."""
    AREA, SIZE = fh * fw, fh * fw * LANES

    @kernel
    def maxpool2d_backward(z, dL_dz, winner, dL_dx, sh, sw):
        """dL/dx[c,a,b] = the sum of dL/dz over the windows that (a, b) won."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        for n in range(blocks):
            for c in range(C):
                plane = dL_dx[n, c].reshape(-1)
                for k in range(plane.size):
                    plane[k] = zero
                for h in range(P):
                    for q in range(Q):
                        for v in range(LANES):
                            i = winner[n, c, h, q, v] // np.int32(fw)
                            j = winner[n, c, h, q, v] - i * np.int32(fw)
                            upstream = gradient(z[n, c, h, q, v], dL_dz[n, c, h, q, v], zero, one)
                            dL_dx[n, c, index(sh * h + i), index(sw * q + j), v] += upstream  # (maxpool2d.3)

    @kernel(short_loops=True)
    def maxpool2d_backward_apart(z, dL_dz, winner, dL_dx, sh, sw):
        """The same where no two windows share a pixel: each one writes its pixels, the winner's and the zeros."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        window = registers((AREA, LANES), SIZE, dL_dz)
        for n in range(blocks):
            for c in range(C):
                for h in range(P):
                    for q in range(Q):
                        z_q, dL_dz_q, winner_q = z[n, c, h, q], dL_dz[n, c, h, q], winner[n, c, h, q]
                        for v in range(LANES):
                            upstream, k = gradient(z_q[v], dL_dz_q[v], zero, one), winner_q[v]
                            for offset in range(AREA):
                                window[offset, v] = upstream if k == np.int32(offset) else zero  # (maxpool2d.3)
                        for i in range(fh):
                            for j in range(fw):
                                dL_dx_ij = dL_dx[n, c, index(sh * h + i), index(sw * q + j)]
                                for v in range(LANES):
                                    dL_dx_ij[v] = window[i * fw + j, v]

    return maxpool2d_backward, maxpool2d_backward_apart


@functools.cache
def unpadded_one(fh: int, fw: int, sh: int, sw: int):
    """Return the kernel for one sample, windows of fh x fw inside the image, and strides that are known."""

    @kernel
    def maxpool2d_forward_one(x, z):
        """The same without winners, which only a backward pass needs; x (C, H, B), z (C, P, Q)."""
        C, P, Q = z.shape
        for c in range(C):
            for h in range(P):
                for q in range(Q):
                    best = x[c, index(sh * h), index(sw * q)]
                    for i in range(fh):
                        for j in range(fw):
                            value = x[c, index(sh * h + i), index(sw * q + j)]
                            best = value if value > best or value != value else best
                    z[c, h, q] = best  # (maxpool2d.1)

    return maxpool2d_forward_one


@kernel
def maxpool2d_forward_padded(x, z, winner, rows, columns, width):
    """The same for windows over a border that never wins; rows and columns as in ``Line.offsets_inside``."""
    blocks, C, P, Q, lanes = z.shape
    for n in range(blocks):
        for c in range(C):
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    for v in range(lanes):
                        best = x[n, c, index(row + i_from), index(column + j_from), v]
                        best_offset = np.int32(i_from * width + j_from)
                        for i in range(i_from, i_to):
                            for j in range(j_from, j_to):
                                value = x[n, c, index(row + i), index(column + j), v]
                                if value > best or value != value:
                                    best, best_offset = value, np.int32(i * width + j)
                        z[n, c, h, q, v] = best  # (maxpool2d.1)
                        winner[n, c, h, q, v] = best_offset


@functools.cache
def padded_backward(gradient):
    """Return the backward kernel for windows over a border, through an activation in front with that gradient."""

    @kernel
    def maxpool2d_backward_padded(z, dL_dz, winner, dL_dx, rows, columns, width):
        """The same for windows over a border."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        for n in range(blocks):
            for c in range(C):
                plane = dL_dx[n, c].reshape(-1)
                for k in range(plane.size):
                    plane[k] = zero
                for h in range(P):
                    for q in range(Q):
                        for v in range(LANES):
                            i, j = winner[n, c, h, q, v] // width, winner[n, c, h, q, v] % width
                            upstream = gradient(z[n, c, h, q, v], dL_dz[n, c, h, q, v], zero, one)
                            dL_dx[n, c, rows[h, 0] + i, columns[q, 0] + j, v] += upstream  # (maxpool2d.3)

    return maxpool2d_backward_padded


@cuda_kernel
def maxpool2d_forward_cuda(x, z, winner, rows, columns, width):
    """z and winner, one thread for each window; rows and columns as in ``Line.offsets_inside``."""
    n, c, h, q, v = position(z.shape[1])
    if q < z.shape[3]:
        row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
        column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
        best, best_offset = x[n, c, row + i_from, column + j_from, v], i_from * width + j_from
        for i in range(i_from, i_to):
            for j in range(j_from, j_to):
                value = x[n, c, row + i, column + j, v]
                if value > best or value != value:
                    best, best_offset = value, i * width + j
        z[n, c, h, q, v] = best  # (maxpool2d.1)
        winner[n, c, h, q, v] = best_offset


@cuda_kernel
def maxpool2d_backward_cuda(dL_dz, winner, dL_dx, rows, columns, rows_back, columns_back, width):
    """dL/dx, one thread for each pixel; rows_back and columns_back as ``windows_that_hold`` returns them."""
    n, c, a, b, v = position(dL_dx.shape[1])
    if b < dL_dx.shape[3]:
        total = dL_dz.dtype.type(0)
        for h in range(rows_back[a, 0], rows_back[a, 1]):
            for q in range(columns_back[b, 0], columns_back[b, 1]):
                if winner[n, c, h, q, v] == (a - rows[h, 0]) * width + b - columns[q, 0]:
                    total += dL_dz[n, c, h, q, v]  # (maxpool2d.3)
        dL_dx[n, c, a, b, v] = total


class MaxPool2D(Pool2D):
    """Keep the largest value of each window.

    Parameters
    ----------
    size : int or (rows, columns)
        Of the window.
    stride : int or (rows, columns), optional
        By default the size; a smaller one makes windows overlap, as in AlexNet.
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
        The border never wins. Less than the window, so that each window holds a pixel.
    name : str, optional

    Notes
    -----
    Input (N, C, H, W), output (N, C, P, Q). Of equal values the first in row-major order wins, as in PyTorch.

    Examples
    --------
    >>> from handgrad.engine import Input, MaxPool2D
    >>> MaxPool2D(3, stride=2)(Input((96, 55, 55))).shape
    (96, 27, 27)
    """

    kind = "maxpool"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    undoes_activation = True

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the loop bounds and room for the winners' offsets."""
        winner = np.zeros((blocks, *self.output_shape(*x_shapes), LANES), np.int32)
        return {"winner": winner, **super().scratch(x_shapes, blocks, dtype)}

    def scratch_one(self, x_shapes, dtype) -> dict[str, np.ndarray]:
        """Return the loop bounds and, where there is padding, room for the winners' offsets."""
        tables = super().scratch_one(x_shapes, dtype)
        return (
            tables | {"winner": np.zeros((1, *self.output_shape(*x_shapes), 1), np.int32)} if self.is_padded else tables
        )

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the loop bounds and room for the winners' offsets."""
        winner = np.zeros((blocks, *self.output_shape(*x_shapes), WARP), np.int32)
        return {"winner": winner, **super().scratch_cuda(x_shapes, blocks, dtype)}

    def forward(self, share: Share) -> None:
        """Compute z and the winners."""
        (x,), z, s = share.x, share.z, share.scratch
        if self.is_padded:
            maxpool2d_forward_padded(x, z, s["winner"], s["rows"], s["columns"], self.size[1])
        else:
            unpadded(*self.size)(x, z, s["winner"], *self.stride)

    def forward_one(self, share: Share) -> None:
        """Compute z; without padding no winners."""
        (x,), z = share.x, share.z
        if self.is_padded:
            self.forward(share)
        else:
            unpadded_one(*self.size, *self.stride)(x.reshape(x.shape[1:4]), z.reshape(z.shape[1:4]))

    def backward(self, share: Share) -> None:
        """Send each gradient to the winner of its window, where it has gone back through the activation in front."""
        (dL_dx,), z, dL_dz, s = share.dL_dx, share.z, share.dL_dz, share.scratch
        if dL_dx is None:
            return
        gradient = gradient_before(share)
        if self.is_padded:
            padded_backward(gradient)(z, dL_dz, s["winner"], dL_dx, s["rows"], s["columns"], self.size[1])
            return
        overlapping, apart = unpadded_backward(*self.size, gradient)
        backward = apart if self.windows_are_apart(dL_dz, dL_dx) else overlapping
        backward(z, dL_dz, s["winner"], dL_dx, *self.stride)

    def forward_cuda(self, share: Share) -> None:
        """Compute z and the winners."""
        z, s = share.z, share.scratch
        tables = s["rows"], s["columns"]
        maxpool2d_forward_cuda[maps(z.shape)](share.x[0], z, s["winner"], *tables, self.size[1])

    def backward_cuda(self, share: Share) -> None:
        """Collect for each pixel the gradients of the windows that it won."""
        (dL_dx,), s = share.dL_dx, share.scratch
        if dL_dx is not None:
            tables = s["rows"], s["columns"], s["rows_back"], s["columns_back"]
            maxpool2d_backward_cuda[maps(dL_dx.shape)](share.dL_dz, s["winner"], dL_dx, *tables, self.size[1])

    def decisions(self, share: Share) -> np.ndarray:
        """Return the winners."""
        return share.scratch["winner"]
