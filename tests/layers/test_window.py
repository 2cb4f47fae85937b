"""The loop bounds that sliding windows read from tables are those of the definition s h + d i - p = a."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from handgrad.derivations.notation import output_size
from handgrad.engine import Conv2D
from handgrad.engine.layers.window import Line, offset_steps, pair_of_integers, parse_padding


@st.composite
def lines(draw):
    n, f, s, d = (draw(st.integers(1, high)) for high in (12, 5, 4, 4))
    before, after = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    P = output_size(n, f, s, before, after, d)
    assume(P >= 1)
    return Line(n, P, f, s, before, d)


def meetings(line):
    """Return every (a, h, i) with s h + d i - p = a inside the line."""
    triples = [(line.s * h + line.d * i - line.p, h, i) for h in range(line.P) for i in range(line.f)]
    return {(a, h, i) for a, h, i in triples if 0 <= a < line.n}


@given(lines())
def test_offsets_inside(line):
    table = line.offsets_inside()
    assert table.shape == (line.P, 3) and table.dtype.name == "int64"
    assert meetings(line) == {
        (start + line.d * i, h, i) for h, (start, i_from, i_to) in enumerate(table) for i in range(i_from, i_to)
    }


@given(lines())
def test_outputs_inside(line):
    table = line.outputs_inside()
    assert table.shape == (line.f, 3) and table.dtype.name == "int64"
    assert meetings(line) == {
        (line.s * h + start, h, i) for i, (start, h_from, h_to) in enumerate(table) for h in range(h_from, h_to)
    }


@given(lines())
def test_offsets_that_reach(line):
    table, found = line.offsets_that_reach(), set()
    i_step, h_step = offset_steps(line.s, line.d)
    assert table.shape == (line.n, 3) and table.dtype.name == "int64"
    for a, (i_from, i_to, h) in enumerate(table):
        for i in range(i_from, i_to, i_step):
            found.add((a, h, i))
            h -= h_step
    assert found == meetings(line)


def test_pairs_and_paddings():
    layer = Conv2D(1, 1)
    assert pair_of_integers(layer, "size", 3) == pair_of_integers(layer, "size", [3, 3]) == (3, 3)
    assert pair_of_integers(layer, "size", (0, 2), minimum=0) == (0, 2)
    around = ((5, 6), (3, 2), (1, 1), (1, 1))
    assert parse_padding(layer, "valid", *around) == (0, 0, 0, 0)
    assert parse_padding(layer, "same", *around) == (1, 1, 0, 1)
    assert parse_padding(layer, 2, *around) == (2, 2, 2, 2)
    assert parse_padding(layer, (1, 2), *around) == (1, 1, 2, 2)
    assert parse_padding(layer, [1, 2, 3, 4], *around) == (1, 2, 3, 4)
