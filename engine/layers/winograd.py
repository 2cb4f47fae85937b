"""Winograd's convolution for 3 x 3 kernels; equations in ``derivations/winograd.py``.

Floor 2. The rung of ``conv2d.py`` above tiles in registers: it takes a quarter of the products. Lanes are samples as
everywhere, so a transform of one patch of pixels transforms 16; a patch passes through registers row by row, first down
its columns, then along its rows. What belongs to one of the 36 points lies together: V (36, channels, LANES) and
M (36, filters, LANES), with U between them, are 36 small matrix products whose sums stay in registers.

The weight gradient is a sum over samples, so there the lanes are 16 channels: a block of samples is turned over first,
and the products, dL/dM as single numbers times V as vectors, need no sum over lanes at the end.

A path for a convolution is chosen by counting what each of them does, in ``Tiling.is_faster``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..arrays import clear
from ..backend import LANES, SQUARE, TILE, copy_lanes, index, kernel, registers, scalar, transpose
from ..scalar import identity
from ..tiles import BESIDE
from .correlation import Correlation
from .elementwise import activation_kernel
from .layer import Shape

PATCHES = BESIDE  # that a tile of products takes beside its filters
TILE_SIZE = TILE * PATCHES * LANES
GRADIENT_SIZE = TILE * LANES
# numbers in registers: four and six vectors, and 4 x 6 and 6 x 6 of them
FOUR, SIX, FOUR_BY_SIX, SIX_BY_SIX = 4 * LANES, 6 * LANES, 24 * LANES, 36 * LANES
TILES_AT_ONCE = 2  # of a row of tiles whose pixels are transformed before their products are taken
NEAR_POINTS = 320 * 1024  # bytes of points that the second cache holds beside the weights
TRANSFORM = 430  # products for which there is time while a patch of one map is copied and transformed, by whole layers
# what of ``Tiling.scratch`` holds nothing from one pass to the next; what has one name is never in use together
PASSING = {
    "U": "weights of points",
    "dL_dU": "weights of points",  # their gradients, of which nothing is left when the mirrored weights are transformed
    "mirrored_U": "weights of points",
    "V": "points of x",
    "V_by_channel": "points of x",
    "mirrored_M": "points of x",
    "M": "points of z",
    "dL_dM": "points of z",
    "mirrored_V": "points of z",
    "by_channel": "planes",
    "x_band": "planes",
    "mirrored_x_band": "planes",
    "z_band": "rows",
    "mirrored_z_band": "rows",
}
MIRRORED = tuple(name for name in PASSING if name.startswith("mirrored"))  # for the input gradient alone


@scalar
def pixels_to_points(d0, d1, d2, d3, d4, d5, two, four):
    """Return Bᵀ d; two and four are of the type of d."""
    even, odd = d4 - four * d2, d3 - four * d1
    p, q = d4 - d2, two * (d3 - d1)
    return four * (d0 - d2) + p, even + odd, even - odd, p + q, p - q, (d5 - d3) - two * q


@scalar
def points_to_outputs(m0, m1, m2, m3, m4, m5, two, four):
    """Return Aᵀ m."""
    s, d, t, e = m1 + m2, m1 - m2, m3 + m4, two * (m3 - m4)
    return m0 + s + t, d + e, s + four * t, d + four * e + m5


@scalar
def outputs_to_points(y0, y1, y2, y3, two, four):
    """Return A y."""
    even, odd = y0 + y2, y1 + y3
    s, d = y0 + four * y2, two * (y1 + four * y3)
    return y0, even + odd, even - odd, s + d, s - d, y3


@scalar
def weights_to_points(w0, w1, w2, quarter, sixth):
    """Return G w."""
    s, d = sixth * (w0 + w2), sixth * w1
    t, e = quarter * sixth * w0 + sixth * w2, (quarter + quarter) * d
    return quarter * w0, -s - d, d - s, t + e, t - e, w2


@scalar
def points_to_weights(u0, u1, u2, u3, u4, u5, quarter, sixth):
    """Return Gᵀ u."""
    s, d, t, e = sixth * (u1 + u2), sixth * (u2 - u1), sixth * (u3 + u4), sixth * (u3 - u4)
    return quarter * (u0 + t) - s, d + (quarter + quarter) * e, t - s + u5


@kernel
def transform_weights(W, U, is_mirrored):
    """U[k] = G W Gᵀ, packed as (36, tiles, C + 1, TILE): filter o is number o % TILE of its tile.

    Mirrored, filters and channels change places, and the kernel is turned by 180 degrees.
    """
    O, C = W.shape[is_mirrored], W.shape[1 - is_mirrored]
    half = registers((6, 3), 18, W)
    one = W.dtype.type(1)
    quarter, sixth = one / W.dtype.type(4), one / W.dtype.type(6)
    for o in range(O):
        tile, t = o // TILE, o % TILE
        for c in range(C):
            for j in range(3):
                if is_mirrored:
                    w0, w1, w2 = W[c, o, 2, 2 - j], W[c, o, 1, 2 - j], W[c, o, 0, 2 - j]  # (winograd.10)
                else:
                    w0, w1, w2 = W[o, c, 0, j], W[o, c, 1, j], W[o, c, 2, j]
                numbers = weights_to_points(w0, w1, w2, quarter, sixth)
                half[0, j], half[1, j], half[2, j], half[3, j], half[4, j], half[5, j] = numbers
            for k in range(6):
                numbers = weights_to_points(half[k, 0], half[k, 1], half[k, 2], quarter, sixth)  # (winograd.3)
                U[6 * k, tile, c, t], U[6 * k + 1, tile, c, t], U[6 * k + 2, tile, c, t] = numbers[:3]
                U[6 * k + 3, tile, c, t], U[6 * k + 4, tile, c, t], U[6 * k + 5, tile, c, t] = numbers[3:]


@kernel
def cut_out(maps, size, corner, stretch, nothing, band):
    """Copy some rows of every map to a band; zeros where there is no map.

    maps (maps, pixels, LANES) have size (rows, columns). The band (maps, rows, columns, LANES) slides down over them,
    from the corner (row, column) on: of the stretch (first, stop) of rows below that, row h is row h % rows of the
    band, in place of the one that has left it.
    """
    (H, B), (top, left), (count, rows, columns, _) = size, corner, band.shape
    first = min(max(0, -left), columns)
    stop = max(first, min(columns, B - left))
    for c in range(count):
        for h in range(stretch[0], stretch[1]):
            row, start = band[index(c), index(h % rows)], (top + h) * B + left
            is_inside = 0 <= top + h < H
            for k in range(first if is_inside else columns):
                copy_lanes(row[index(k)], nothing)
            if is_inside:
                for k in range(first, stop):
                    copy_lanes(row[index(k)], maps[index(c), index(start + k)])
                for k in range(stop, columns):
                    copy_lanes(row[index(k)], nothing)


@kernel
def put_back(band, Q, stretch, maps):
    """Copy a stretch of rows of every map, Q pixels each, from a band as that of ``cut_out``; maps (O, P Q, LANES)."""
    rows = band.shape[1]
    for o in range(len(maps)):
        for h in range(stretch[0], stretch[1]):
            row = band[index(o), index(h % rows)]
            for k in range(Q):
                copy_lanes(maps[index(o), index(h * Q + k)], row[index(k)])


@kernel
def transform_pixels(x, h, q, V, first):
    """V[:, first + c] = Bᵀ d B for the 6 x 6 pixels d of every map c whose rows begin with h and columns with q.

    x (maps, 6, columns, LANES) is a band as that of ``cut_out``, V (36, rows, LANES).
    """
    h_0, h_1, h_2 = index(h % 6), index((h + 1) % 6), index((h + 2) % 6)
    h_3, h_4, h_5 = index((h + 3) % 6), index((h + 4) % 6), index((h + 5) % 6)
    d, line = registers((6, 6, LANES), SIX_BY_SIX, x), registers((6, LANES), SIX, x)
    one = x.dtype.type(1)
    two, four = one + one, one + one + one + one
    for c in range(len(x)):
        x_c = x[index(c)]
        for j in range(6):
            at = index(q + j)
            x_0, x_1, x_2 = x_c[h_0, at], x_c[h_1, at], x_c[h_2, at]
            x_3, x_4, x_5 = x_c[h_3, at], x_c[h_4, at], x_c[h_5, at]
            for v in range(LANES):
                d[0, j, v], d[1, j, v], d[2, j, v], d[3, j, v], d[4, j, v], d[5, j, v] = pixels_to_points(
                    x_0[v], x_1[v], x_2[v], x_3[v], x_4[v], x_5[v], two, four
                )
        for k in range(6):
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = pixels_to_points(
                    d[k, 0, v], d[k, 1, v], d[k, 2, v], d[k, 3, v], d[k, 4, v], d[k, 5, v], two, four
                )  # (winograd.2)
            for m in range(6):
                copy_lanes(V[index(6 * k + m), index(first + c)], line[m])


@kernel
def multiply_points(U, V, M, C, patches):
    """M[k] = U[k] V[k] for every point k of some patches; each has C rows of V, and as many of M as U has filters."""
    points, tiles, _, _ = U.shape
    rows = tiles * TILE
    acc = registers((PATCHES, TILE, LANES), TILE_SIZE, V)
    for k in range(points):
        for patch in range(0, patches, PATCHES):
            next_patch = min(patch + PATCHES, patches) - 1
            for tile in range(tiles):
                U_k = U[k, tile]
                for v in range(LANES):
                    for m in range(PATCHES):
                        for t in range(TILE):
                            acc[m, t, v] = 0
                for c in range(C):
                    u, V_c, V_next = U_k[index(c)], V[k, index(patch * C + c)], V[k, index(next_patch * C + c)]
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[0, t, v] += u[t] * V_c[v]  # (winograd.4)
                        if PATCHES == 2:
                            for t in range(TILE):
                                acc[1, t, v] += u[t] * V_next[v]
                for t in range(TILE):
                    copy_lanes(M[k, index(patch * rows + tile * TILE + t)], acc[0, t])
                    if PATCHES == 2:
                        copy_lanes(M[k, index(next_patch * rows + tile * TILE + t)], acc[PATCHES - 1, t])


@kernel
def transform_products(M, first, b, z, q):
    """z[o,:,q:q+4] = b[o] + Aᵀ M[:, first + o] A for every filter o; z (O, 4, columns, LANES)."""
    d, line = registers((4, 6, LANES), FOUR_BY_SIX, z), registers((4, LANES), FOUR, z)
    one = z.dtype.type(1)
    two, four = one + one, one + one + one + one
    for o in range(len(z)):
        bias, at = b[o], index(first + o)
        for m in range(6):
            M_0, M_1, M_2 = M[index(m), at], M[index(6 + m), at], M[index(12 + m), at]
            M_3, M_4, M_5 = M[index(18 + m), at], M[index(24 + m), at], M[index(30 + m), at]
            for v in range(LANES):
                d[0, m, v], d[1, m, v], d[2, m, v], d[3, m, v] = points_to_outputs(
                    M_0[v], M_1[v], M_2[v], M_3[v], M_4[v], M_5[v], two, four
                )
        for i in range(4):
            for v in range(LANES):
                z_0, z_1, z_2, z_3 = points_to_outputs(
                    d[i, 0, v], d[i, 1, v], d[i, 2, v], d[i, 3, v], d[i, 4, v], d[i, 5, v], two, four
                )
                line[0, v], line[1, v], line[2, v], line[3, v] = z_0 + bias, z_1 + bias, z_2 + bias, z_3 + bias
            for j in range(4):
                copy_lanes(z[index(o), i, index(q + j)], line[j])  # (winograd.5)


@functools.cache
def forward_kernel(activation):
    """Return the kernel for the activation that follows."""
    IS_ACTIVATED = activation is not identity
    activate_rows = activation_kernel(activation)

    @kernel
    def winograd_forward(x, U, b, z, sizes, corner, x_band, z_band, flat_z_band, V, M, nothing):
        """z = activation(b + W * x) for all samples; x (blocks, C, H W, LANES), z (blocks, O, P Q, LANES).

        sizes are (H, W) and (P, Q), corner the padding above and to the left. The rows that a row of tiles reads
        and writes have copies, the bands, (maps, rows, columns, LANES), with a border: no tile leaves them. Besides, a
        tile touches some pixels of many rows of many maps, for which memory is not prepared. flat_z_band is z_band,
        (O, numbers).
        """
        (size, (P, Q)), (top, left), (blocks, C, _, _) = sizes, corner, x.shape
        filters, width = U.shape[1] * TILE, z_band.shape[2]
        for n in range(blocks):
            for h in range(0, P, 4):
                cut_out(x[n], size, (-top, -left), (h + 2 if h else 0, h + 6), nothing, x_band)
                for q in range(0, Q, 4 * TILES_AT_ONCE):
                    patches = min(TILES_AT_ONCE, (Q - q + 3) // 4)
                    for patch in range(patches):
                        transform_pixels(x_band, h, q + 4 * patch, V, patch * C)
                    multiply_points(U, V, M, C, patches)
                    for patch in range(patches):
                        transform_products(M, patch * filters, b, z_band, q + 4 * patch)
                rows = min(4, P - h)
                if IS_ACTIVATED:
                    activate_rows(flat_z_band, 0, rows * width * LANES)
                put_back(z_band, Q, (h, h + rows), z[n])

    return winograd_forward


@kernel
def turn_over(x, size, corner, stretch, nothing, bands):
    """Exchange samples and channels of rows of a block; else as ``cut_out``.

    x (C, pixels, LANES), bands (groups, LANES, rows, columns, 16 channels). The maps of x are a power of two apart for
    the usual sizes, and push each other out of the cache; so each line is touched once, and numbers change places in
    registers.
    """
    C, (H, B), (top, left), (groups, _, rows, columns, _) = len(x), size, corner, bands.shape
    square = registers((LANES, LANES), SQUARE, x)
    for g in range(groups):
        band = bands[g]
        for h in range(stretch[0], stretch[1]):
            for k in range(columns):
                if 0 <= top + h < H and 0 <= left + k < B:
                    for c in range(LANES):
                        of_c = x[index(min(g * LANES + c, C - 1))]
                        copy_lanes(square[c], of_c[index((top + h) * B + left + k)])
                    transpose(square)
                    for v in range(LANES):
                        copy_lanes(band[index(v), index(h % rows), index(k)], square[v])
                else:
                    for v in range(LANES):
                        copy_lanes(band[index(v), index(h % rows), index(k)], nothing)


@kernel
def transform_gradients(dL_dz, q, dL_dM, first):
    """dL/dM[:, o, first:] = A dL/dz[o,:,q:q+4] Aᵀ for every filter o; dL_dz (O, 4, columns, LANES)."""
    d, line = registers((6, 4, LANES), FOUR_BY_SIX, dL_dz), registers((6, LANES), SIX, dL_dz)
    one = dL_dz.dtype.type(1)
    two, four = one + one, one + one + one + one
    for o in range(len(dL_dz)):
        y = dL_dz[index(o)]
        for j in range(4):
            y_0, y_1, y_2, y_3 = y[0, index(q + j)], y[1, index(q + j)], y[2, index(q + j)], y[3, index(q + j)]
            for v in range(LANES):
                d[0, j, v], d[1, j, v], d[2, j, v], d[3, j, v], d[4, j, v], d[5, j, v] = outputs_to_points(
                    y_0[v], y_1[v], y_2[v], y_3[v], two, four
                )
        for k in range(6):
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = outputs_to_points(
                    d[k, 0, v], d[k, 1, v], d[k, 2, v], d[k, 3, v], two, four
                )  # (winograd.6)
            for m in range(6):
                copy_lanes(dL_dM[index(6 * k + m), index(o), first : first + LANES], line[m])


@kernel
def multiply_gradients(dL_dM, V, samples, dL_dU):
    """dL/dU[k,o,c] += Σ dL/dM[k,o] V[k,c] over so many samples and tiles.

    dL_dM (36, O + 1, samples), V (36, groups samples + 1, 16 channels), dL_dU (36, groups, O + 1, 16 channels).
    """
    points, groups, padded, _ = dL_dU.shape
    O = padded - 1
    acc = registers((TILE, LANES), GRADIENT_SIZE, V)
    for k in range(points):
        for g in range(groups):
            for o in range(0, O, TILE):
                for t in range(TILE):
                    copy_lanes(acc[t], dL_dU[index(k), index(g), index(min(o + t, O - 1))])
                for s in range(samples):
                    V_s = V[index(k), index(g * samples + s)]
                    for v in range(LANES):
                        for t in range(TILE):
                            acc[t, v] += dL_dM[index(k), index(min(o + t, O - 1)), index(s)] * V_s[v]  # (winograd.7)
                for t in range(TILE - 1, -1, -1):
                    copy_lanes(dL_dU[index(k), index(g), index(min(o + t, O - 1))], acc[t])


@kernel
def back_to_weights(dL_dU, dL_dW):
    """dL/dW = Gᵀ dL/dU G; dL_dU (36, groups, O + 1, 16 channels)."""
    O, C, _, _ = dL_dW.shape
    half = registers((3, 6), 18, dL_dW)
    one = dL_dW.dtype.type(1)
    quarter, sixth = one / dL_dW.dtype.type(4), one / dL_dW.dtype.type(6)
    for o in range(O):
        for c in range(C):
            u = dL_dU[:, c // LANES, o, c % LANES]
            for m in range(6):
                half[0, m], half[1, m], half[2, m] = points_to_weights(
                    u[m], u[6 + m], u[12 + m], u[18 + m], u[24 + m], u[30 + m], quarter, sixth
                )
            for i in range(3):
                dL_dW[o, c, i, 0], dL_dW[o, c, i, 1], dL_dW[o, c, i, 2] = points_to_weights(
                    half[i, 0], half[i, 1], half[i, 2], half[i, 3], half[i, 4], half[i, 5], quarter, sixth
                )  # (winograd.8)


@kernel
def winograd_weight_gradient(x, dL_dz, sizes, corner, by_channel, z_band, V, dL_dM, dL_dU, nothing):
    """Add to dL_dU for all samples; x (blocks, C, H W, LANES), dL_dz (blocks, O, P Q, LANES).

    by_channel (groups, LANES, 6, columns, 16 channels) and z_band (O, 4, columns, LANES) are bands as in
    ``winograd_forward``, the former turned over.
    """
    (size, (P, Q)), (top, left), blocks, groups = sizes, corner, len(x), len(by_channel)
    patches = dL_dM.shape[2] // LANES
    samples = patches * LANES
    for n in range(blocks):
        for h in range(0, P, 4):
            turn_over(x[n], size, (-top, -left), (h + 2 if h else 0, h + 6), nothing, by_channel)
            cut_out(dL_dz[n], (P, Q), (0, 0), (h, h + 4), nothing, z_band)
            for q in range(0, Q, 4 * patches):
                for patch in range(patches):
                    for g in range(groups):
                        transform_pixels(by_channel[g], h, q + 4 * patch, V, (g * patches + patch) * LANES)
                    transform_gradients(z_band, q + 4 * patch, dL_dM, patch * LANES)
                multiply_gradients(dL_dM, V, samples, dL_dU)


@dataclass(frozen=True)
class Tiling:
    """A convolution that is done in tiles of 4 x 4 outputs.

    Attributes
    ----------
    x_shape, z_shape : (channels, rows, columns)
    top, left : int
        Padding above and to the left.
    """

    x_shape: Shape
    z_shape: Shape
    top: int
    left: int

    @classmethod
    def of(cls, sizes: Correlation) -> Tiling | None:
        """Return the tiling of a convolution, or None where tiles of outputs do not fit it or would take longer."""
        if (sizes.kernel_size, sizes.stride, sizes.dilation, sizes.groups) != ((3, 3), (1, 1), (1, 1), 1):
            return None
        tiling = cls(sizes.x_shape, sizes.z_shape, sizes.padding[0], sizes.padding[2])
        return tiling if tiling.is_faster else None

    @property
    def is_faster(self) -> bool:
        """Whether products and transforms take less time than nine products for each output."""
        (C, _, _), (O, P, Q) = self.x_shape, self.z_shape
        return -(-P // 4) * -(-Q // 4) * (36 * C * O + TRANSFORM * (C + O)) < 9 * P * Q * C * O

    @property
    def _patches(self) -> int:
        """How many patches of a row the weight gradient takes at once: their points stay in the second cache."""
        across = -(-self.z_shape[2] // 4)
        bytes_each = 4 * 36 * LANES * (-(-self.x_shape[0] // LANES) * LANES + self.z_shape[0])
        at_once = max(1, min(across, NEAR_POINTS // bytes_each))
        return -(-across // -(-across // at_once))

    def scratch(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Return room for transformed weights, points of some patches, and bands of x, turned over as well, and z.

        Most have a row or a column more than they need: else the points of one patch would often be a power of two
        apart, and push each other out of the cache (storing those of dL/dM took six times as long).
        """
        (C, _, B), (O, _, Q) = self.x_shape, self.z_shape
        groups, samples = -(-C // LANES), self._patches * LANES
        tiles_of_O, tiles_of_C = -(-O // TILE), -(-C // TILE)
        width = -(-Q // (4 * self._patches)) * 4 * self._patches
        mirrored_width = -(-B // 4) * 4
        return {
            "U": np.zeros((36, tiles_of_O, C + 1, TILE), dtype),
            "V": np.zeros((36, TILES_AT_ONCE * C + 1, LANES), dtype),
            "M": np.zeros((36, TILES_AT_ONCE * tiles_of_O * TILE + 1, LANES), dtype),
            "mirrored_U": np.zeros((36, tiles_of_C, O + 1, TILE), dtype),
            "mirrored_V": np.zeros((36, TILES_AT_ONCE * O + 1, LANES), dtype),
            "mirrored_M": np.zeros((36, TILES_AT_ONCE * tiles_of_C * TILE + 1, LANES), dtype),
            "V_by_channel": np.zeros((36, groups * samples + 1, LANES), dtype),
            "dL_dM": np.zeros((36, O + 1, samples), dtype),
            "dL_dU": np.zeros((36, groups, O + 1, LANES), dtype),
            "by_channel": np.zeros((groups, LANES, 6, width + 2, LANES), dtype),
            "x_band": np.zeros((C, 6, width + 2, LANES), dtype),
            "z_band": np.zeros((O, 4, width + 1, LANES), dtype),
            "mirrored_x_band": np.zeros((O, 6, mirrored_width + 2, LANES), dtype),
            "mirrored_z_band": np.zeros((C, 4, mirrored_width + 1, LANES), dtype),
            "nothing": np.zeros(LANES, dtype),
            "no_bias": np.zeros(C, dtype),
        }

    def forward(self, x, W, b, z, scratch: dict[str, np.ndarray], activation=identity) -> None:
        """Fill z from x; with an activation, what follows from z."""
        transform_weights(W, scratch["U"], 0)
        _convolve(x, b, z, (self.top, self.left), scratch, "", activation)

    def input_gradient(self, W, dL_dz, dL_dx, scratch: dict[str, np.ndarray]) -> None:
        """Fill dL_dx from dL_dz."""
        transform_weights(W, scratch["mirrored_U"], 1)
        _convolve(dL_dz, scratch["no_bias"], dL_dx, (2 - self.top, 2 - self.left), scratch, "mirrored_")

    def weight_gradient(self, x, dL_dz, dL_dW, scratch: dict[str, np.ndarray]) -> None:
        """Fill dL_dW from x and dL_dz."""
        dL_dU, sizes = scratch["dL_dU"], (x.shape[2:4], dL_dz.shape[2:4])
        copies, points = (scratch["by_channel"], scratch["z_band"]), (scratch["V_by_channel"], scratch["dL_dM"])
        clear(dL_dU.reshape(-1))
        corner, nothing = (self.top, self.left), scratch["nothing"]
        winograd_weight_gradient(_maps(x), _maps(dL_dz), sizes, corner, *copies, *points, dL_dU, nothing)
        back_to_weights(dL_dU, dL_dW)


def _convolve(x, b, z, corner, scratch: dict[str, np.ndarray], which: str, activation=identity) -> None:
    """Fill z from x and transformed weights, with so many rows and columns of zeros above and to the left."""
    U, V, M, x_band, z_band = (scratch[which + name] for name in ("U", "V", "M", "x_band", "z_band"))
    room = x_band, z_band, z_band.reshape(len(z_band), -1), V, M, scratch["nothing"]
    sizes = x.shape[2:4], z.shape[2:4]
    forward_kernel(activation)(_maps(x), U, b, _maps(z), sizes, corner, *room)


def _maps(array):
    """Return an array (blocks, maps, rows, columns, LANES) with the pixels of a map in one axis."""
    return array.reshape(*array.shape[:2], -1, LANES)
