"""Average pooling; equations in ``derivations/avgpool2d.py``.

Ladder: as in max pooling, windows over a padded image read their bounds from tables; without padding the window's size
is a constant of the kernel. Through an activation in front the backward pass goes back as well, where nobody else reads
that: the pixel's a is at hand when its gradient is written. On a GPU every pixel collects its gradient from the windows
that hold it.
"""

from __future__ import annotations

import functools

from ...derivations import avgpool2d as derivation
from ..backend import LANES, copy_lanes, index, kernel, registers
from ..cuda import cuda_kernel, maps, position
from .layer import Share
from .pool import Pool2D, gradient_before


@functools.cache
def unpadded(fh: int, fw: int, lanes: int = LANES):
    """Return the forward kernel for windows of fh x fw inside the image; lanes is 1 for a sample without lanes."""

    @kernel
    def avgpool2d_forward(x, z, sh, sw):
        """z = the sum of each window divided by its area."""
        blocks, C, P, Q, _ = z.shape
        zero, area = x.dtype.type(0), x.dtype.type(fh * fw)
        for n in range(blocks):
            for c in range(C):
                for h in range(P):
                    for q in range(Q):
                        for v in range(lanes):
                            total = zero
                            for i in range(fh):
                                for j in range(fw):
                                    total += x[n, c, index(sh * h + i), index(sw * q + j), v]
                            z[n, c, h, q, v] = total / area  # (avgpool2d.1)

    return avgpool2d_forward


@functools.cache
def unpadded_backward(fh: int, fw: int, gradient):
    """Return (backward, backward where windows do not overlap), through an activation in front with that gradient."""

    @kernel
    def avgpool2d_backward(x, dL_dz, dL_dx, sh, sw):
        """dL/dx[c,a,b] = the sum of dL/dz / area over the windows that hold (a, b)."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one, area = dL_dz.dtype.type(0), dL_dz.dtype.type(1), dL_dz.dtype.type(fh * fw)
        for n in range(blocks):
            for c in range(C):
                plane = dL_dx[n, c].reshape(-1)
                for k in range(plane.size):
                    plane[k] = zero
                for h in range(P):
                    for q in range(Q):
                        for v in range(LANES):
                            share = dL_dz[n, c, h, q, v] / area
                            for i in range(fh):
                                for j in range(fw):
                                    a, b = index(sh * h + i), index(sw * q + j)
                                    through = gradient(x[n, c, a, b, v], share, zero, one)
                                    dL_dx[n, c, a, b, v] += through  # (avgpool2d.3)

    @kernel(short_loops=True)
    def avgpool2d_backward_apart(x, dL_dz, dL_dx, sh, sw):
        """The same where no two windows share a pixel: each one writes the gradients of its own."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one, area = dL_dz.dtype.type(0), dL_dz.dtype.type(1), dL_dz.dtype.type(fh * fw)
        share, near = registers((LANES,), LANES, dL_dz), registers((LANES,), LANES, dL_dz)
        for n in range(blocks):
            for c in range(C):
                for h in range(P):
                    for q in range(Q):
                        dL_dz_q = dL_dz[n, c, h, q]
                        for v in range(LANES):
                            share[v] = dL_dz_q[v] / area
                        for i in range(fh):
                            for j in range(fw):
                                a, b = index(sh * h + i), index(sw * q + j)
                                x_ij = x[n, c, a, b]
                                for v in range(LANES):
                                    near[v] = gradient(x_ij[v], share[v], zero, one)  # (avgpool2d.3)
                                copy_lanes(dL_dx[n, c, a, b], near)

    return avgpool2d_backward, avgpool2d_backward_apart


@kernel
def avgpool2d_forward_padded(x, z, rows, columns, area):
    """The same for windows over a border of zeros; rows and columns as in ``Line.offsets_inside``."""
    blocks, C, P, Q, lanes = z.shape
    for n in range(blocks):
        for c in range(C):
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    for v in range(lanes):
                        total = x.dtype.type(0)
                        for i in range(i_from, i_to):
                            for j in range(j_from, j_to):
                                total += x[n, c, index(row + i), index(column + j), v]
                        z[n, c, h, q, v] = total / area  # (avgpool2d.1)


