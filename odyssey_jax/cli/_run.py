"""`odyssey-jax run`: a program of one's own, on several processes."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import Any

from odyssey_jax.cli._output import add_command
from odyssey_jax.parallel import initialize

_EXAMPLES = """examples:
  srun odyssey-jax run train.py --epochs 10
  odyssey-jax run --coordinator host0:8476 --processes 2 --process 1 train.py
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, run, _EXAMPLES)
    add_arguments(command)
    command.add_argument("program", help="the Python file, which each process runs")
    command.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="its own arguments"
    )


def run(parsed: argparse.Namespace) -> None:
    """Run a Python program on each of several processes, with jax.distributed started.

    SLURM, Kubernetes, Open MPI and TPU pods are found as JAX finds them; elsewhere say where the
    first process is, how many there are and which this one is. A process that dies is named, and
    ends the others; the same command goes on.
    """
    if not os.path.isfile(parsed.program):
        raise ValueError(f"there is no program {parsed.program!r}: give the path of a Python file.")
    start(parsed)
    sys.argv = [parsed.program, *parsed.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(parsed.program)))
    runpy.run_path(parsed.program, run_name="__main__")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what starts several processes."""
    where = command.add_argument_group("several processes")
    where.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens (default: found)"
    )
    where.add_argument(
        "--processes", type=int, metavar="N", help="how many there are (default: found)"
    )
    where.add_argument(
        "--process", type=int, metavar="I", help="which this one is, from 0 (default: found)"
    )
    where.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="after which a process that is silent is named, and all end (default: %(default)g)",
    )


def start(parsed: argparse.Namespace) -> None:
    """Start jax.distributed as the arguments say."""
    initialize(parsed.coordinator, parsed.processes, parsed.process, timeout=parsed.timeout)
