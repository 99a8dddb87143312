"""Which checkpoints are meant: a directory, a step of it, and by which metric it is best."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Literal

from odyssey_jax.store import CheckpointError, CheckpointNotFoundError, Reader

Mode = Literal["min", "max"]


def open_reader(parsed: argparse.Namespace, directory: Path | None = None) -> Reader:
    """Opens a directory of checkpoints, or that of a run.

    Args:
        parsed: the command line; its `monitor` and `mode` are used where they are given.
        directory: which one; None is that of the command line.

    Returns:
        A reader that knows what is best as the newest checkpoint's store did.

    Raises:
        ValueError: it is not a directory.
        CheckpointNotFoundError: there is no checkpoint.
    """
    root = parsed.directory if directory is None else directory
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is not a directory: give that of a run or a store.")
    below = root / "checkpoints"
    reader = Reader(below if below.is_dir() else root)
    if not reader.steps():
        raise CheckpointNotFoundError(
            f"there is no checkpoint in {str(reader.directory)!r}; `odyssey-jax runs DIR` finds "
            "the runs below a directory"
        )
    kept = _retention(reader)
    monitor = parsed.monitor or kept.get("monitor")
    mode = parsed.mode or (kept.get("mode") if monitor == kept.get("monitor") else None)
    if monitor is not None and mode is None:
        raise ValueError(f"whether less or more of {monitor!r} is better: give --mode.")
    return Reader(reader.directory, monitor=monitor, mode=mode or "min")


def _retention(reader: Reader) -> dict[str, Any]:
    """What the newest checkpoint that can be read says of what is kept."""
    for step in reversed(reader.steps()):
        try:
            return reader.metadata(step).get("retention", {})
        except CheckpointError:
            continue
    return {}


def step_of(reader: Reader, text: str) -> int:
    """The step that a word or a number says, whether it can be read or not.

    Raises:
        ValueError: it is neither.
        CheckpointError: there is no such step, or it is not known which is best.
    """
    if text == "best" and reader.monitor is None:
        raise ValueError("no metric was recorded by which one is best: give --monitor and --mode.")
    if text in ("latest", "best"):
        step = reader.latest() if text == "latest" else reader.best()
        if step is None:
            raise CheckpointNotFoundError(
                f"no checkpoint in {str(reader.directory)!r} has a value of {reader.monitor!r}"
            )
        return step
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"a step is a number, 'latest' or 'best'; got {text!r}.")
    if int(text) not in reader.steps():
        raise CheckpointNotFoundError(
            f"no step {text} in {str(reader.directory)!r}; committed are {list(reader.steps())}"
        )
    return int(text)


def reason(reader: Reader, step: int, error: CheckpointError) -> str:
    """What is wrong with a step, without saying once more which one it is."""
    text = getattr(error, "reason", str(error))
    return text.removeprefix(f"checkpoint of step {step} in {str(reader.directory)!r} ")
