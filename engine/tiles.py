"""Register tiles: which blocks of sums stay in the vector registers while they are added up, and which fits best.

Floor 1. A number that is loaded should serve several sums, so a tile has two sides, such as filters and columns: a x b
sums need a + b loads for a b multiply-adds. A sum is LANES numbers wide. AVX-512 has 32 registers of 16 floats, so a
tile may have 24 sums of one register each; AVX2 has 16 of 8, which are 6 sums of two; Arm has 32 of 4. A tile that does
not fit is written to memory in every step, and runs at 40 % of the speed. Tiles are chosen for float32; float64, in
which gradients are checked, pays for that.
"""

from __future__ import annotations

import math

from .backend import TILE

# of several the first is the best where all of them fit; second sides are 1 or 2 but for WEIGHT_TILES
if TILE == 8:
    OUTPUT_TILES = (8, 2), (6, 2), (8, 1)  # filters and columns of a convolution's forward pass
    INPUT_TILES = (8, 2), (6, 2), (8, 1)  # channels and blocks of samples of its input gradient
    WEIGHT_TILES = (6, 4), (5, 4), (5, 3), (4, 6), (12, 1)  # weights of a filter and filters of its weight gradient
    DENSE_TILES = (8, 2), (8, 1)  # rows of a matrix product, the same for all, and blocks of LANES columns
else:
    OUTPUT_TILES = (4, 1), (3, 2)
    INPUT_TILES = (4, 1), (3, 2)
    WEIGHT_TILES = (3, 2), (2, 3), (6, 1)
    # eight sums in flight keep the two multiply-add units of AVX2 busy only while nothing is ever late, ten leave room
    # (96 instead of 91 GFLOP/s of 100), and twelve no longer fit beside their operands (40)
    DENSE_TILES = ((5, 1),)

BESIDE = 2 if TILE == 8 else 1  # sums beside each other in a tile whose first side is TILE, whatever hangs over

SURPLUS = 1.2  # times the sums of the tile that fits best are too many; fewer do not matter


def best_tile(tiles: tuple[tuple[int, int], ...], sizes: tuple[int, int]) -> tuple[int, int]:
    """Return the first tile that hangs so little over the ends that it takes hardly more sums than any other.

    Parameters
    ----------
    tiles : tuple of (int, int)
        Their sides, the best first.
    sizes : (int, int)
        Of what they are to cover.

    Returns
    -------
    (int, int)

    Examples
    --------
    >>> best_tile(((4, 1), (3, 2)), (16, 28)), best_tile(((4, 1), (3, 2)), (6, 28))
    ((4, 1), (3, 2))
    """

    def sums(tile: tuple[int, int]) -> int:
        return math.prod(-(-size // side) * side for size, side in zip(sizes, tile, strict=True))

    least = min(map(sums, tiles))
    return next(tile for tile in tiles if sums(tile) < SURPLUS * least)
