"""What every command does the same way: JSON out, plain tables out, messages to standard error."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Sequence

import click
import numpy as np

SHORT = 12  # a left side so short gets no line of its own


def json_option(command: Callable) -> Callable:
    """Add ``--json`` to a command, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def print_json(value: object) -> None:
    """Print exactly one JSON object, with NumPy numbers as numbers and NaN and infinities as null."""
    click.echo(json.dumps(_plain(value), allow_nan=False))


def _plain(value: object):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> str:
    """Return rows as aligned text.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : sequence of sequence
        Cells; each is shown with ``str``.
    right : str
        One letter per column, ``"r"`` for right-aligned; missing letters mean left.

    Returns
    -------
    str
        Lines separated by newlines, without trailing blanks.
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    right = right.ljust(len(header))

    def line(row: list[str]) -> str:
        return "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, right, strict=True)
        ).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * width for width in widths), *map(line, cells[1:])])


def equation_lines(text: str, width: int) -> list[str]:
    """Return an equation as lines of at most ``width`` columns, broken before its relation signs where it must be.

    Parameters
    ----------
    text : str
        Relation signs have blanks around them.
    width : int
    """
    first, *sides = text.split(" = ")
    lines = [f"{first} = {sides[0]}" if sides and len(first) < SHORT else first]
    for side in sides[len(first) < SHORT :]:
        if len(lines[-1]) + 3 + len(side) <= width:
            lines[-1] += f" = {side}"
        else:
            lines.append(f"    = {side}")
    return [row for line in lines for row in textwrap.wrap(line, width, subsequent_indent=" " * 10) or [line]]


def note(message: str) -> None:
    """Print one line to standard error: something the user should know that is not a result."""
    click.echo(message, err=True)
