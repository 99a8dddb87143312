"""A line of JSON for each epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from odyssey_jax.writers._table_file import TableWriter
from odyssey_jax.writers._writer import Row


class JsonLines(TableWriter):
    """Writes a line of JSON for each epoch: epoch, step and every scalar metric.

    The file always is the history, no more and no less: after a resume it is written anew up to
    the restored step. Lines hold nothing that depends on the clock on the wall, so an
    interrupted run ends with the same file as an uninterrupted one. NaN is null, infinities are
    the strings "Infinity" and "-Infinity": the lines are strict JSON.

    Args:
        name: the file's name in the run's directory.
        steps: the name of the file of sampled steps, which is there if steps are sampled.
    """

    def __init__(self, name: str = "metrics.jsonl", steps: str = "steps.jsonl"):
        super().__init__(name, steps, _lines)


def _lines(rows: Sequence[Row]) -> str:
    plain = ({name: _plain(value) for name, value in row.items()} for row in rows)
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in plain)


def _plain(value: int | float) -> int | float | str | None:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"
