"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable

import click

from ..engine.checks import ConfigurationError, DeviceError

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
    """Return "cpu" for auto and cpu.

    Raises
    ------
    DeviceError
        For cuda, for which there are no kernels yet.
    """
    if device == "cuda":
        raise DeviceError(
            "--device cuda: this version of handgrad has no CUDA kernels yet", remedy="use --device cpu, or auto"
        )
    return "cpu"


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
