"""`prune`: deletes what a rule does not keep, and without --yes only says what that is."""

from __future__ import annotations

import argparse
from typing import Any

from odyssey_jax.cli._output import size
from odyssey_jax.cli.checkpoints._where import open_reader, reason
from odyssey_jax.store import CheckpointError, CheckpointNotFoundError, Reader, Store, retain


def add_parser(actions: Any) -> None:
    """Adds the action."""
    action = actions.add_parser(
        "prune",
        help="delete what a rule does not keep",
        description="Says which checkpoints a rule does not keep, and with --yes deletes them. "
        "The latest is always kept, and so is what is pinned and what can't be read.",
    )
    action.add_argument("--keep-last", type=int, required=True, metavar="N", help="the newest N")
    action.add_argument("--keep-best", type=int, default=0, metavar="K", help="the best K")
    action.add_argument(
        "--keep-every", type=int, metavar="N", help="the steps that are multiples of N"
    )
    action.add_argument("--yes", action="store_true", help="delete them")
    action.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """Deletes checkpoints."""
    if parsed.json:
        raise ValueError("prune has no --json.")
    for name, least in (("keep_last", 1), ("keep_best", 0), ("keep_every", 1)):
        value = getattr(parsed, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must be at least {least}, got {value}.")
    reader = open_reader(parsed)
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
    freed = sum(reader.size(step) for step in doomed)
    if doomed and parsed.yes:
        with Store(reader.directory, keep_last=None) as store:
            store.forget(doomed)
    done = "deleted" if parsed.yes else "to be deleted with --yes"
    print(f"kept: {_listed(sorted(set(reader.steps()) - set(doomed)))}")
    print(f"{done}: {_listed(doomed)}" + (f", {size(freed)}" if doomed else ""))


def _values(reader: Reader) -> dict[int, Any]:
    """The monitored value of each step that can be read."""
    values: dict[int, Any] = {}
    for step in reader.steps():
        try:
            value = reader.metadata(step).get("metrics", {}).get(reader.monitor)
        except CheckpointNotFoundError:
            continue  # deleted since it was listed
        except CheckpointError as error:
            print(f"? step {step} is kept, since it cannot be read: {reason(reader, step, error)}")
            continue
        values[step] = float(value) if isinstance(value, int | float) else None
    return values


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
