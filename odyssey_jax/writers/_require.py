"""What a writer checks before a run begins."""

from __future__ import annotations

import importlib.util


def require_extra(package: str, extra: str) -> None:
    """Refuses where a package is missing, and says which extra brings it."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed: pip install odyssey-jax[{extra}]")


def require_period(name: str, value: int | None) -> None:
    """Refuses what is neither None nor a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1 or None, got {value!r}.")
