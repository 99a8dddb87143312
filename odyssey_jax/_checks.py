"""Checks of plain arguments: the value is quoted, and what is accepted is named.

For Python numbers and words. A schedule's hyper-parameters may be arrays or traced, and have checks
of their own.
"""

from __future__ import annotations

import math
from typing import Any


def check_count(name: str, value: Any, least: int = 0, otherwise: str = "") -> None:
    """Refuses what is no number of epochs, steps or times."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}{otherwise}, got {value!r}."
        )


def check_finite(name: str, value: Any) -> None:
    """Refuses what a metric can't be compared with; None is no bound."""
    if value is not None and not (_is_real(value) and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number or None, got {value!r}.")


def check_margin(name: str, value: Any) -> None:
    """Refuses what is no margin."""
    if not (_is_real(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Refuses what is no share of the past."""
    if not (_is_real(value) and 0 <= value < 1):
        raise ValueError(f"{name} must be in the range [0, 1), got {value!r}.")


def check_factor_of_growth(name: str, value: Any) -> None:
    """Refuses a factor that does not make greater; None is no bound."""
    if value is not None and not (_is_real(value) and math.isfinite(value) and value > 1):
        raise ValueError(f"{name} must be finite and greater than 1, or None, got {value!r}.")


def check_rate_factor(name: str, value: Any) -> None:
    """Refuses a factor that makes greater, or nothing of it."""
    if not (_is_real(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be in the range (0, 1], got {value!r}.")


def check_words(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Refuses what is none of a few words."""
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither yes nor no."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
