"""Columns by name, as a mapping that prints as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from odyssey_jax._text import missing
from odyssey_jax.writers import Row
from odyssey_jax.writers._writer import always

_SHOWN = 10  # rows printed: half from the start, half from the end


def length(columns: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows of columns."""
    return len(next(iter(columns.values()), ()))


def as_rows(columns: Mapping[str, np.ndarray]) -> list[Row]:
    """Return columns as rows; floats as the shortest decimals that read back alike."""
    plain = {
        name: [float(str(x)) if x.dtype.kind == "f" else int(x) for x in column]
        for name, column in columns.items()
    }
    return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]


class Table(Mapping[str, np.ndarray]):
    """Columns of one length by name: a mapping, with `to_pandas` where pandas is installed.

    Args:
        columns: Name to array [rows].
        is_measured: Name and epoch to whether there is a value: where there is none, "-" is
            printed. The epoch is that in the column of this name.

    Example:
        >>> table = Table({"epoch": np.arange(3), "loss": np.array([2.0, 1.0, 0.5], np.float32)})
        >>> table["loss"][-1], len(table["epoch"])
        (np.float32(0.5), 3)
        >>> table
        epoch  loss
            0     2
            1     1
            2   0.5
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], is_measured: Callable[[str, int], bool] = always
    ):
        self._columns, self._is_measured = dict(columns), is_measured

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"there is no column {name!r}; there are: {', '.join(self._columns)}")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        rows = length(self._columns)
        half = _SHOWN // 2
        chosen = list(range(rows))
        if rows > _SHOWN:
            chosen = [*chosen[:half], None, *chosen[-half:]]
        cells = [[name, *(self._cell(name, row) for row in chosen)] for name in self._columns]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*cells, strict=True)
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )

    def _cell(self, name: str, row: int | None) -> str:
        if row is None:
            return "..."
        epochs = self._columns.get("epoch")
        if epochs is not None and not self._is_measured(name, int(epochs[row])):
            return "-"
        return f"{self._columns[name][row]:.6g}"

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`, a row for each epoch or sample.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise missing("pandas", "pandas") from error
        return pandas.DataFrame(self._columns)
