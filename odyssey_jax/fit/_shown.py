"""What a hook returns for the writers: numbers, texts and pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from odyssey_jax._checks import check_columns
from odyssey_jax.fit._hooks import as_number


def as_shown(function: Any, found: Any, known: Collection[str]) -> dict[str, Any]:
    """Return what a hook has returned as writers are shown it.

    Args:
        function: The hook's, for errors.
        found: What it returned.
        known: The history's columns, whose names are taken.

    Returns:
        Name to a str, a float, or a picture: uint8 [height, width, 1, 3 or 4].

    Raises:
        ValueError: If it is of no such kind, or a name is taken.

    Example:
        >>> shown = as_shown(print, {"reply": "yes", "grey": np.ones((2, 3))}, ["train/loss"])
        >>> shown["reply"], shown["grey"].shape, int(shown["grey"].max())
        ('yes', (2, 3, 1), 255)
    """
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(x, str) and x for x in found):
        raise ValueError(
            f"the hook {function!r} must return None or a mapping of names to what writers show "
            f"({_KINDS}), got {found!r}. What it measures goes to the history with columns=."
        )
    check_columns(f"what the hook {function!r} returns", found)
    if taken := sorted(found.keys() & set(known)):
        raise ValueError(
            f"the hook {function!r} returns {taken}, which are columns of the history: call them "
            "others."
        )
    return {name: _as_one(function, name, value) for name, value in found.items()}


_KINDS = (
    "a str, a real number, or a picture [h, w] or [h, w, 1, 3 or 4] of uint8 or of floats in [0, 1]"
)


def _as_one(function: Any, name: str, value: Any) -> str | float | np.ndarray:
    if isinstance(value, str):
        return value
    if (number := as_number(value)) is not None:
        return number
    picture = _as_picture(value) if hasattr(value, "shape") else None
    if picture is None:
        got = value
        if hasattr(value, "shape"):
            got = f"an array of {getattr(value, 'dtype', '?')} {list(value.shape)}"
        raise ValueError(f"the hook {function!r} must return, for {name!r}, {_KINDS}; got {got}.")
    return picture


def _as_picture(value: Any) -> np.ndarray | None:
    x = np.asarray(jax.device_get(value))
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4) or 0 in x.shape:
        return None
    if x.dtype == np.uint8:
        return x
    x = x.astype(np.float32) if jax.numpy.issubdtype(x.dtype, np.floating) else None
    if x is None or not (x.min() >= 0 and x.max() <= 1):  # NaN is neither
        return None
    return np.round(x * 255).astype(np.uint8)
