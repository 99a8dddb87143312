"""The runs under a directory: what each was, how far it got, and why it ended.

Read from what `fit` leaves there, without the model's code and without changing anything.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from odyssey_jax._direction import direction
from odyssey_jax._types import Mode
from odyssey_jax.runs._checkpoints import CHECKPOINTS, unknown_mode
from odyssey_jax.schedules import named_form
from odyssey_jax.store import (
    BucketPath,
    CheckpointError,
    CheckpointNotFoundError,
    Reader,
    as_directory,
)
from odyssey_jax.store._objects import Objects

_LINES = "metrics.jsonl"
_COMMITTED = re.compile(rf"(.*/|){CHECKPOINTS}/[0-9]+\.committed")
_MOST_BYTES = 2**28  # of a file of lines that is read: 256 MB
_MOST_LETTERS = 2**20  # of a line
_MOST_CELLS = 2**25  # of a history: 256 MB of numbers

# What a parser raises at a document that is mangled, or nested without an end.
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError),
    *(RecursionError, MemoryError),
)
_DEFAULTS = ("valid/loss", "train/loss")


class BestEpoch(NamedTuple):
    """The best epoch of a run by one metric.

    Attributes:
        metric: The metric's name.
        epoch: The first of the best epochs.
        value: The metric there.
    """

    metric: str
    epoch: int
    value: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, as read from its directory.

    Attributes:
        directory: The run's directory.
        history: Column to array [epochs]: "epoch", "step" and the scalar metrics; from
            `metrics.jsonl`, or without one, the epochs that have a checkpoint.
        metadata: That of the newest checkpoint that can be read; empty if there is none.
        troubles: What could not be read, and why.
    """

    directory: Path | BucketPath
    history: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    metadata: Mapping[str, Any] = dataclasses.field(repr=False)
    troubles: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """The epochs done, as far as is recorded."""
        seen = self.history.get("epoch", np.zeros(0))
        return max(_count(self.metadata, "epoch") or 0, int(seen.max()) + 1 if seen.size else 0)

    @property
    def last_epochs(self) -> int | None:
        """The epochs after which it is complete; None if unknown."""
        return _count(self.metadata, "epochs")

    @property
    def reason(self) -> str | None:
        """Why it ended, or that it had not at its last save; None if unknown."""
        reason = self.metadata.get("reason")
        return reason if isinstance(reason, str) else None

    @property
    def seconds(self) -> float | None:
        """The seconds until its last save, without compilation and saving; None if unknown."""
        return _finite(self.metadata, "seconds")

    @property
    def timestamp(self) -> float | None:
        """The time of its last save, in seconds since 1970; None if unknown."""
        return _finite(self.metadata, "timestamp")

    @property
    def schedule(self) -> str | None:
        """Its learning-rate schedule as it prints; None if it is part of the optimizer."""
        form = self.metadata.get("schedule")
        try:
            return None if form is None else named_form(form)
        except _UNREADABLE:  # a store of the user's own, or of a stranger
            return None

    def best(self, metric: str | None = None, mode: Mode | None = None) -> BestEpoch | None:
        """Find the best epoch.

        Args:
            metric: The metric's name; None is the one that its checkpoints were kept by, or
                "valid/loss", or "train/loss".
            mode: Whether "min" or "max" is better; None is as its checkpoints were kept by that
                metric, or as its name says.

        Returns:
            The first of the best epochs, or None if the run has no number of that name. NaN is
            never best.

        Raises:
            ValueError: If it is not known whether "min" or "max" of the metric is better.
        """
        metric, mode = self._chosen(metric, mode)
        values = self.history.get(metric, np.full(1, np.nan))
        if np.isnan(values).all():
            return None
        row = int(np.nanargmin(values) if mode == "min" else np.nanargmax(values))
        return BestEpoch(metric, int(self.history["epoch"][row]), float(values[row]))

    @property
    def monitor(self) -> tuple[str, Mode] | None:
        """The metric that its best checkpoints were kept by, and which is better; or None."""
        kept = self.metadata.get("retention")
        kept = kept if isinstance(kept, Mapping) else {}
        monitor, mode = kept.get("monitor"), kept.get("mode")
        if not isinstance(monitor, str) or not monitor or mode not in ("min", "max"):
            return None
        return monitor, mode

    def _chosen(self, metric: str | None, mode: Mode | None) -> tuple[str, Mode]:
        if metric is None:
            found = (name for name in _DEFAULTS if name in self.history)
            metric = self.monitor[0] if self.monitor else next(found, _DEFAULTS[0])
        mode = mode or known_mode([self], metric)
        if mode not in ("min", "max"):
            raise unknown_mode(metric, mode)
        return metric, mode


