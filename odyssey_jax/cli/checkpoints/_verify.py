"""`verify`: every byte of the checkpoints, against its checksum."""

from __future__ import annotations

import argparse
from typing import Any

from odyssey_jax.cli._output import print_json, size
from odyssey_jax.cli.checkpoints._where import open_reader, reason, step_of
from odyssey_jax.store import CheckpointError, CheckpointNotFoundError, Reader


def add_parser(actions: Any) -> None:
    """Adds the action."""
    action = actions.add_parser(
        "verify",
        help="compare every byte with its checksum",
        description="Compares every byte with its checksum. The status is 1 if one checkpoint is "
        "not as it was saved, and the file is named.",
    )
    action.add_argument("steps", nargs="*", metavar="STEP", help="which (default: all)")
    action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    action.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Verifies the checkpoints."""
    reader = open_reader(parsed)
    steps = [step_of(reader, text) for text in parsed.steps] or reader.steps()
    records = []
    for step in steps:
        try:
            record = _record(reader, step)
        except CheckpointNotFoundError:
            if parsed.steps:
                raise
            continue  # deleted since it was listed
        records.append(record)
        if not parsed.json:
            print(_line(record), flush=True)
    if parsed.json:
        print_json({"directory": reader.directory, "checkpoints": records})
    return int(any(record["error"] is not None for record in records))


def _record(reader: Reader, step: int) -> dict[str, Any]:
    try:
        return {"step": step, "bytes": reader.verify(step), "error": None}
    except CheckpointNotFoundError:
        raise
    except CheckpointError as error:
        return {"step": step, "bytes": None, "error": reason(reader, step, error)}


def _line(record: dict[str, Any]) -> str:
    step, count, error = record["step"], record["bytes"], record["error"]
    if error is not None:
        return f"step {step}: {error}"
    if count == 0:
        return f"step {step}: readable; it is of a format without checksums"
    return f"step {step}: good, {size(count)}"
