"""Upsampling by copies or by bilinear interpolation; equations in ``derivations/upsample2d.py``.

The nearest method needs no weights, and its loops run over the input. The bilinear kernels read which lines (rows or
columns) count, and how much, from tables that are made when the buffers are allocated: forward for each output line
the two input lines that it lies between, backward for each input line the output lines in which it occurs.

Ladder of the bilinear backward pass (32 samples, 64 maps of 28 x 28, scale 2, one core): adding each output's gradient
to its four pixels took 13.4 ms; gathering the gradient of each pixel from all its outputs, so that the sum stays in
registers, 9.4 ms; the same with rows first and then columns, 6.3 ms; and with whole rows as one loop over pixels and
lanes, 4.0 ms.
"""

from __future__ import annotations

import numpy as np

from ...derivations import upsample2d as derivation
from ..backend import LANES, index, kernel, registers
from ..checks import ConfigurationError
from ..cuda import cuda_kernel, maps, position
from .layer import Layer, Shape, Share, require_image
from .window import pair_of_integers

METHODS = ("nearest", "bilinear")


@kernel
def nearest_forward(x, z, s_h, s_w):
    """z = s_h x s_w copies of each pixel; x (blocks, C, H, W, LANES), z (blocks, C, s_h H, s_w W, LANES).

    All lanes of a pixel are read before they are written, so that both are one step: up to 3 times as fast.
    """
    blocks, C, H, B, _ = x.shape
    pixel = registers((LANES,), LANES, x)
    for n in range(blocks):
        for c in range(C):
            for a in range(H):
                for h in range(s_h * a, s_h * a + s_h):  # (upsample2d.2)
                    for b in range(B):
                        for q in range(s_w * b, s_w * b + s_w):
                            for v in range(LANES):
                                pixel[v] = x[n, c, a, b, v]
                            for v in range(LANES):
                                z[n, c, index(h), index(q), v] = pixel[v]  # (upsample2d.1)


@kernel
def nearest_backward(dL_dz, dL_dx, s_h, s_w):
    """dL/dx = the sum of dL/dz over the copies of each pixel."""
    blocks, C, H, B, _ = dL_dx.shape
    zero, total = dL_dz.dtype.type(0), registers((LANES,), LANES, dL_dz)
    for n in range(blocks):
        for c in range(C):
            for a in range(H):
                for b in range(B):
                    for v in range(LANES):
                        total[v] = zero
                    for h in range(s_h * a, s_h * a + s_h):
                        for q in range(s_w * b, s_w * b + s_w):
                            for v in range(LANES):
                                total[v] += dL_dz[n, c, index(h), index(q), v]
                    for v in range(LANES):
                        dL_dx[n, c, a, b, v] = total[v]  # (upsample2d.6)


@cuda_kernel
def nearest_forward_cuda(x, z, s_h, s_w):
    """z = s_h x s_w copies of each pixel, one thread for each pixel."""
    n, c, a, b, v = position(x.shape[1])
    if b < x.shape[3]:
        pixel = x[n, c, a, b, v]
        for h in range(s_h * a, s_h * a + s_h):  # (upsample2d.2)
            for q in range(s_w * b, s_w * b + s_w):
                z[n, c, h, q, v] = pixel  # (upsample2d.1)


@cuda_kernel
def nearest_backward_cuda(dL_dz, dL_dx, s_h, s_w):
    """dL/dx = the sum of dL/dz over the copies of each pixel, one thread for each pixel."""
    n, c, a, b, v = position(dL_dx.shape[1])
    if b < dL_dx.shape[3]:
        total = dL_dz.dtype.type(0)
        for h in range(s_h * a, s_h * a + s_h):
            for q in range(s_w * b, s_w * b + s_w):
                total += dL_dz[n, c, h, q, v]
        dL_dx[n, c, a, b, v] = total  # (upsample2d.6)


@kernel
def bilinear_forward(x, z, rows, row_weights, columns, column_weights, line):
    """z = the weighted mean of four pixels; the tables as :func:`between` returns them.

    ``line`` (W, LANES) is room for the weighted mean of the two rows that row h of the output lies between.
    """
    blocks, C, P, Q, _ = z.shape
    numbers = line.reshape(-1)
    for n in range(blocks):
        for c in range(C):
            for h in range(P):
                upper, lower = x[n, c, index(rows[h, 0])].reshape(-1), x[n, c, index(rows[h, 1])].reshape(-1)
                u_0, u_1 = row_weights[h, 0], row_weights[h, 1]
                for k in range(numbers.size):
                    numbers[k] = u_0 * upper[k] + u_1 * lower[k]
                for q in range(Q):
                    left, right = line[index(columns[q, 0])], line[index(columns[q, 1])]
                    v_0, v_1 = column_weights[q, 0], column_weights[q, 1]
                    for v in range(LANES):
                        z[n, c, h, q, v] = v_0 * left[v] + v_1 * right[v]  # (upsample2d.1)


