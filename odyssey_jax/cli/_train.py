"""`odyssey-jax train`: the main job."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

from odyssey_jax._compilation_cache import default_directory, enable_compilation_cache
from odyssey_jax._digits import Options, train_digits
from odyssey_jax.cli import _run
from odyssey_jax.cli._output import add_command
from odyssey_jax.errors import CheckpointCorruptError, CheckpointNotFoundError
from odyssey_jax.runs import open_checkpoints
from odyssey_jax.store import Reader


def add_parser(commands: Any) -> None:
    """Add the command; an option for each field of `Options`."""
    command = add_command(commands, train)
    command.add_argument(
        "--directory",
        type=Path,
        default=Path("runs/digits"),
        metavar="DIR",
        help="directory of the run (default: %(default)s)",
    )
    command.add_argument("--fresh", action="store_true", help="start over in the directory")
    command.add_argument(
        "--max-time",
        type=float,
        metavar="SECONDS",
        help="save and stop after so long, with exit status 124; Ctrl-C does it with 130, "
        "SIGTERM with 143",
    )
    command.add_argument(
        "--distributed", action="store_true", help="train on several processes together"
    )
    _run.add_arguments(command)
    command.add_argument(
        "--no-compilation-cache",
        action="store_true",
        help="compile anew, and keep no compiled programs; else they are kept in "
        "$JAX_COMPILATION_CACHE_DIR, or where that is not set in "
        f"{str(default_directory()).replace('%', '%%')}",
    )
    for field in dataclasses.fields(Options):
        default: Any = field.default
        many = isinstance(default, tuple)
        shown = " ".join(map(str, default)) if many else default
        command.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=int if many else type(default),
            nargs="*" if many else None,
            default=default,
            metavar="N" if many or isinstance(default, int) else "X",
            help=f"{field.metadata['help']} (default: {shown})",
        )


def train(parsed: argparse.Namespace) -> int:
    """Train a network on handwritten digits.

    The digits are scikit-learn's. There are warm-up, cosine decay, early stopping and
    checkpoints; the same command again resumes the run.
    """
    names = [field.name for field in dataclasses.fields(Options)]
    given = {name: getattr(parsed, name) for name in names}
    options = Options(**{**given, "hidden": tuple(given["hidden"])})
    if parsed.distributed:
        _run.start(parsed)
    elif parsed.coordinator or parsed.processes or parsed.process is not None:
        raise ValueError("--coordinator, --processes and --process need --distributed.")
    if not parsed.fresh:
        _check_same_options(parsed.directory, options)
    if parsed.no_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        enable_compilation_cache()
    holds = f"{parsed.directory} holds the run up to its last checkpoint"
    try:
        return train_digits(options, parsed.directory, parsed.fresh, parsed.max_time)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {holds}") from None
    except SystemExit:
        print(f"odyssey-jax: ended by SIGTERM; {holds}", file=sys.stderr)
        raise


def _check_same_options(directory: Path, options: Options) -> None:
    """Raise ValueError if the directory has a run that was begun with other options."""
    try:
        reader = open_checkpoints(directory)
    except CheckpointNotFoundError:
        return
    then = _newest_config(reader)
    now = dataclasses.asdict(options) | {"hidden": list(options.hidden)}
    differs = [
        f"--{name.replace('_', '-')} {then.get(name)} then, {value} now"
        for name, value in now.items()
        if then is not None and then.get(name) != value
    ]
    if differs:
        raise ValueError(
            f"the run in {directory} was begun with other options: {'; '.join(differs)}. Use "
            "those, another --directory, or --fresh to start over."
        )


def _newest_config(reader: Reader) -> dict[str, Any] | None:
    """Return what the newest checkpoint that is good was begun with, as `fit` goes on from it."""
    for step in reversed(reader.steps()):
        with contextlib.suppress(CheckpointCorruptError):  # `fit` says of it what there is to say
            return reader.metadata(step).get("config", {})
    return None
