"""Pictures as files: the suffix is the format, the same drawing gives the same file, and it is written whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from ..engine.checks import ConfigurationError, DataError

SUFFIXES = (".png", ".svg", ".pdf")


def check_file(path: str | Path) -> None:
    """Raise an error unless a picture can be written there: a known suffix, and a folder that exists.

    Raises
    ------
    ConfigurationError
        When the suffix is none of SUFFIXES.
    DataError
        When there is no such folder.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"picture {path}", got=f"the suffix '{Path(path).suffix}'", expected=", ".join(SUFFIXES)
        )
    if not Path(path).parent.is_dir():
        raise DataError(f"cannot write {path}: the folder {Path(path).parent} does not exist")


def new_figure(width: float, height: float):
    """Return an empty matplotlib figure on white, sizes in inches, that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(made)
    return made


def write(make: Callable[[], object], path: str | Path) -> None:
    """Draw a figure into a file; an older file is replaced.

    Parameters
    ----------
    make : callable
        Returns the matplotlib figure; called with the project's fonts.
    path : str or pathlib.Path

    Raises
    ------
    ConfigurationError
        When the suffix is none of SUFFIXES.
    DataError
        When the file cannot be written.
    """
    import matplotlib

    from ..engine.checkpoint import write_atomically

    check_file(path)
    path, buffer = Path(path), io.BytesIO()
    form = path.suffix.lower()[1:]
    with matplotlib.rc_context({"svg.hashsalt": "handgrad", "font.family": "DejaVu Sans", "text.usetex": False}):
        made = make()
        dpi = min(200, 20000 / made.get_figheight())  # a very deep network still gives a file that viewers open
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # the same drawing gives the same file
        made.savefig(buffer, format=form, dpi=dpi, metadata=dated.get(form))
    write_atomically(path, buffer.getvalue())
