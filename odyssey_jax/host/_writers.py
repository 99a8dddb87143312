"""Where the history goes while it grows: one small protocol, and the JSON lines file."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, int | float]


class RunInfo(NamedTuple):
    """What a writer is told when a run begins or goes on.

    Args:
        directory: the run's directory, or None.
        epochs: the number of epochs that the run may last.
        rows: the history so far: of the epochs before the step that the run goes on from.
    """

    directory: Path | None
    epochs: int
    rows: Sequence[Row]


class Writer(Protocol):
    """Something that rows of the history are written to, in order and without gaps."""

    def open(self, run: RunInfo) -> None:
        """Makes ready; whatever was written past `run.rows` before is taken back."""
        ...

    def write(self, rows: Sequence[Row], steps_per_second: float) -> None:
        """Writes the epochs that ended since the last call, at least one."""
        ...

    def close(self) -> None:
        """Lets go of files and of the terminal; also called when the run fails."""
        ...


class JsonLines:
    """Writes a line of JSON for each epoch: epoch, step and every scalar metric.

    The file always is the history, no more and no less: after a resume it is written anew up to
    the restored step. Lines hold nothing that depends on the clock on the wall, so an
    interrupted run ends with the same file as an uninterrupted one. NaN is null, infinities are
    the strings "Infinity" and "-Infinity": the lines are strict JSON.

    Args:
        name: the file's name in the run's directory.
    """

    def __init__(self, name: str = "metrics.jsonl"):
        self._name = name
        self._file: Any = None

    def open(self, run: RunInfo) -> None:
        """Writes the rows so far, in place of whatever the file held."""
        if run.directory is None:
            raise ValueError(f"a {self._name} needs a directory: pass fit(directory=...).")
        path = run.directory / self._name
        scratch = path.with_name(path.name + ".tmp")
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text("".join(map(_line, run.rows)), encoding="utf-8")
            os.replace(scratch, path)
            self._file = path.open("a", encoding="utf-8")

    def write(self, rows: Sequence[Row], steps_per_second: float) -> None:
        """Appends the rows."""
        del steps_per_second
        with _naming(Path(self._file.name)):
            self._file.write("".join(map(_line, rows)))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            # What could not be written was reported by `write`; closing would try again.
            with contextlib.suppress(OSError):
                self._file.close()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


def _line(row: Row) -> str:
    return json.dumps({k: _plain(v) for k, v in row.items()}, allow_nan=False) + "\n"


def _plain(value: int | float) -> int | float | str | None:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"
