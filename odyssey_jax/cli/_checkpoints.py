"""`odyssey-jax checkpoints`: what a directory of checkpoints holds, through a `Reader` alone."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odyssey_jax._text import printable
from odyssey_jax.cli._diff import compare
from odyssey_jax.cli._output import add_command, plain, print_json, print_table, size, when
from odyssey_jax.fit import export_params
from odyssey_jax.runs import open_checkpoints
from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    Reader,
    SavedLeaf,
    Store,
    retain,
)

_EXAMPLES = """examples:
  odyssey-jax checkpoints runs/digits
  odyssey-jax checkpoints runs/digits verify
  odyssey-jax checkpoints runs/digits show latest
  odyssey-jax checkpoints runs/digits diff best latest
  odyssey-jax checkpoints runs/digits export best model.safetensors
  odyssey-jax checkpoints runs/digits prune --keep-last 1 --keep-best 1 --yes
"""

_STEP = "a number, 'latest' or 'best'"
_COLUMNS = ("step#", "epoch#", "metrics", "size#", "format#", "odyssey_jax", "saved", "")
_SHOWN = 3  # metrics in the list if none is monitored


def add_parser(commands: Any) -> None:
    """Add the command and its actions; without an action it lists."""
    command = add_command(commands, checkpoints, _EXAMPLES)
    command.add_argument(
        "directory", metavar="DIR", help="the directory of a run, or of its checkpoints"
    )
    command.add_argument(
        "--monitor",
        metavar="NAME",
        help="the metric that says which is best (default: the one they were kept by)",
    )
    command.add_argument("--mode", choices=("min", "max"), help="whether less or more is better")
    command.add_argument("--json", action="store_true", help="print JSON")
    # The usage by hand, as an action may be left out; its own begins as `prog` says.
    actions = command.add_subparsers(title="actions", metavar="ACTION", prog=f"{command.prog} DIR")
    command.usage = (
        "%(prog)s [-h] [--monitor NAME] [--mode {min,max}]\n"
        "                               [--json] DIR [ACTION ...]"
    )

    action = add_command(actions, verify)
    action.add_argument("steps", nargs="*", metavar="STEP", help=f"{_STEP} (default: all)")
    _add_json(action)

    action = add_command(actions, show)
    action.add_argument("step", metavar="STEP", help=_STEP)
    action.add_argument("--depth", type=int, metavar="N", help="levels to show (default: all)")
    _add_json(action)

    action = add_command(actions, diff)
    for name in ("a", "b"):
        action.add_argument(
            name, metavar=name.upper(), help=f"{_STEP}; DIR:STEP for another directory"
        )
    _add_json(action)

    action = add_command(actions, export)
    action.add_argument("step", metavar="STEP", help=_STEP)
    action.add_argument("path", type=Path, metavar="PATH", help="where to; nothing may be there")
    action.add_argument(
        "--format",
        choices=("orbax", "safetensors"),
        help="default: safetensors if PATH ends in .safetensors, otherwise orbax",
    )
    action.add_argument(
        "--subtree",
        default=inspect.signature(export_params).parameters["subtree"].default,
        metavar="NAME",
        help="the node to write, '' for the whole tree (default: %(default)s)",
    )

    action = add_command(actions, prune)
    action.add_argument("--keep-last", type=int, required=True, metavar="N", help="the newest N")
    action.add_argument("--keep-best", type=int, default=0, metavar="K", help="the best K")
    action.add_argument(
        "--keep-every", type=int, metavar="N", help="the steps that are multiples of N"
    )
    action.add_argument("--yes", action="store_true", help="delete them")


def _add_json(action: argparse.ArgumentParser) -> None:
    # Suppressed: the default would undo a --json before the action.
    action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _open(parsed: argparse.Namespace, directory: str | None = None) -> Reader:
    return open_checkpoints(directory or parsed.directory, parsed.monitor, parsed.mode)


def _step_of(reader: Reader, text: str) -> int:
    """Return the step that a word or a number names, whether it can be read or not.

    Raises:
        ValueError: If it names none, or it is not known which step is best.
        CheckpointError: If there is no such step.
    """
    if text == "best" and reader.monitor is None:
        raise ValueError("no metric was recorded by which one is best: give --monitor and --mode.")
    if text in ("latest", "best"):
        step = reader.latest() if text == "latest" else reader.best()
        if step is None:
            raise CheckpointNotFoundError(
                f"no checkpoint in {str(reader.directory)!r} has a value of {reader.monitor!r}"
            )
        return step
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"a step is a number, 'latest' or 'best'; got {text!r}.")
    if int(text) not in reader.steps():
        raise CheckpointNotFoundError(
            f"no step {text} in {str(reader.directory)!r}; committed are {list(reader.steps())}"
        )
    return int(text)


def _reason(reader: Reader, step: int, error: CheckpointError) -> str:
    """Return what is wrong with a step, without naming the step again."""
    text = getattr(error, "reason", str(error))
    return text.removeprefix(f"checkpoint of step {step} in {str(reader.directory)!r} ")


def checkpoints(parsed: argparse.Namespace) -> None:
    """List, verify, show, compare, export and delete the checkpoints of a run.

    Without an ACTION they are listed. All actions but prune only read.
    """
    reader = _open(parsed)
    records = _records(reader)
    if parsed.json:
        mode = None if reader.monitor is None else reader.mode
        about = {"directory": reader.directory, "monitor": reader.monitor, "mode": mode}
        print_json({**about, "checkpoints": records})
        return
    print_table(_COLUMNS, [_cells(record, reader.monitor) for record in records])
    count = "1 checkpoint" if len(records) == 1 else f"{len(records)} checkpoints"
    best = "" if reader.monitor is None else f"; best by {reader.mode} of {reader.monitor}"
    print(printable(f"{count}, {size(sum(record['bytes'] for record in records))}{best}"))


def _records(reader: Reader) -> list[dict[str, Any]]:
    found = [record for step in reader.steps() if (record := _record(reader, step))]
    best = _best(reader)
    pinned = reader.pinned()
    for record in found:
        record["latest"] = record is found[-1]
        record["best"] = record["step"] == best
        record["pinned"] = record["step"] in pinned
    return found


def _best(reader: Reader) -> int | None:
    """Return the best step; None if one that is not damaged can't be read, and might be it."""
    if reader.monitor is None:
        return None
    try:
        return reader.best()
    except CheckpointError:  # its line in the list says why
        return None