def known_mode(runs: Iterable[Run], metric: str) -> Mode | None:
    """Return whether "min" or "max" of a metric is better.

    Args:
        runs: Runs, of which one may have kept its checkpoints by the metric.
        metric: The metric's name.

    Returns:
        The mode of the first such run, else as the metric's name says, else None.
    """
    for run in runs:
        if run.monitor is not None and run.monitor[0] == metric:
            return run.monitor[1]
    return direction(metric)


def find_runs(directory: str | os.PathLike[str]) -> tuple[Run, ...]:
    """Find the runs in a directory and below: what has checkpoints or a `metrics.jsonl`.

    Nothing is changed, and the model's code is not needed. What can't be read of a run is among
    its `troubles`, and hides no other run.

    Args:
        directory: The directory of one run, or of many.

    Returns:
        The runs, in the order of their paths.

    Raises:
        ValueError: If it is not a directory.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for rate in (0.1, 0.5):
        ...         result = ody.fit(task, optax.sgd, data, epochs=2, learning_rate=rate,
        ...                          directory=f"{folder}/rate{rate}", writers=[ody.JsonLines()])
        ...     for run in ody.runs.find_runs(folder):
        ...         print(run.directory.name, run.schedule, run.epochs, run.reason)
        rate0.1 constant(value=0.1) 2 completed all 2 epochs
        rate0.5 constant(value=0.5) 2 completed all 2 epochs
    """
    root = as_directory(directory)
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is not a directory: give that of a run, or of many.")
    return tuple(sorted(_found(root), key=lambda run: run.directory))


def name_below(directory: str | os.PathLike[str], run: Run) -> str:
    """Return what a run that was found under a directory is called.

    Args:
        directory: What was given to `find_runs`.
        run: One of those found.

    Returns:
        Its path from there; of the directory itself, its name.
    """
    path = str(run.directory.relative_to(as_directory(directory)))
    return run.directory.name if path == "." else path


def _found(root: Path | BucketPath) -> Iterator[Run]:
    if isinstance(root, BucketPath):
        yield from _found_in_bucket(root)
        return
    unlisted: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unlisted.append):
        if CHECKPOINTS in folders or _LINES in files or _LINES in folders:
            yield _read(Path(folder), Path(folder, _LINES))
        if CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)  # nothing below it is a run
    for error in unlisted:
        yield Run(Path(error.filename), {}, {}, (f"it cannot be listed: {error.strerror}",))


def _found_in_bucket(root: BucketPath) -> Iterator[Run]:
    objects = Objects(root)
    names = list(objects.sizes())
    lines = {name for name in names if name.rpartition("/")[2] == _LINES}
    folders = {name.rpartition("/")[0] for name in lines}
    folders |= {found[1].rstrip("/") for name in names if (found := _COMMITTED.fullmatch(name))}
    for folder in folders:
        with tempfile.TemporaryDirectory() as here:
            copy, name = Path(here, _LINES), f"{folder}/{_LINES}".lstrip("/")
            if name in lines:
                objects.download({name: copy})
            yield _read(root / folder if folder else root, copy)


