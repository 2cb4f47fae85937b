"""Which register tile is chosen, and what kernels rely on."""

from __future__ import annotations

import pytest

from handgrad.engine import tiles


@pytest.mark.parametrize("shapes", [tiles.OUTPUT_TILES, tiles.INPUT_TILES, tiles.DENSE_TILES])
def test_kernels_know_one_or_two_on_the_second_side(shapes):
    assert {second for _, second in shapes} <= {1, 2}
    assert tiles.best_tile(shapes, (100, 1))[1] == 1  # nothing is computed twice for a single one


def test_all_dense_tiles_have_the_same_rows():
    """Copies of dL/dz and of columns of W are laid out for all of them."""
    assert len({rows for rows, _ in tiles.DENSE_TILES}) == 1


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((16, 28), (8, 2)),
        ((6, 28), (6, 2)),  # 8 x 2 would take a third more
        ((7, 28), (8, 2)),  # a seventh more than needed, but (6, 2) takes half as many again
        ((16, 1), (8, 1)),
        ((16, 7), (8, 2)),  # an eighth column costs less than loading everything for one
    ],
)
def test_little_surplus_does_not_matter(sizes, expected):
    assert tiles.best_tile(((8, 2), (6, 2), (8, 1)), sizes) == expected


def test_a_single_tile_is_the_best():
    assert tiles.best_tile(((5, 1),), (1, 1)) == (5, 1)