@functools.cache
def padded_backward(gradient):
    """Return the backward kernel for windows over a border, through an activation in front with that gradient."""

    @kernel
    def avgpool2d_backward_padded(x, dL_dz, dL_dx, rows, columns, area):
        """The same for windows over a border."""
        blocks, C, P, Q, _ = dL_dz.shape
        zero, one = dL_dz.dtype.type(0), dL_dz.dtype.type(1)
        for n in range(blocks):
            for c in range(C):
                plane = dL_dx[n, c].reshape(-1)
                for k in range(plane.size):
                    plane[k] = zero
                for h in range(P):
                    row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                    for q in range(Q):
                        column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                        for i in range(i_from, i_to):
                            for j in range(j_from, j_to):
                                a, b = index(row + i), index(column + j)
                                for v in range(LANES):
                                    share = dL_dz[n, c, h, q, v] / area
                                    through = gradient(x[n, c, a, b, v], share, zero, one)
                                    dL_dx[n, c, a, b, v] += through  # (avgpool2d.3)

    return avgpool2d_backward_padded


@cuda_kernel
def avgpool2d_forward_cuda(x, z, rows, columns, area):
    """z, one thread for each window; rows and columns as in ``Line.offsets_inside``."""
    n, c, h, q, v = position(z.shape[1])
    if q < z.shape[3]:
        row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
        column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
        total = x.dtype.type(0)
        for i in range(i_from, i_to):
            for j in range(j_from, j_to):
                total += x[n, c, row + i, column + j, v]
        z[n, c, h, q, v] = total / area  # (avgpool2d.1)


@cuda_kernel
def avgpool2d_backward_cuda(dL_dz, dL_dx, rows_back, columns_back, area):
    """dL/dx, one thread for each pixel; rows_back and columns_back as ``windows_that_hold`` returns them."""
    n, c, a, b, v = position(dL_dx.shape[1])
    if b < dL_dx.shape[3]:
        total = dL_dz.dtype.type(0)
        for h in range(rows_back[a, 0], rows_back[a, 1]):
            for q in range(columns_back[b, 0], columns_back[b, 1]):
                total += dL_dz[n, c, h, q, v] / area  # (avgpool2d.3)
        dL_dx[n, c, a, b, v] = total


class AvgPool2D(Pool2D):
    """Replace each window by its mean.

    Parameters
    ----------
    size : int or (rows, columns)
        Of the window.
    stride : int or (rows, columns), optional
        By default the size.
    padding : "valid", "same", int, (rows, columns) or (top, bottom, left, right)
        Zeros that count in the mean, as PyTorch's default has it. Less than the window.
    name : str, optional

    Notes
    -----
    Input (N, C, H, W), output (N, C, P, Q).

    Examples
    --------
    >>> from handgrad.engine import AvgPool2D, Input
    >>> AvgPool2D(2)(Input((6, 28, 28))).shape
    (6, 14, 14)
    """

    kind = "avgpool"
    derivation = derivation
    kernels_alone = True
    takes_one = True
    undoes_activation = True

    def forward(self, share: Share) -> None:
        """Compute z."""
        (x,), z, s = share.x, share.z, share.scratch
        if self.is_padded:
            avgpool2d_forward_padded(x, z, s["rows"], s["columns"], x.dtype.type(self.size[0] * self.size[1]))
        else:
            unpadded(*self.size, z.shape[-1])(x, z, *self.stride)

    def backward(self, share: Share) -> None:
        """Spread each gradient evenly over its window, and take it back through the activation in front."""
        (x,), (dL_dx,), dL_dz, s = share.x, share.dL_dx, share.dL_dz, share.scratch
        if dL_dx is None:
            return
        gradient = gradient_before(share)
        if self.is_padded:
            area = dL_dz.dtype.type(self.size[0] * self.size[1])
            padded_backward(gradient)(x, dL_dz, dL_dx, s["rows"], s["columns"], area)
            return
        overlapping, apart = unpadded_backward(*self.size, gradient)
        backward = apart if self.windows_are_apart(dL_dz, dL_dx) else overlapping
        backward(x, dL_dz, dL_dx, *self.stride)

    def forward_cuda(self, share: Share) -> None:
        """Compute z."""
        (x,), z, s = share.x, share.z, share.scratch
        area = x.dtype.type(self.size[0] * self.size[1])
        avgpool2d_forward_cuda[maps(z.shape)](x, z, s["rows"], s["columns"], area)

    def backward_cuda(self, share: Share) -> None:
        """Collect for each pixel its part of the gradients of the windows that hold it."""
        (dL_dx,), dL_dz, s = share.dL_dx, share.dL_dz, share.scratch
        if dL_dx is not None:
            area = dL_dz.dtype.type(self.size[0] * self.size[1])
            avgpool2d_backward_cuda[maps(dL_dx.shape)](dL_dz, dL_dx, s["rows_back"], s["columns_back"], area)
