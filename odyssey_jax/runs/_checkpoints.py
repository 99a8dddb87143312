"""Where a run keeps its checkpoints, and by which metric they are ranked."""

from __future__ import annotations

import os
from typing import Any

from odyssey_jax._direction import direction
from odyssey_jax._types import Mode
from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    Reader,
    as_directory,
)

CHECKPOINTS = "checkpoints"


def open_checkpoints(
    directory: str | os.PathLike[str], monitor: str | None = None, mode: Mode | None = None
) -> Reader:
    """Open the checkpoints of a run for reading, ranked as the run ranked them.

    Args:
        directory: The run's directory, or that of its checkpoints.
        monitor: The metric that says which is best; None is the one that the newest readable
            checkpoint was kept by, if any.
        mode: Whether "min" or "max" of it is better; None is as the checkpoints were kept, or as
            its name says.

    Returns:
        A reader of at least one checkpoint; its `monitor` is None if no metric was recorded.

    Raises:
        ValueError: If it is not known whether "min" or "max" of the metric is better.
        CheckpointNotFoundError: If there is no such directory, or no checkpoint in it.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from odyssey_jax.store import Store
        >>> with tempfile.TemporaryDirectory() as run:
        ...     with Store(f"{run}/checkpoints", monitor="valid/loss") as store:
        ...         store.save(10, {"w": np.zeros(3)}, {"metrics": {"valid/loss": 0.5}})
        ...     reader = open_checkpoints(run)
        ...     reader.monitor, reader.best()
        ('valid/loss', 10)
    """
    root = as_directory(directory)
    if not root.is_dir():
        raise CheckpointNotFoundError(
            f"there is no checkpoint in {os.fspath(directory)!r}: it is not a directory; give that "
            "of a run or a store"
        )
    below = root / CHECKPOINTS
    reader = Reader(below if below.is_dir() else root)
    if not reader.steps():
        raise CheckpointNotFoundError(
            f"there is no checkpoint in {str(reader.directory)!r}; `odyssey-jax runs DIR` finds "
            "the runs below a directory"
        )
    kept = {} if monitor and mode else _retention(reader)
    known = kept.get("monitor")
    monitor = monitor or (known if isinstance(known, str) else None)
    mode = mode or (kept.get("mode") if monitor == known else None)
    mode = mode if mode in ("min", "max") else None
    if monitor is not None and mode is None:
        mode = direction(monitor)
    if monitor is not None and mode is None:
        raise unknown_mode(monitor, mode)
    return Reader(reader.directory, monitor=monitor, mode=mode or "min")


def unknown_mode(metric: str, mode: Any) -> ValueError:
    """Return the error for a metric of which it is not known whether less or more is better."""
    return ValueError(
        f"whether less or more of {metric!r} is better is not known: give mode (--mode) 'min' or "
        f"'max'; got {mode!r}."
    )


def _retention(reader: Reader) -> dict[str, Any]:
    """Return how the newest checkpoint that can be read was kept."""
    for step in reversed(reader.steps()):
        try:
            kept = reader.metadata(step).get("retention")
        except CheckpointError:
            continue
        if isinstance(kept, dict):
            return kept
    return {}
