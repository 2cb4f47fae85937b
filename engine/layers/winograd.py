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
# numbers in registers: six vectors, and 4 x 6 and 6 x 6 of them
SIX, FOUR_BY_SIX, SIX_BY_SIX = 6 * LANES, 24 * LANES, 36 * LANES
TILES_AT_ONCE = 2  # of a row of tiles whose pixels are transformed before their products are taken
NEAR_POINTS = 320 * 1024  # bytes of points that the second cache holds beside the weights
TRANSFORM = 320  # products for which there is time while one patch is transformed, measured: 100 to 130 ns
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
def copy_pixels(source, first, target, at, count):
    """Copy so many pixels of every map; both (maps, pixels, LANES)."""
    for c in range(len(target)):
        for k in range(count):
            copy_lanes(target[index(c), index(at + k)], source[index(c), index(first + k)])


@kernel
def transform_pixels(x, size, nothing, corner, V, first):
    """V[:, first + c] = Bᵀ d B for 6 x 6 pixels d of every map c, from a corner on; zeros where there are none.

    x (maps, pixels, LANES) has maps of size (rows, columns), V (36, rows, LANES).
    """
    maps, (H, B), (top, left) = len(x), size, corner
    d, line = registers((6, 6, LANES), SIX_BY_SIX, x), registers((6, LANES), SIX, x)
    one = x.dtype.type(1)
    two, four = one + one, one + one + one + one
    for c in range(maps):
        for j in range(6):
            for i in range(6):
                if 0 <= top + i < H and 0 <= left + j < B:
                    copy_lanes(line[i], x[index(c), index((top + i) * B + left + j)])
                else:
                    copy_lanes(line[i], nothing)
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = pixels_to_points(
                    line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v], two, four
                )
            for k in range(6):
                copy_lanes(d[k, j], line[k])
        for k in range(6):
            for j in range(6):
                copy_lanes(line[j], d[k, j])
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = pixels_to_points(
                    line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v], two, four
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
def transform_products(M, first, b, z, size, q):
    """z[o, :4, q:q+4] = b[o] + Aᵀ M[:, first + o] A for every filter o, as far as z (O, pixels, LANES) goes.

    size is (rows, columns) of z.
    """
    O, (rows, Q) = len(z), size
    d, line = registers((4, 6, LANES), FOUR_BY_SIX, z), registers((6, LANES), SIX, z)
    one = z.dtype.type(1)
    two, four = one + one, one + one + one + one
    for o in range(O):
        bias = b[o]
        for m in range(6):
            for k in range(6):
                copy_lanes(line[k], M[index(6 * k + m), index(first + o)])
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v] = points_to_outputs(
                    line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v], two, four
                )
            for i in range(4):
                copy_lanes(d[i, m], line[i])
        for i in range(rows):
            for m in range(6):
                copy_lanes(line[m], d[i, m])
            for v in range(LANES):
                z0, z1, z2, z3 = points_to_outputs(
                    line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v], two, four
                )
                line[0, v], line[1, v], line[2, v], line[3, v] = z0 + bias, z1 + bias, z2 + bias, z3 + bias
            for j in range(min(4, Q - q)):
                copy_lanes(z[index(o), index(i * Q + q + j)], line[j])  # (winograd.5)