def _record(reader: Reader, step: int) -> dict[str, Any] | None:
    """Return what there is to say of a step; None if it was deleted since it was listed."""
    metadata: dict[str, Any] = {}
    count, error = 0, None
    try:
        count = reader.size(step)
        metadata = reader.metadata(step)
        reader.leaves(step)
    except CheckpointNotFoundError:
        return None
    except CheckpointError as failure:
        error = _reason(reader, step, failure)
    names = ("metrics", "timestamp", "format_version", "versions")
    said = {name: metadata.get(name) for name in names}
    return {"step": step, "epoch": _epoch(metadata), **said, "bytes": count, "error": error}


def _epoch(metadata: Mapping[str, Any]) -> int | None:
    """Return the last epoch that had ended, from 0 as everywhere; the metadata count them."""
    done = metadata.get("epoch")
    return done - 1 if isinstance(done, int) and not isinstance(done, bool) and done > 0 else None


def _cells(record: dict[str, Any], monitor: str | None) -> tuple[str, ...]:
    metrics, versions, saved = (record[name] for name in ("metrics", "versions", "timestamp"))
    metrics = metrics if isinstance(metrics, Mapping) else {}
    shown = [monitor] if monitor in metrics else list(metrics)[:_SHOWN]
    notes = [name for name in ("latest", "best", "pinned") if record[name]]
    notes += [] if record["error"] is None else [f"cannot be read: {record['error']}"]
    return (
        str(record["step"]),
        "" if record["epoch"] is None else str(record["epoch"]),
        "  ".join(f"{name} {_number(metrics[name])}" for name in shown),
        size(record["bytes"]),
        "" if record["format_version"] is None else str(record["format_version"]),
        str(versions.get("odyssey_jax", "")) if isinstance(versions, Mapping) else "",
        when(saved) if isinstance(saved, int | float) and math.isfinite(saved) else "",
        ", ".join(notes),
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verify(parsed: argparse.Namespace) -> int:
    """Compare every byte with its checksum.

    The exit status is 1 if a checkpoint is not as it was saved; the file is named.
    """
    reader = _open(parsed)
    steps = [_step_of(reader, text) for text in parsed.steps] or reader.steps()
    records = []
    for step in steps:
        record: dict[str, Any] = {"step": step, "bytes": None, "error": None}
        try:
            record["bytes"] = reader.verify(step)
        except CheckpointNotFoundError:
            if parsed.steps:
                raise
            continue  # deleted since it was listed
        except CheckpointError as error:
            record["error"] = _reason(reader, step, error)
        records.append(record)
        if not parsed.json:
            print(printable(_verdict(step, record["bytes"], record["error"])), flush=True)
    if parsed.json:
        print_json({"directory": reader.directory, "checkpoints": records})
    return int(any(record["error"] is not None for record in records))


def _verdict(step: int, count: int, error: str | None) -> str:
    if error is not None:
        return f"step {step}: {error}"
    if count == 0:
        return f"step {step}: readable; it is of a format without checksums"
    return f"step {step}: good, {size(count)}"


def show(parsed: argparse.Namespace) -> None:
    """Print the tree with shapes, dtypes and sizes, and the metadata."""
    if parsed.depth is not None and parsed.depth < 1:
        raise ValueError(f"--depth must be at least 1, got {parsed.depth}.")
    reader = _open(parsed)
    step = _step_of(reader, parsed.step)
    metadata, leaves = reader.metadata(step), reader.leaves(step)
    if parsed.json:
        tree = [leaf._asdict() | {"name": leaf.name} for leaf in leaves]
        about = {"step": step, "epoch": _epoch(metadata), "metadata": metadata}
        print_json({**about, "leaves": tree})
        return
    for name, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(plain(value))
        if name == "epoch" and (last := _epoch(metadata)) is not None:
            text = f"{last}, the last that has ended"
        elif name == "timestamp" and isinstance(value, float):
            text = when(value)
        print(printable(f"{name}: {text}"))
    print()
    depth = parsed.depth or max((len(leaf.keys) for leaf in leaves), default=0)
    if rows := list(_nodes(leaves, depth)):
        print_table(("tree", "value", "size#"), rows)
    nbytes = sum(leaf.nbytes for leaf in leaves)
    print(f"{_count(len(leaves))}, {size(nbytes)}; {size(reader.size(step))} on the disk")


def _nodes(leaves: Sequence[SavedLeaf], depth: int, level: int = 0) -> Iterator[tuple[str, ...]]:
    """Yield a row for each node, before those of its children, down to a depth."""
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
            yield from _nodes(below, depth, level + 1)


def _count(leaves: int) -> str:
    return "1 leaf" if leaves == 1 else f"{leaves} leaves"


def diff(parsed: argparse.Namespace) -> None:
    """Compare two checkpoints leaf by leaf, and their metadata.

    Found are leaves that only one has, and differences in shape, dtype, or any bit of a value.
    """
    found = []
    for text in (parsed.a, parsed.b):
        directory, colon, step = text.rpartition(":")
        reader = _open(parsed, directory if colon else None)
        found.append((reader, _step_of(reader, step)))
    difference = compare(*found)
    if parsed.json:
        print_json(difference._asdict())
        return
    for path, what in difference.leaves.items():
        print(printable(f"{path}: {what}"))
    for name, (a, b) in difference.metadata.items():
        print(printable(f"metadata {name}: {a!r} in A, {b!r} in B"))
    total = difference.equal + len(difference.leaves)
    print(f"{difference.equal} of {total} leaves are equal to the bit")


def export(parsed: argparse.Namespace) -> None:
    """Write the parameters for other tools.

    They are written to a safetensors file, or to the directory of a plain Orbax checkpoint.
    """
    reader = _open(parsed)
    step = _step_of(reader, parsed.step)
    how = {"format": parsed.format, "subtree": parsed.subtree}
    path = export_params(reader.directory, parsed.path, step, **how)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    nbytes = size(sum(file.stat().st_size for file in files))
    print(f"in {parsed.path}: {parsed.subtree or 'the tree'} of step {step}, {nbytes}")


def prune(parsed: argparse.Namespace) -> None:
    """Delete what a rule does not keep.

    Without --yes nothing is deleted, and what would be is printed. The latest is always kept, and
    so is what is pinned and what can't be read.
    """
    if parsed.json:
        raise ValueError("prune has no --json.")
    for name, least in (("keep_last", 1), ("keep_best", 0), ("keep_every", 1)):
        value = getattr(parsed, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must be at least {least}, got {value}.")
    reader = _open(parsed)
    if parsed.keep_best and reader.monitor is None:
        raise ValueError("--keep-best needs --monitor and --mode: no metric was recorded.")
    values = _values(reader)
    kept = retain(
        values,
        parsed.keep_last,
        parsed.keep_best,
        reader.mode,
        keep_every=parsed.keep_every,
        pinned=reader.pinned(),
    )
    doomed = sorted(values.keys() - kept)
    freed = reader.freed(doomed)
    if doomed and parsed.yes:
        with Store(reader.directory, keep_last=None) as store:
            store.forget(doomed)
    done = "deleted" if parsed.yes else "to be deleted with --yes"
    print(f"kept: {_listed(sorted(set(reader.steps()) - set(doomed)))}")
    print(f"{done}: {_listed(doomed)}" + (f", {size(freed)}" if doomed else ""))


def _values(reader: Reader) -> dict[int, Any]:
    """Return the monitored value of each step that can be read."""
    values: dict[int, Any] = {}
    for step in reader.steps():
        try:
            metrics = reader.metadata(step).get("metrics")
            value = metrics.get(reader.monitor) if isinstance(metrics, Mapping) else None
        except CheckpointNotFoundError:
            continue  # deleted since it was listed
        except CheckpointError as error:
            why = printable(_reason(reader, step, error))
            print(f"? step {step} is kept, since it cannot be read: {why}")
            continue
        values[step] = float(value) if isinstance(value, int | float) else None
    return values


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
