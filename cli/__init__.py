"""The command line: ``handgrad COMMAND``; one file per command, imported only when it is called.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 a check or a
target failed, 2 wrong usage, 3 data, 4 device, 130 and 143 interrupted.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys

import click

from .. import __version__
from ..engine.checks import HandgradError

COMMANDS = {
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "summary": "summary",
    "trace": "trace",
    "gradcheck": "gradcheck",
    "derive": "derive",
    "data": "data",
    "bench": "bench",
    "warmup": "warmup",
    "doctor": "doctor",
}


class LazyGroup(click.Group):
    """A group that imports a command's file when the command is asked for, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a session, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return one command; unknown names are left to click's usage error."""
        if name not in COMMANDS:
            return None
        return importlib.import_module(f".{COMMANDS[name]}", __package__).command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="handgrad", message="%(prog)s %(version)s")
def cli() -> None:
    """Neural networks whose every gradient is derived, written by hand and proven equal.

    \b
    Start with:  handgrad train lenet5
    then look:   handgrad trace last
    and doubt:   handgrad gradcheck lenet5
    """  # noqa: D301 (click marks a paragraph that keeps its lines with a real backspace)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of ``sys.argv[1:]``.
    """
    if hasattr(signal, "SIGPIPE") and sys.argv[1:2] not in (["train"], ["data"], ["bench"]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `handgrad trace last | head` ends without a word, as others do
    gc.set_threshold(200_000, 20, 20)  # imports and compiling make many objects that stay: looking takes a tenth of it
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; expected errors become one line on standard error.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code, see the module's docstring.
    """
    try:
        result = cli.main(arguments, prog_name="handgrad", standalone_mode=False)
    except HandgradError as error:
        click.echo(f"handgrad: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("handgrad: interrupted", err=True)
        return 130
    except MemoryError as error:
        click.echo(f"handgrad: not enough memory ({error})", err=True)
        return 1
    return result if isinstance(result, int) else 0