@kernel
def bilinear_backward(dL_dz, dL_dx, rows, row_weights, columns, column_weights, line):
    """dL/dx = the weighted sum over the outputs in which a pixel occurs; the tables as :func:`readers` returns them.

    ``line`` (Q, LANES) is room for the weighted sum of all rows of dL/dz in which row a of the input occurs.
    """
    blocks, C, H, B, _ = dL_dx.shape
    zero, total, numbers = dL_dz.dtype.type(0), registers((LANES,), LANES, dL_dz), line.reshape(-1)
    for n in range(blocks):
        for c in range(C):
            for a in range(H):
                for k in range(numbers.size):
                    numbers[k] = zero
                for i in range(rows[a, 1]):
                    row, u = dL_dz[n, c, index(rows[a, 0] + i)].reshape(-1), row_weights[a, i]
                    for k in range(numbers.size):
                        numbers[k] += u * row[k]
                for b in range(B):
                    for v in range(LANES):
                        total[v] = zero
                    for j in range(columns[b, 1]):
                        q, v_b = index(columns[b, 0] + j), column_weights[b, j]
                        for v in range(LANES):
                            total[v] += v_b * line[q, v]
                    for v in range(LANES):
                        dL_dx[n, c, a, b, v] = total[v]  # (upsample2d.6)


@cuda_kernel
def bilinear_forward_cuda(x, z, rows, row_weights, columns, column_weights):
    """z = the weighted mean of four pixels, one thread for each output; the tables as :func:`between` returns them."""
    n, c, h, q, v = position(z.shape[1])
    if q < z.shape[3]:
        upper, lower, left, right = rows[h, 0], rows[h, 1], columns[q, 0], columns[q, 1]
        u_0, u_1 = row_weights[h, 0], row_weights[h, 1]
        at_left = u_0 * x[n, c, upper, left, v] + u_1 * x[n, c, lower, left, v]
        at_right = u_0 * x[n, c, upper, right, v] + u_1 * x[n, c, lower, right, v]
        z[n, c, h, q, v] = column_weights[q, 0] * at_left + column_weights[q, 1] * at_right  # (upsample2d.1)


@cuda_kernel
def bilinear_backward_cuda(dL_dz, dL_dx, rows, row_weights, columns, column_weights):
    """dL/dx = the weighted sum over the outputs in which a pixel occurs, one thread for each pixel.

    The tables as :func:`readers` returns them.
    """
    n, c, a, b, v = position(dL_dx.shape[1])
    if b < dL_dx.shape[3]:
        zero = dL_dz.dtype.type(0)
        total = zero
        for j in range(columns[b, 1]):
            q, of_column = columns[b, 0] + j, zero
            for i in range(rows[a, 1]):
                of_column += row_weights[a, i] * dL_dz[n, c, rows[a, 0] + i, q, v]
            total += column_weights[b, j] * of_column
        dL_dx[n, c, a, b, v] = total  # (upsample2d.6)


