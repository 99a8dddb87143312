"""The writers that `fit` is given, checked before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from odyssey_jax.writers import Writer

_NEEDED = ("open", "write", "close")


def as_writers(writers: Any) -> list[Writer]:
    """The writers as a list.

    Raises:
        TypeError: they are not several, or one is no writer.
        ValueError: one is there twice.

    Example:
        >>> as_writers("metrics.csv")
        Traceback (most recent call last):
        TypeError: writers must be a list of writers, got 'metrics.csv'.
    """
    if isinstance(writers, str) or not isinstance(writers, Iterable):
        raise TypeError(f"writers must be a list of writers, got {writers!r}.")
    found = list(writers)
    for i, writer in enumerate(found):
        if inspect.isclass(writer):
            name = writer.__name__
            raise TypeError(f"writers: {name} is a class: pass a writer, such as {name}(...).")
        if missing := [name for name in _NEEDED if not callable(getattr(writer, name, None))]:
            raise TypeError(
                f"writers: {writer!r} has no {', '.join(missing)}: a writer has open(run), "
                "write(rows, live) and close()."
            )
        if any(writer is other for other in found[:i]):
            raise ValueError(f"writers: {writer!r} is there twice, and would write each row twice.")
    return found
