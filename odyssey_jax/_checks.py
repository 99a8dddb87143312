"""Checks of plain arguments: the value is quoted, and what is accepted is named.

For Python numbers and words. A schedule's hyper-parameters may be arrays or traced, and have checks
of their own.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

# What a compiled program counts to.
_LAST = 2**31 - 1


def check_count(
    name: str, value: Any, least: int = 0, otherwise: str = "", most: float = _LAST
) -> int:
    """Return value as an int, NumPy's too; raise ValueError unless it is within its bounds."""
    try:
        count = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}{otherwise}, got {value!r}."
        )
    if count > most:
        raise ValueError(f"{name} must be at most 2**31 - 1, got {value!r}.")
    return count


def check_pattern(name: str, pattern: Any) -> re.Pattern[str]:
    """Return a pattern, compiled; raise ValueError unless it is a regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{name}: {pattern!r} is no regular expression: {error}.") from error


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite number, or None for no bound."""
    if value is not None and not (_is_real(value) and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number or None, got {value!r}.")


def check_margin(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite number of at least 0."""
    if not (_is_real(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Raise ValueError unless value is in [0, 1)."""
    if not (_is_real(value) and 0 <= value < 1):
        raise ValueError(f"{name} must be in the range [0, 1), got {value!r}.")


def check_factor_of_growth(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite factor above 1, or None for no bound."""
    if value is not None and not (_is_real(value) and math.isfinite(value) and value > 1):
        raise ValueError(f"{name} must be finite and greater than 1, or None, got {value!r}.")


def check_rate_factor(name: str, value: Any) -> None:
    """Raise ValueError unless value is in (0, 1]."""
    if not (_is_real(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be in the range (0, 1], got {value!r}.")


def check_words(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Raise ValueError unless value is one of the words."""
    if value not in words:
        quoted = list(map(repr, words))
        listed = " or ".join(quoted) if len(words) == 2 else f"one of {', '.join(quoted)}"
        raise ValueError(f"{name} must be {listed}, got {value!r}.")


def check_monitor(monitor: Any, mode: Any = None) -> None:
    """Raise ValueError unless monitor is a metric's name, and mode a `Mode` or None."""
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"monitor must be a metric's name such as 'valid/loss', got {monitor!r}.")
    if mode is not None:
        check_words("mode", mode, ("min", "max"))


def check_columns(what: str, names: Iterable[str]) -> None:
    """Raise ValueError if a name would take the place of the clock in the history or the logs."""
    if taken := [name for name in names if name in ("epoch", "step")]:
        raise ValueError(
            f"{what} must not have the name {taken[0]!r}, which is the clock's column in the "
            f"history and the logs: call it another, such as 'my_{taken[0]}'."
        )


def check_kind(name: str, value: Any, kind: type, made_by: str) -> None:
    """Raise TypeError unless value is of a kind, naming what makes it."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be what {made_by} makes, got {type(value).__name__}.")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless value is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def _is_real(value: Any) -> bool:
    real = isinstance(value, (int, float, np.integer, np.floating))
    return real and not isinstance(value, bool)
