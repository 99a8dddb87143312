"""`show`: one checkpoint's tree, and what was saved with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from odyssey_jax.cli._output import print_json, print_table, size
from odyssey_jax.cli.checkpoints._where import open_reader, step_of
from odyssey_jax.store import SavedLeaf


def add_parser(actions: Any) -> None:
    """Adds the action."""
    action = actions.add_parser(
        "show",
        help="print the tree with shapes and dtypes, and the metadata",
        description="Prints the tree of a checkpoint with shapes, dtypes and sizes, and its "
        "metadata.",
    )
    action.add_argument("step", metavar="STEP")
    action.add_argument("--depth", type=int, metavar="N", help="levels to show (default: all)")
    action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    action.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """Shows a checkpoint."""
    if parsed.depth is not None and parsed.depth < 1:
        raise ValueError(f"--depth must be at least 1, got {parsed.depth}.")
    reader = open_reader(parsed)
    step = step_of(reader, parsed.step)
    metadata, leaves = reader.metadata(step), reader.leaves(step)
    if parsed.json:
        tree = [leaf._asdict() | {"name": leaf.name} for leaf in leaves]
        print_json({"step": step, "metadata": metadata, "leaves": tree})
        return
    for name, value in metadata.items():
        print(f"{name}: {value if isinstance(value, str) else _brief(value)}")
    print()
    rows = list(_rows(leaves, parsed.depth or max((len(leaf.keys) for leaf in leaves), default=0)))
    if rows:
        print_table(("tree", "value", "size#"), rows)
    nbytes = sum(leaf.nbytes for leaf in leaves)
    print(f"{_count(len(leaves))}, {size(nbytes)}; {size(reader.size(step))} on the disk")


def _brief(value: Any) -> str:
    return json.dumps(value, default=str)


def _rows(leaves: Sequence[SavedLeaf], depth: int, level: int = 0) -> Iterator[tuple[str, ...]]:
    """The nodes, each before its children, as far down as is asked for."""
    nodes: dict[str, list[SavedLeaf]] = {}
    for leaf in leaves:
        nodes.setdefault(leaf.keys[level] if level < len(leaf.keys) else "", []).append(leaf)
    for key, below in nodes.items():
        label = "  " * level + key
        nbytes = size(sum(leaf.nbytes for leaf in below))
        if len(below) == 1 and len(below[0].keys) <= level + 1:
            yield label, str(below[0]), nbytes
            continue
        yield label, _count(len(below)), nbytes
        if level + 1 < depth:
            yield from _rows(below, depth, level + 1)


def _count(leaves: int) -> str:
    return "1 leaf" if leaves == 1 else f"{leaves} leaves"