def _read(directory: Path | BucketPath, lines: Path) -> Run:
    troubles: list[str] = []
    saved = _metadata(directory / CHECKPOINTS, troubles)
    rows = _rows(lines, troubles) if os.path.lexists(lines) else list(map(_row, saved))
    return Run(directory, _columns(rows), saved[-1] if saved else {}, tuple(troubles))


def _metadata(checkpoints: Path | BucketPath, troubles: list[str]) -> list[dict[str, Any]]:
    """Return the metadata of each checkpoint that can be read."""
    found: list[dict[str, Any]] = []
    try:
        reader = Reader(checkpoints)
        steps = reader.steps()
    except (CheckpointError, OSError, *_UNREADABLE) as error:
        troubles.append(str(error))
        return found
    for step in steps:
        try:
            found.append({**reader.metadata(step)})
        except CheckpointNotFoundError:  # deleted since it was listed: the run goes on
            continue
        except CheckpointError as error:
            troubles.append(str(error))
        except (OSError, *_UNREADABLE) as error:
            what = f"{type(error).__name__}: {error}"
            troubles.append(f"step {step} in {str(checkpoints)!r} cannot be read: {what}")
    return found


def _row(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return a checkpoint as a row of a history: its epoch is the last one that had ended."""
    clock = {"epoch": (_count(metadata, "epoch") or 0) - 1, "step": _count(metadata, "step") or 0}
    metrics = metadata.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    values = {str(name): x for name in metrics if (x := _number(metrics, name)) is not None}
    return values | clock


def _number(values: Mapping[str, Any], name: str) -> float | None:
    # A store of the user's own may hold anything under the names that `fit` uses.
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer of JSON may be larger than any float.
    return None if isinstance(value, int) and abs(value) > 2**63 else value


def _finite(values: Mapping[str, Any], name: str) -> float | None:
    value = _number(values, name)
    return value if value is not None and math.isfinite(value) else None


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = _finite(values, name)
    return None if value is None or abs(value) > 2**63 else int(value)


def _rows(path: Path, troubles: list[str]) -> list[dict[str, Any]]:
    """Return the lines of a file, up to one that can't be read."""
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    number, line = 0, ""
    try:
        with _opened(path) as file:
            for number, line in enumerate(_lines(file), 1):
                row = {name: _read_number(x) for name, x in json.loads(line).items()}
                epoch = float(int(row.pop("epoch")))
                if not 0 <= epoch < 2**53:
                    raise ValueError(f"epoch {epoch:g} is none")
                names |= row.keys()
                if len(names) * number > _MOST_CELLS:
                    troubles.append(f"{path} is read to line {number - 1}: the rest is too much")
                    break
                rows.append({"epoch": epoch, **row})
    except (OSError, UnicodeDecodeError, _TooLongError) as error:
        troubles.append(f"{path} cannot be read: {error}")
    except _UNREADABLE:
        troubles.append(f"{path}, line {number} is no row of a history: {line[:60]!r}")
    return rows


class _TooLongError(Exception):
    """A file that is no history: it has a line, or lines, without an end."""


def _opened(path: Path) -> TextIO:
    """Open a file, and nothing else: a pipe would be waited for, a device has no end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is not a file")
    return os.fdopen(file, encoding="utf-8")


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines; one without an end is being written, or its writer was killed."""
    letters = 0
    while (line := file.readline(_MOST_LETTERS)).endswith("\n"):
        letters += len(line)
        if letters > _MOST_BYTES:
            raise _TooLongError(f"it has more than {_MOST_BYTES} letters")
        yield line.rstrip("\n")
    if len(line) >= _MOST_LETTERS:
        raise _TooLongError(f"a line has more than {_MOST_LETTERS} letters")


def _read_number(value: Any) -> float:
    """Undo what `JsonLines` does to the numbers that JSON lacks."""
    return float("nan" if value is None else value)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}