def between(n: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two input lines that each output line lies between, and their weights.

    An output line on the centre of an input line has this line twice, each with half the weight: its neighbour does
    not count, and if it is infinite, 0 times ∞ must not come in.

    Parameters
    ----------
    n, s : int
        Number of input lines, and the scale.

    Returns
    -------
    lines : numpy.ndarray of shape (n s, 2), int64
    weights : numpy.ndarray of shape (n s, 2), float64
    """
    two_s_y = 2 * np.arange(n * s) + 1 - s  # (upsample2d.3)
    clamped = np.clip(two_s_y, 0, 2 * s * (n - 1))
    a = clamped // (2 * s)
    beyond = (clamped - 2 * s * a) / (2 * s)  # how far the output line lies beyond the centre of line a
    on_centre = beyond == 0
    lines = np.stack([a, np.where(on_centre, a, a + 1)], axis=1)
    weights = np.where(on_centre[:, None], 1 / 2, np.stack([1 - beyond, beyond], axis=1))  # (upsample2d.4)
    return lines.astype(np.int64), weights


def readers(lines: np.ndarray, weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same weights by input line: the transposed matrix.

    Parameters
    ----------
    lines, weights : numpy.ndarray
        As :func:`between` returns them.
    n : int
        Number of input lines.

    Returns
    -------
    ranges : numpy.ndarray of shape (n, 2), int64
        The first output line in which each input line occurs, and how many there are; they follow one another.
    weights : numpy.ndarray, float64
        One row for each input line, filled up with zeros.
    """
    found: list[dict[int, float]] = [{} for _ in range(n)]
    for h in range(len(lines)):
        for a, weight in zip(lines[h], weights[h], strict=True):
            found[a][h] = found[a].get(h, 0.0) + weight
    ranges = np.array([(min(outputs), len(outputs)) for outputs in found], dtype=np.int64)
    by_input = np.zeros((n, ranges[:, 1].max()))
    for a, outputs in enumerate(found):
        by_input[a, : len(outputs)] = list(outputs.values())
    return ranges, by_input


class Upsample2D(Layer):
    """Enlarge each feature map by whole factors.

    Parameters
    ----------
    scale : int or (rows, columns)
        How many times as high and as wide.
    method : {"nearest", "bilinear"}
        Copies of each pixel, or interpolation between the centres of pixels.
    name : str, optional

    Raises
    ------
    ConfigurationError
        When the scale is not one or two positive integers, or there is no such method.

    Notes
    -----
    Input (N, C, H, W), output (N, C, s_h H, s_w W). Pixels are squares with their values in the centres, and the
    border is repeated outwards: PyTorch's ``interpolate`` with ``align_corners=False``, Keras's ``UpSampling2D``.

    References
    ----------
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015.

    Examples
    --------
    >>> from handgrad.engine import Input, Upsample2D
    >>> Upsample2D(2)(Input((64, 7, 7))).shape
    (64, 14, 14)
    >>> Upsample2D((1, 4), method="bilinear")(Input((3, 8, 8))).shape
    (3, 8, 32)
    """

    kind = "upsample"
    derivation = derivation
    kernels_alone = True

    def __init__(self, scale: int | tuple[int, int], *, method: str = "nearest", name: str | None = None):
        super().__init__(name)
        self.scale = pair_of_integers(self, "scale", scale)
        if method not in METHODS:
            raise ConfigurationError(f"{self}: method", got=repr(method), expected='"nearest" or "bilinear"')
        self.method = method

    def output_shape(self, x_shape: Shape) -> Shape:
        """Return (C, P, Q)."""
        C, H, B = require_image(self, x_shape)
        return C, self.scale[0] * H, self.scale[1] * B

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the tables of the bilinear kernels and room for one row each way."""
        if self.method == "nearest":
            return {}
        W = x_shapes[0][2]
        lines = {"line": np.empty((W, LANES), dtype), "line_back": np.empty((self.scale[1] * W, LANES), dtype)}
        return self._tables(*x_shapes, dtype) | lines

    def scratch_cuda(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the tables of the bilinear kernels."""
        return {} if self.method == "nearest" else self._tables(*x_shapes, dtype)

    def _tables(self, x_shape: Shape, dtype) -> dict[str, np.ndarray]:
        arrays, (_, *sizes) = {}, x_shape
        for side, n, s in zip(("rows", "columns"), sizes, self.scale, strict=True):
            lines, weights = between(n, s)
            ranges, by_input = readers(lines, weights, n)
            arrays |= {side: lines, f"{side}_u": weights.astype(dtype)}
            arrays |= {f"{side}_back": ranges, f"{side}_back_u": by_input.astype(dtype)}
        return arrays

    def forward(self, share: Share) -> None:
        """Compute z."""
        (x,), s = share.x, share.scratch
        if self.method == "nearest":
            nearest_forward(x, share.z, *self.scale)
        else:
            bilinear_forward(x, share.z, s["rows"], s["rows_u"], s["columns"], s["columns_u"], s["line"])

    def backward(self, share: Share) -> None:
        """Collect the gradient of each pixel from the outputs in which it occurs."""
        (dL_dx,), dL_dz, s = share.dL_dx, share.dL_dz, share.scratch
        if dL_dx is None:
            return
        if self.method == "nearest":
            nearest_backward(dL_dz, dL_dx, *self.scale)
        else:
            rows, columns = (s["rows_back"], s["rows_back_u"]), (s["columns_back"], s["columns_back_u"])
            bilinear_backward(dL_dz, dL_dx, *rows, *columns, s["line_back"])

    def forward_cuda(self, share: Share) -> None:
        """Compute z."""
        (x,), z, s = share.x, share.z, share.scratch
        if self.method == "nearest":
            nearest_forward_cuda[maps(x.shape)](x, z, *self.scale)
        else:
            tables = s["rows"], s["rows_u"], s["columns"], s["columns_u"]
            bilinear_forward_cuda[maps(z.shape)](x, z, *tables)

    def backward_cuda(self, share: Share) -> None:
        """Collect the gradient of each pixel from the outputs in which it occurs."""
        (dL_dx,), dL_dz, s = share.dL_dx, share.dL_dz, share.scratch
        if dL_dx is None:
            return
        if self.method == "nearest":
            nearest_backward_cuda[maps(dL_dx.shape)](dL_dz, dL_dx, *self.scale)
        else:
            tables = s["rows_back"], s["rows_back_u"], s["columns_back"], s["columns_back_u"]
            bilinear_backward_cuda[maps(dL_dx.shape)](dL_dz, dL_dx, *tables)

    def literal_options(self, share: Share | None = None, sample: int = 0) -> dict[str, object]:
        """Return scale and method."""
        return {"scale": self.scale, "method": self.method}

    def unused_equations(self, training: bool) -> set[str]:
        """Return the weights of the other method."""
        return {"upsample2d.3", "upsample2d.4"} if self.method == "nearest" else {"upsample2d.2"}

    def settings(self) -> dict[str, object]:
        """Return scale and method."""
        return self.literal_options()
