"""The list: every committed step, those that can't be read included."""

from __future__ import annotations

import argparse
from typing import Any

from odyssey_jax.cli._output import print_json, print_table, size, when
from odyssey_jax.cli.checkpoints._where import open_reader, reason
from odyssey_jax.store import CheckpointError, CheckpointNotFoundError, Reader

_COLUMNS = ("step#", "epoch#", "metrics", "size#", "format#", "odyssey_jax", "saved", "")
_SHOWN = 3  # metrics, where none is monitored


def run(parsed: argparse.Namespace) -> None:
    """Lists the checkpoints."""
    reader = open_reader(parsed)
    records = _records(reader)
    if parsed.json:
        print_json(
            {
                "directory": reader.directory,
                "monitor": reader.monitor,
                "mode": None if reader.monitor is None else reader.mode,
                "checkpoints": records,
            }
        )
        return
    print_table(_COLUMNS, [_cells(record, reader.monitor) for record in records])
    count = "1 checkpoint" if len(records) == 1 else f"{len(records)} checkpoints"
    best = "" if reader.monitor is None else f"; best by {reader.mode} of {reader.monitor}"
    print(f"{count}, {size(sum(record['bytes'] for record in records))}{best}")


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
    """The best step; None where one that is not damaged, and can't be read, might be it."""
    if reader.monitor is None:
        return None
    try:
        return reader.best()
    except CheckpointError:  # its line says why
        return None


def _record(reader: Reader, step: int) -> dict[str, Any] | None:
    """What there is to say of a step; None if it was deleted since it was listed."""
    metadata: dict[str, Any] = {}
    count, error = 0, None
    try:
        count = reader.size(step)
        metadata = reader.metadata(step)
        reader.leaves(step)
    except CheckpointNotFoundError:
        return None
    except CheckpointError as failure:
        error = reason(reader, step, failure)
    names = ("epoch", "metrics", "timestamp", "format_version", "versions")
    said = {name: metadata.get(name) for name in names}
    return {"step": step, **said, "bytes": count, "error": error}


def _cells(record: dict[str, Any], monitor: str | None) -> tuple[str, ...]:
    metrics = record["metrics"] or {}
    shown = [monitor] if monitor in metrics else list(metrics)[:_SHOWN]
    notes = [name for name in ("latest", "best", "pinned") if record[name]]
    notes += [] if record["error"] is None else [f"cannot be read: {record['error']}"]
    return (
        str(record["step"]),
        "" if record["epoch"] is None else str(record["epoch"]),
        "  ".join(f"{name} {_number(metrics[name])}" for name in shown),
        size(record["bytes"]),
        "" if record["format_version"] is None else str(record["format_version"]),
        (record["versions"] or {}).get("odyssey_jax", ""),
        "" if record["timestamp"] is None else when(record["timestamp"]),
        ", ".join(notes),
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
