"""Max pooling; equations in ``derivations/maxpool2d.py``.

The forward pass remembers which offset of each window won, and the backward pass sends the gradient there.
"""

from __future__ import annotations

import numpy as np

from ...derivations import maxpool2d as derivation
from ..backend import LANES, index, kernel, registers
from .layer import Share
from .pool import Pool2D


@kernel
def maxpool2d_forward(x, z, winner, rows, columns, width):
    """z = the largest value of each window; winner = its offset, i * width + j, the first one if several are equal."""
    blocks, C, P, Q, _ = z.shape
    best, best_offset = registers((LANES,), LANES, x), registers((LANES,), LANES, winner)
    for n in range(blocks):
        for c in range(C):
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    first = x[n, c, index(row + i_from), index(column + j_from)]
                    for v in range(LANES):
                        best[v] = first[v]
                        best_offset[v] = np.int32(i_from * width + j_from)
                    for i in range(i_from, i_to):
                        for j in range(j_from, j_to):
                            x_ij = x[n, c, index(row + i), index(column + j)]
                            offset = np.int32(i * width + j)
                            for v in range(LANES):
                                best_offset[v] = offset if x_ij[v] > best[v] else best_offset[v]
                            for v in range(LANES):
                                best[v] = x_ij[v] if x_ij[v] > best[v] else best[v]  # (maxpool2d.1)
                    z_hq, winner_hq = z[n, c, h, q], winner[n, c, h, q]
                    for v in range(LANES):
                        z_hq[v] = best[v]
                        winner_hq[v] = best_offset[v]
            if has_nan(x[n, c].reshape(-1)):
                let_nan_win(x[n, c], z[n, c], winner[n, c], rows, columns, width)


@kernel
def has_nan(values):
    """Whether a sum over the values is no number, which is so whenever one of them is none."""
    total = values.dtype.type(0)
    for k in range(values.size):
        total += values[k]
    return total != total


@kernel
def let_nan_win(x, z, winner, rows, columns, width):
    """In one channel, give each window that holds a NaN to the first of them: comparing with NaN is always false."""
    P, Q, _ = z.shape
    for h in range(P):
        for q in range(Q):
            for i in range(rows[h, 1], rows[h, 2]):
                for j in range(columns[q, 1], columns[q, 2]):
                    for v in range(LANES):
                        x_ij = x[rows[h, 0] + i, columns[q, 0] + j, v]
                        if x_ij != x_ij and z[h, q, v] == z[h, q, v]:
                            z[h, q, v] = x_ij
                            winner[h, q, v] = i * width + j


@kernel
def maxpool2d_backward(dL_dz, winner, dL_dx, rows, columns, width):
    """dL/dx[c,a,b] = the sum of dL/dz over the windows that (a, b) won."""
    blocks, C, P, Q, _ = dL_dz.shape
    zero = dL_dz.dtype.type(0)
    for n in range(blocks):
        for c in range(C):
            plane = dL_dx[n, c].reshape(-1)
            for k in range(plane.size):
                plane[k] = 0
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    dL_dz_hq, winner_hq = dL_dz[n, c, h, q], winner[n, c, h, q]
                    for i in range(i_from, i_to):
                        for j in range(j_from, j_to):
                            dL_dx_ab = dL_dx[n, c, index(row + i), index(column + j)]
                            offset = np.int32(i * width + j)
                            for v in range(LANES):
                                dL_dx_ab[v] += dL_dz_hq[v] if winner_hq[v] == offset else zero  # (maxpool2d.3)


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

    def scratch(self, x_shapes, blocks, dtype) -> dict[str, np.ndarray]:
        """Return the loop bounds and room for the winners' offsets."""
        winner = np.zeros((blocks, *self.output_shape(*x_shapes), LANES), np.int32)
        return {"winner": winner, **super().scratch(x_shapes, blocks, dtype)}

    def forward(self, share: Share) -> None:
        """Compute z and the winners."""
        s = share.scratch
        maxpool2d_forward(share.x[0], share.z, s["winner"], s["rows"], s["columns"], self.size[1])

    def backward(self, share: Share) -> None:
        """Send each gradient to the winner of its window."""
        s, (dL_dx,) = share.scratch, share.dL_dx
        if dL_dx is not None:
            maxpool2d_backward(share.dL_dz, s["winner"], dL_dx, s["rows"], s["columns"], self.size[1])

    def decisions(self, share: Share) -> np.ndarray:
        """Return the winners."""
        return share.scratch["winner"]
