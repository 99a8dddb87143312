"""Columns by name, as a mapping that prints as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from odyssey_jax._text import missing
from odyssey_jax.writers import Row

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

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self._columns = dict(columns)

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
        cells = [
            [name, *("..." if row is None else f"{column[row]:.6g}" for row in chosen)]
            for name, column in self._columns.items()
        ]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*cells, strict=True)
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )

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
