"""The program: its commands, and errors on one line."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence

from odyssey_jax._text import printable
from odyssey_jax.cli import _checkpoints, _run, _runs, _schedule, _train
from odyssey_jax.cli._output import Parser
from odyssey_jax.store import CheckpointError

_EXAMPLES = """examples:
  odyssey-jax train
  odyssey-jax checkpoints runs/digits
  odyssey-jax COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words of the command line; None takes those of the process.

    Returns:
        The exit status: 0, 1 after an error, which is printed on one line, 2 without a command,
        or that of the command.

    Raises:
        SystemExit: With status 2, if there is no such command or option.
    """
    parser = Parser(
        prog="odyssey-jax",
        description="Training infrastructure for JAX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = importlib.metadata.version("odyssey-jax")
    parser.add_argument("--version", action="version", version=f"odyssey-jax {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (_train, _run, _schedule, _runs, _checkpoints):
        command.add_parser(commands)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:  # of the command, if there is one: its usage and options are then shown
        getattr(parsed, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if "run" not in parsed:
        parser.print_help(sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names with lone surrogates
    try:
        status = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `odyssey-jax runs . | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        return _failed(_one_line(error))
    except KeyboardInterrupt as interrupt:
        _failed(str(interrupt) or "interrupted")
        return 130
    return status or 0


def _failed(message: str) -> int:
    print(f"odyssey-jax: {printable(message)}", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without its number
        name = "" if error.filename is None else f"{str(error.filename)!r}: "
        return f"{name}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