@functools.cache
def forward_kernel(activation):
    """Return the kernel for the activation that follows."""
    IS_ACTIVATED = activation is not identity
    activate_rows = activation_kernel(activation)

    @kernel
    def winograd_forward(x, U, b, z, sizes, corner, x_band, z_band, flat_z_band, V, M, nothing):
        """z = activation(b + W * x) for all samples; x (blocks, C, H W, LANES), z (blocks, O, P Q, LANES).

        sizes are (H, W) and (P, Q), corner the padding above and to the left. The rows that a row of tiles reads
        and writes have copies, the bands, (maps, pixels, LANES): a tile touches some pixels of many rows of many maps,
        for which memory is not prepared. flat_z_band is z_band, (O, numbers).
        """
        ((H, B), (P, Q)), (top, left), (blocks, C, _, _) = sizes, corner, x.shape
        filters = U.shape[1] * TILE
        for n in range(blocks):
            for h in range(0, P, 4):
                above, below, rows = max(0, min(h - top, H)), max(0, min(h - top + 6, H)), min(4, P - h)
                copy_pixels(x[n], above * B, x_band, 0, (below - above) * B)
                for q in range(0, Q, 4 * TILES_AT_ONCE):
                    patches = min(TILES_AT_ONCE, (Q - q + 3) // 4)
                    for patch in range(patches):
                        place = h - top - above, q + 4 * patch - left
                        transform_pixels(x_band, (below - above, B), nothing, place, V, patch * C)
                    multiply_points(U, V, M, C, patches)
                    for patch in range(patches):
                        transform_products(M, patch * filters, b, z_band, (rows, Q), q + 4 * patch)
                if IS_ACTIVATED:
                    activate_rows(flat_z_band, 0, rows * Q * LANES)
                copy_pixels(z_band, 0, z[n], h * Q, rows * Q)

    return winograd_forward


@kernel
def turn_over(x, by_channel):
    """Exchange samples and channels of a block: x (C, H W, LANES), by_channel (groups, LANES, H W + 1, 16 channels).

    The planes of x are a power of two apart for the usual sizes, and push each other out of the cache; so each line is
    touched once, and numbers change places in registers.
    """
    C, pixels, _ = x.shape
    square = registers((LANES, LANES), SQUARE, x)
    for first in range(0, C, LANES):
        group = by_channel[first // LANES]
        for k in range(pixels):
            for c in range(LANES):
                copy_lanes(square[c], x[index(min(first + c, C - 1)), index(k)])
            transpose(square)
            for v in range(LANES):
                copy_lanes(group[index(v), index(k)], square[v])


@kernel
def transform_gradients(dL_dz, size, nothing, q, dL_dM, first):
    """dL/dM[:, o, first:] = A dL/dz[o, :4, q:q+4] Aᵀ for every filter o; zeros where dL_dz (O, pixels, LANES) ends.

    size is (rows, columns) of dL_dz.
    """
    O, (rows, Q) = len(dL_dz), size
    d, line = registers((6, 4, LANES), FOUR_BY_SIX, dL_dz), registers((6, LANES), SIX, dL_dz)
    one = dL_dz.dtype.type(1)
    two, four = one + one, one + one + one + one
    for o in range(O):
        for j in range(4):
            for i in range(4):
                if i < rows and q + j < Q:
                    copy_lanes(line[i], dL_dz[index(o), index(i * Q + q + j)])
                else:
                    copy_lanes(line[i], nothing)
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = outputs_to_points(
                    line[0, v], line[1, v], line[2, v], line[3, v], two, four
                )
            for k in range(6):
                copy_lanes(d[k, j], line[k])
        for k in range(6):
            for j in range(4):
                copy_lanes(line[j], d[k, j])
            for v in range(LANES):
                line[0, v], line[1, v], line[2, v], line[3, v], line[4, v], line[5, v] = outputs_to_points(
                    line[0, v], line[1, v], line[2, v], line[3, v], two, four
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

    by_channel (groups, LANES, H W + 1, 16 channels) is room for a block turned over, z_band (O, pixels, LANES) for the
    rows of dL_dz that a row of tiles reads.
    """
    (size, (P, Q)), (top, left), blocks, groups = sizes, corner, len(x), len(by_channel)
    patches = dL_dM.shape[2] // LANES
    samples = patches * LANES
    for n in range(blocks):
        turn_over(x[n], by_channel)
        for h in range(0, P, 4):
            rows = min(4, P - h)
            copy_pixels(dL_dz[n], h * Q, z_band, 0, rows * Q)
            for q in range(0, Q, 4 * patches):
                for g in range(groups):
                    for patch in range(patches):
                        place, row = (h - top, q + 4 * patch - left), (g * patches + patch) * LANES
                        transform_pixels(by_channel[g], size, nothing, place, V, row)
                for patch in range(patches):
                    transform_gradients(z_band, (rows, Q), nothing, q + 4 * patch, dL_dM, patch * LANES)
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
        """Return room for transformed weights, points of some patches, a block turned over, and rows of x and z.

        Most have a row more than they need: else the points of one patch would often be a power of two apart, and
        push each other out of the cache (storing those of dL/dM took six times as long).
        """
        (C, H, B), (O, _, Q) = self.x_shape, self.z_shape
        groups, samples = -(-C // LANES), self._patches * LANES
        tiles_of_O, tiles_of_C = -(-O // TILE), -(-C // TILE)
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
            "by_channel": np.zeros((groups, LANES, H * B + 1, LANES), dtype),
            "x_band": np.zeros((C, 6 * B + 1, LANES), dtype),
            "z_band": np.zeros((O, 4 * Q + 1, LANES), dtype),
            "mirrored_x_band": np.zeros((O, 6 * Q + 1, LANES), dtype),
            "mirrored_z_band": np.zeros((C, 4 * B + 1, LANES), dtype),
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
