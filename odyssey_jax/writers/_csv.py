"""A line of comma-separated values for each epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from odyssey_jax.writers._table_file import TableWriter
from odyssey_jax.writers._writer import Row


class CsvFile(TableWriter):
    """Writes a line of comma-separated values for each epoch, under a line of their names.

    As with `JsonLines` the file always is the history, and does not depend on how often the run
    was interrupted. Numbers are as `float` reads them, "nan" and "inf" included.

    Args:
        name: the file's name in the run's directory.
        steps: the name of the file of sampled steps, which is there if steps are sampled.
    """

    def __init__(self, name: str = "metrics.csv", steps: str = "steps.csv"):
        super().__init__(name, steps, _lines, lambda row: _text([row.keys()]))


def _lines(rows: Sequence[Row]) -> str:
    return _text(row.values() for row in rows)


def _text(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
