"""Convolution of a single sample; the equation is that of ``derivations/conv2d.py``.

Floor 2. Without other samples beside it, neighbouring positions of one map are the lanes. The image is first copied
into a border of zeros, so that no window leaves it, and with a stride of s every s-th row and column go into a plane of
their own: whatever stride, dilation and padding are, neighbouring windows then read neighbouring numbers, and what the
window at position k reads for (c, i, j) lies at k plus an offset from a table. Windows are laid over whole rows of
these planes, also where they hang over the end of one, so that all positions of a map are one loop over whole vectors;
the sums of those few are not copied to z. The weights are read as they are: packing those of 64 filters of 32 x 3 x 3
takes 58 microseconds, and all the rest for maps of 24 x 24 takes 280.
"""

from __future__ import annotations

import numpy as np

from ..backend import LANES, TILE, copy_lanes, index, kernel, registers
from ..tiles import BESIDE
from .correlation import Correlation

VECTORS = BESIDE  # of LANES positions in a tile, beside TILE filters
POSITIONS = VECTORS * LANES
TILE_SIZE = TILE * POSITIONS


@kernel
def spread_image(x, planes, top, left):
    """Copy x (C, H, B) to planes (C, sh, sw, rows, pitch).

    Pixel (a, b) of the image with its border goes to plane (a mod sh, b mod sw), row a / sh, column b / sw.
    """
    C, H, B = x.shape
    _, sh, sw, _, _ = planes.shape
    for c in range(C):
        for a in range(H):
            row, plane_row = x[c, a], (a + top) // sh
            for r in range(sw):
                first = (r - left) % sw  # the first b that belongs to plane r
                to, q = planes[c, (a + top) % sh, r, plane_row], (first + left) // sw
                for k in range((B - first + sw - 1) // sw):
                    to[index(q + k)] = row[index(first + k * sw)]


@kernel
def conv2d_forward_one(image, W, b, z, maps, offsets, pitch, step, groups):
    """z[o,h,q] = b[o] + Σ W[o,c,i,j] x[c, s h + d i - p, s q + d j - p] for one sample.

    image is planes, flat; a group has step numbers of it. Position k = h pitch + q reads its number for (c, i, j) at
    k + offsets (C/G fh fw,). W (O, C/G fh fw), z (O, P, Q), maps (TILE, at least P pitch) is room for a tile's maps.
    """
    O, P, Q = z.shape
    O_g, acc = O // groups, registers((VECTORS, TILE, LANES), TILE_SIZE, image)
    for g in range(groups):
        last = (g + 1) * O_g - 1
        for o in range(g * O_g, last + 1, TILE):
            for k in range(0, (P - 1) * pitch + Q, POSITIONS):
                for v in range(LANES):
                    for r in range(VECTORS):
                        for t in range(TILE):
                            acc[r, t, v] = b[min(o + t, last)]
                for m in range(offsets.size):
                    at = index(g * step + offsets[m] + k)
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[0, t, v] += W[index(min(o + t, last)), index(m)] * image[at + index(v)]  # (conv2d.1)
                        if VECTORS == 2:
                            for t in range(TILE):
                                acc[1, t, v] += W[index(min(o + t, last)), index(m)] * image[at + index(LANES + v)]
                for r in range(VECTORS):
                    for t in range(TILE):
                        copy_lanes(maps[t, k + r * LANES :], acc[r, t])
            for t in range(min(TILE, last + 1 - o)):
                for h in range(P):
                    z_h, first = z[o + t, h], h * pitch
                    for q in range(Q):
                        z_h[q] = maps[t, index(first + q)]


def planes_shape(sizes: Correlation) -> tuple[int, int, int, int, int]:
    """Return (C, sh, sw, rows, pitch): planes for every sh-th row and sw-th column of the image with its border."""
    (C, H, B), (sh, sw), (top, bottom, left, right) = sizes.x_shape, sizes.stride, sizes.padding
    return C, sh, sw, -(-(top + H + bottom) // sh), -(-(left + B + right) // sw)


def scratch_one(sizes: Correlation, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return room for the planes, whose border stays 0, and for a tile's maps, and the table of offsets.

    The last tile of positions hangs over the end of both by less than POSITIONS.
    """
    (C, sh, sw, rows, pitch), P = planes_shape(sizes), sizes.z_shape[1]
    c, i, j = np.indices((C // sizes.groups, *sizes.kernel_size))
    a, b = sizes.dilation[0] * i, sizes.dilation[1] * j
    offsets = (((c * sh + a % sh) * sw + b % sw) * rows + a // sh) * pitch + b // sw
    return {
        "image": np.zeros(C * sh * sw * rows * pitch + POSITIONS, dtype),
        "maps": np.zeros((TILE, P * pitch + POSITIONS), dtype),
        "offsets": offsets.reshape(-1).astype(np.int64),
    }


def correlate_one(sizes: Correlation, x, W, b, z, scratch: dict[str, np.ndarray]) -> None:
    """Fill z (1, O, P, Q, 1) from x (1, C, H, B, 1)."""
    shape, image, (top, _, left, _) = planes_shape(sizes), scratch["image"], sizes.padding
    spread_image(x.reshape(x.shape[1:4]), image[:-POSITIONS].reshape(shape), top, left)
    step, flat = (image.size - POSITIONS) // sizes.groups, W.reshape(len(W), -1)
    z, tables = z.reshape(z.shape[1:4]), (scratch["maps"], scratch["offsets"])
    conv2d_forward_one(image, flat, b, z, *tables, shape[-1], step, sizes.groups)
