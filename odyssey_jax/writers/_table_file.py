"""A text file with a line for each row, which always is the history: no more and no less."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from odyssey_jax.writers._writer import Live, Row, RunInfo

Lines = Callable[[Sequence[Row]], str]


class TableFile:
    """Written anew when it is opened, whatever half a line an interrupted run left; then grows.

    Args:
        path: the file.
        lines: rows as text.
        head: what comes before the first row, made of it.
    """

    def __init__(self, path: Path, lines: Lines, head: Callable[[Row], str] = lambda row: ""):
        self.path, self._lines, self._head = path, lines, head
        self._file: Any = None
        self._begun = False

    def open(self, rows: Sequence[Row]) -> None:
        """Puts the rows in place of what the file holds, at once."""
        scratch = self.path.with_name(self.path.name + ".tmp")
        with _naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(self._text(rows), encoding="utf-8", newline="")
            os.replace(scratch, self.path)
            self._file = self.path.open("a", encoding="utf-8", newline="")

    @property
    def is_open(self) -> bool:
        """Whether rows can be appended."""
        return self._file is not None

    def append(self, rows: Sequence[Row]) -> None:
        """Writes rows to the end."""
        with _naming(self.path):
            self._file.write(self._text(rows))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            # What could not be written was reported by `append`; closing would try again.
            with contextlib.suppress(OSError):
                self._file.close()

    def _text(self, rows: Sequence[Row]) -> str:
        if not rows:
            return ""
        head = "" if self._begun else self._head(rows[0])
        self._begun = True
        return head + self._lines(rows)


class TableWriter:
    """Writes the two tables of a run: its epochs, and its sampled steps if there are any.

    Args:
        epochs: name of the epochs' file in the run's directory.
        steps: name of the steps' file.
        lines: rows as text.
        head: as for `TableFile`.
    """

    reads_state = False

    def __init__(
        self, epochs: str, steps: str, lines: Lines, head: Callable[[Row], str] = lambda row: ""
    ):
        if epochs == steps:
            raise ValueError(f"name and steps must be two files, got {epochs!r} for both.")
        self._names, self._how = (epochs, steps), (lines, head)
        self._files: list[TableFile] = []

    def open(self, run: RunInfo) -> None:
        """Writes the rows so far, in place of whatever the files held."""
        if run.directory is None:
            raise ValueError(
                f"{type(self).__name__} writes {self._names[0]}, and needs a directory: "
                "pass fit(directory=...)."
            )
        self._files = [TableFile(run.directory / name, *self._how) for name in self._names]
        epochs, steps = self._files
        epochs.open(run.rows)
        if run.samples:
            steps.open(run.samples)
        else:
            steps.path.unlink(missing_ok=True)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Appends the rows."""
        for file, new in zip(self._files, (rows, live.samples), strict=True):
            if new and not file.is_open:
                file.open(new)
            elif new:
                file.append(new)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
