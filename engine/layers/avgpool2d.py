"""Average pooling; equations in ``derivations/avgpool2d.py``."""

from __future__ import annotations

from ...derivations import avgpool2d as derivation
from ..backend import LANES, index, kernel, registers
from .layer import Share
from .pool import Pool2D


@kernel
def avgpool2d_forward(x, z, rows, columns, area):
    """z = the sum of each window divided by its area; the border counts as zeros."""
    blocks, C, P, Q, _ = z.shape
    total = registers((LANES,), LANES, x)
    for n in range(blocks):
        for c in range(C):
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    for v in range(LANES):
                        total[v] = 0
                    for i in range(i_from, i_to):
                        for j in range(j_from, j_to):
                            x_ij = x[n, c, index(row + i), index(column + j)]
                            for v in range(LANES):
                                total[v] += x_ij[v]
                    z_hq = z[n, c, h, q]
                    for v in range(LANES):
                        z_hq[v] = total[v] / area  # (avgpool2d.1)


@kernel
def avgpool2d_backward(dL_dz, dL_dx, rows, columns, area):
    """dL/dx[c,a,b] = the sum of dL/dz / area over the windows that hold (a, b)."""
    blocks, C, P, Q, _ = dL_dz.shape
    for n in range(blocks):
        for c in range(C):
            plane = dL_dx[n, c].reshape(-1)
            for k in range(plane.size):
                plane[k] = 0
            for h in range(P):
                row, i_from, i_to = rows[h, 0], rows[h, 1], rows[h, 2]
                for q in range(Q):
                    column, j_from, j_to = columns[q, 0], columns[q, 1], columns[q, 2]
                    dL_dz_hq = dL_dz[n, c, h, q]
                    for i in range(i_from, i_to):
                        for j in range(j_from, j_to):
                            dL_dx_ab = dL_dx[n, c, index(row + i), index(column + j)]
                            for v in range(LANES):
                                dL_dx_ab[v] += dL_dz_hq[v] / area  # (avgpool2d.3)


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

    def forward(self, share: Share) -> None:
        """Compute z."""
        x, s = share.x[0], share.scratch
        avgpool2d_forward(x, share.z, s["rows"], s["columns"], x.dtype.type(self.size[0] * self.size[1]))

    def backward(self, share: Share) -> None:
        """Spread each gradient evenly over its window."""
        s, (dL_dx,) = share.scratch, share.dL_dx
        if dL_dx is not None:
            area = dL_dx.dtype.type(self.size[0] * self.size[1])
            avgpool2d_backward(share.dL_dz, dL_dx, s["rows"], s["columns"], area)
