"""The command and its actions; without one, it lists."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from odyssey_jax.cli.checkpoints import _diff, _export, _list, _prune, _show, _verify

_EXAMPLES = """examples:
  odyssey-jax checkpoints runs/digits
  odyssey-jax checkpoints runs/digits verify
  odyssey-jax checkpoints runs/digits show latest
  odyssey-jax checkpoints runs/digits diff best latest
  odyssey-jax checkpoints runs/digits export best model.safetensors
  odyssey-jax checkpoints runs/digits prune --keep-last 1 --keep-best 1 --yes
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "checkpoints",
        help="list, verify, show, compare, export and delete checkpoints",
        description="Lists the checkpoints of a run, or does something with them. All but prune "
        "only read. A STEP is a number, 'latest' or 'best'.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("directory", type=Path, help="of the run, or of its checkpoints")
    command.add_argument(
        "--monitor",
        metavar="NAME",
        help="the metric that says which is best (default: what they were kept by)",
    )
    command.add_argument("--mode", choices=("min", "max"), help="whether less or more is better")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_list.run)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    for action in (_verify, _show, _diff, _export, _prune):
        action.add_parser(actions)
