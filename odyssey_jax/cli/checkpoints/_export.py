"""`export`: the parameters of a checkpoint for other tools."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from odyssey_jax.cli._output import size
from odyssey_jax.cli.checkpoints._where import open_reader, step_of
from odyssey_jax.fit import export_params

_PARAMS = inspect.signature(export_params).parameters["subtree"].default


def add_parser(actions: Any) -> None:
    """Adds the action."""
    action = actions.add_parser(
        "export",
        help="write the parameters for other tools",
        description="Writes the parameters of a checkpoint into a safetensors file, or into the "
        "directory of a plain Orbax checkpoint.",
    )
    action.add_argument("step", metavar="STEP")
    action.add_argument("path", type=Path, metavar="PATH", help="where to; nothing may be there")
    action.add_argument(
        "--format",
        choices=("orbax", "safetensors"),
        help="default: safetensors if PATH ends in .safetensors, otherwise orbax",
    )
    action.add_argument(
        "--subtree",
        default=_PARAMS,
        metavar="NAME",
        help="the node to write, '' for the whole tree (default: %(default)s)",
    )
    action.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """Exports a checkpoint."""
    reader = open_reader(parsed)
    step = step_of(reader, parsed.step)
    suffix = "safetensors" if parsed.path.suffix == ".safetensors" else "orbax"
    path = export_params(
        reader.directory,
        parsed.path,
        step,
        format=parsed.format or suffix,
        subtree=parsed.subtree,
    )
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    nbytes = size(sum(file.stat().st_size for file in files))
    print(f"in {parsed.path}: {parsed.subtree or 'the tree'} of step {step}, {nbytes}")
