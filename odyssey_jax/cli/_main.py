"""The program: which command, and what an error looks like."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from odyssey_jax.cli import _runs, _schedule, _train, checkpoints
from odyssey_jax.store import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 1 after an error of one line.

    What is no command or option at all ends the program with status 2. A command may return a
    status of its own.
    """
    parser = argparse.ArgumentParser(
        prog="odyssey-jax", description="Training infrastructure for JAX."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (_train, _schedule, _runs, checkpoints):
        command.add_parser(commands)
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may be no text for a terminal
    try:
        status = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `odyssey-jax runs . | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CheckpointError, OSError, ValueError) as error:
        return _failed(_one_line(error))
    except ImportError as error:
        return _failed(f"{_one_line(error)}: pip install 'odyssey-jax[all]'")
    except KeyboardInterrupt as interrupt:
        _failed(str(interrupt) or "interrupted")
        return 130
    return status or 0


def _failed(message: str) -> int:
    print(f"odyssey-jax: {message}", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
