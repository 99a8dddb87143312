"""Pins: marks in a store's directory, so that they outlive every process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError
from odyssey_jax.store._files import reason, sync

# An empty file beside the step, not in it: what is committed is never touched again.
_PIN = re.compile(r"(0|[1-9]\d*)\.pinned$")


def pins(directory: Path) -> frozenset[int]:
    """The steps that are marked, committed or not."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint directory {str(directory)!r} cannot be listed: {reason(error)}"
        ) from error
    return frozenset(int(found[1]) for name in names if (found := _PIN.match(name)))


def pin(directory: Path, step: int) -> None:
    """Marks a step; the mark would survive a power loss."""
    _change(directory, step, "pinned", lambda mark: mark.touch())


def unpin(directory: Path, step: int) -> None:
    """Takes the mark away, if there is one."""
    _change(directory, step, "unpinned", lambda mark: mark.unlink(missing_ok=True))


def _change(directory: Path, step: int, done: str, act: Callable[[Path], None]) -> None:
    try:
        act(directory / f"{step}.pinned")
        sync(directory)
    except OSError as error:
        raise CheckpointWriteError(
            f"step {step} in {str(directory)!r} was not {done}: {reason(error)}"
        ) from error
