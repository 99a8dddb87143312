"""What becomes of saves that fail: an error, or a warning and a count."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from odyssey_jax.store._errors import (
    CheckpointError,
    CheckpointWriteError,
    CheckpointWriteWarning,
)

OnFailedSave = Literal["raise", "warn"]


class Failures:
    """Counts a store's failed saves, and tells of each as it was asked to.

    Args:
        policy: ``"raise"`` or ``"warn"``.

    Raises:
        CheckpointError: The policy is neither.

    Example:
        >>> failures = Failures("raise")
        >>> failures.tell([CheckpointWriteError("no space")])
        Traceback (most recent call last):
        odyssey_jax.store._errors.CheckpointWriteError: no space
        >>> failures.count
        1
    """

    def __init__(self, policy: OnFailedSave) -> None:
        if policy not in get_args(OnFailedSave):
            words = " or ".join(map(repr, get_args(OnFailedSave)))
            raise CheckpointError(f"on_failed_save must be {words}, got {policy!r}")
        self.policy: OnFailedSave = policy
        self.count = 0

    def tell(self, failures: Iterable[BaseException]) -> None:
        """Raises the first failure with notes of the others, or warns of each.

        What is no failure to write is always raised.
        """
        raised: list[BaseException] = []
        for failure in failures:
            self.count += 1
            if self.policy == "raise" or not isinstance(failure, CheckpointWriteError):
                raised.append(failure)
            else:
                _warn(f"{failure} ({_failed(self.count)} so far)")
        for failure in raised[1:]:
            raised[0].add_note(f"and then: {failure}")
        if raised:
            raise raised[0]

    def sum_up(self, directory: Path) -> None:
        """Warns once more at the end: a warning in the middle of a long log is not seen."""
        if self.count and self.policy == "warn":
            _warn(f"{_failed(self.count)} in all, in {str(directory)!r}")


def _failed(count: int) -> str:
    return f"{count} failed save{'' if count == 1 else 's'}"


def _warn(message: str) -> None:
    # The line to show is the one that called the store.
    warnings.warn(CheckpointWriteWarning(message), stacklevel=4)
