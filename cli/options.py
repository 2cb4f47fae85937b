"""Options that several commands share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import click

from ..engine.checks import ConfigurationError, DeviceError
from . import gpu

DATA_HELP = "mnist, fashion, mnist-5k or toy:xor."


def data_options(command: Callable) -> Callable:
    """Add ``--data`` and ``--data-dir``."""
    command = click.option(
        "--data-dir", type=click.Path(), help="Folder with the data; else $HANDGRAD_DATA, the cache, the net."
    )(command)
    return click.option("--data", "data_name", metavar="NAME", help=f"Data set: {DATA_HELP}")(command)


def device_option(command: Callable) -> Callable:
    """Add ``--device``."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to compute.",
    )(command)


def threads_option(command: Callable) -> Callable:
    """Add ``--threads``."""
    return click.option("--threads", type=click.IntRange(min=1), help="Worker threads; by default one per core.")(
        command
    )


def one_text(words: tuple[str, ...]) -> str | None:
    """Return the single MODEL of a command line, or None when there is none.

    Raises
    ------
    ConfigurationError
        When there are several: a text that the shell has cut into words.
    """
    if len(words) > 1:
        raise ConfigurationError(
            "MODEL", got=f"{len(words)} words", expected='one; a text needs quotes: "conv 8@3x3 > relu > dense 10"'
        )
    return words[0] if words else None


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda"; for auto what there is.

    Raises
    ------
    DeviceError
        For cuda, where there is no GPU that can be used.
    """
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    from ..engine import cuda

    if device == "cuda":
        cuda.device()
        return "cuda"
    try:
        cuda.device()
    except DeviceError:
        return "cpu"
    return "cpu" if cuda.IS_SIMULATED else "cuda"


def may_have_gpu() -> bool:
    """Return whether it is worth the time to ask numba-cuda for a GPU: both it and a driver are installed."""
    return importlib.util.find_spec("numba_cuda") is not None and gpu.driver()["library"] is not None


def parse_shape(text: str) -> tuple[int, ...]:
    """Return (1, 28, 28) from "1x28x28".

    Raises
    ------
    ConfigurationError
        When the text is anything else.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigurationError("shape", got=f"'{text}'", expected="sizes with an x between, such as 1x28x28")
    return tuple(map(int, parts))
