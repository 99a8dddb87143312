"""A run as text files: one line of JSON or of comma-separated values for each row."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from odyssey_jax import _files
from odyssey_jax._text import say
from odyssey_jax.writers._writer import Live, Row, RunInfo

_Text = Callable[[Row], str]


class _TableWriter:
    """Write the two tables of a run: its epochs, and its sampled steps if there are any.

    Args:
        name: The name of the epochs' file in the run's directory.
        steps: The name of the steps' file.
        line: A row as text.
        head: What precedes the first row, made of it.
    """

    reads_state = False

    def __init__(self, name: str, steps: str, line: _Text, head: _Text = lambda row: ""):
        if name == steps:
            raise ValueError(f"name and steps must be two files, got {name!r} for both.")
        self._names, self._format = (name, steps), (line, head)
        self._files: list[_TableFile] = []

    def open(self, run: RunInfo) -> None:
        """Replace the files' contents by the rows so far."""
        if run.directory is None:
            raise ValueError(
                f"{type(self).__name__} writes {self._names[0]}, and needs a directory: "
                "pass fit(directory=...)."
            )
        self._files = [_TableFile(run.directory / name, *self._format) for name in self._names]
        epochs, steps = self._files
        epochs.open(run.rows)
        if run.samples:
            steps.open(run.samples)
        else:
            steps.path.unlink(missing_ok=True)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Append the rows."""
        for file, new in zip(self._files, (rows, live.samples), strict=True):
            file.append(new)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


class _TableFile:
    """A file that is replaced when it is opened, and then grows.

    Whatever half a line a killed run left is gone after `open`.
    """

    def __init__(self, path: Path, line: _Text, head: _Text):
        # Absolute: the program may change its working directory before there is a row.
        self.path, self._line, self._head = path.absolute(), line, head
        self._file: BinaryIO | None = None
        self._begun = False

    def open(self, rows: Sequence[Row]) -> None:
        """Replace the file by the rows, atomically."""
        scratch = self.path.with_name(self.path.name + ".tmp")
        with _named(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Kept open: a link that is put in its place later is not followed.
            self._file = _files.create(scratch)
            self._file.write(self._text(rows))
            self._file.flush()
            os.replace(scratch, self.path)

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows to the end; the first ones create the file."""
        if rows and self._file is None:
            self.open(rows)
        elif rows and self._file is not None:
            with _named(self.path):
                self._file.write(self._text(rows))
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            # What could not be written was reported by `append`; closing would try again.
            with contextlib.suppress(OSError):
                self._file.close()

    def _text(self, rows: Sequence[Row]) -> bytes:
        head = self._head(rows[0]) if rows and not self._begun else ""
        self._begun = self._begun or bool(rows)
        return (head + "".join(map(self._line, rows))).encode()


class JsonLines(_TableWriter):
    """Write a line of JSON for each epoch: epoch, step and every scalar metric.

    The file always equals the history: a resumed run rewrites it up to the restored step. No
    line depends on the wall clock, so an interrupted run ends with the same file as an
    uninterrupted one. The lines are strict JSON: NaN is null, infinities are the strings
    "Infinity" and "-Infinity".

    What hooks return of numbers and texts goes to a third file, "step", "name" and "value" in each
    line; pictures don't, which is said once.

    Args:
        name: The file's name in the run's directory.
        steps: The name of the file of sampled steps, which exists if steps are sampled.
        shown: The name of the file of what hooks return, which exists if they return any.
    """

    def __init__(
        self, name: str = "metrics.jsonl", steps: str = "steps.jsonl", shown: str = "shown.jsonl"
    ):
        if shown in (name, steps):
            raise ValueError(f"shown must be another file, got {shown!r} twice.")
        super().__init__(name, steps, _json_line)
        self._shown, self._left_out = shown, False

    def open(self, run: RunInfo) -> None:
        """Replace the files' contents by the rows so far."""
        super().open(run)
        assert run.directory is not None
        file = _TableFile(run.directory / self._shown, *self._format)
        self._files.append(file)
        if before := _until(file.path, run.step):
            file.open(before)
        else:
            file.path.unlink(missing_ok=True)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Append the rows."""
        for file, new in zip(self._files[:2], (rows, live.samples), strict=True):
            file.append(new)

    def show(self, step: int, name: str, value: Any) -> None:
        """Append what a hook returns: a text or a number."""
        if isinstance(value, str | float):
            line: Any = {"step": step, "name": name, "value": value}
            self._files[2].append([line])
        elif not self._left_out:
            self._left_out = True
            say(f"pictures such as {name!r} are not written to {self._shown}: TensorBoard has them")


class CsvFile(_TableWriter):
    """Write a line of comma-separated values for each epoch, below a line of their names.

    As with `JsonLines` the file always equals the history, however often the run was
    interrupted. Numbers are written so that `float` reads them, "nan" and "inf" included.

    Args:
        name: The file's name in the run's directory.
        steps: The name of the file of sampled steps, which exists if steps are sampled.
    """

    def __init__(self, name: str = "metrics.csv", steps: str = "steps.csv"):
        super().__init__(name, steps, lambda row: _csv_line(row.values()), _csv_line)


def _until(path: Path, step: int) -> list[Any]:
    """Return the lines of what was shown up to a step; not what a killed run left of one."""
    found = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        if path.is_symlink() or not path.is_file():
            return found
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if 0 < row["step"] <= step:
                found.append({name: row[name] for name in ("step", "name", "value")})
    return found


def _json_line(row: Row) -> str:
    plain = {name: _plain(value) for name, value in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _plain(value: int | float | str | None) -> int | float | str | None:
    if value is None or isinstance(value, str):
        return value
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


def _csv_line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in an error of the operating system."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
