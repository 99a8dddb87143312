"""Which checkpoints to keep, which is best, which are superseded: pure functions, no disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

Mode = Literal["min", "max"]


def ranked(values: Mapping[int, float | None], mode: Mode) -> list[int]:
    """Order steps from the best to the worst.

    A total order: the value first, ties to the earlier step. Steps whose value is missing
    or NaN are left out, because not-a-number is never best.

    Args:
        values: Step -> the monitored value, or None where it was not measured.
        mode: ``"min"`` if smaller is better, ``"max"`` if larger is.

    Returns:
        The steps that have a value, best first.

    Example:
        >>> ranked({1: 0.5, 2: 0.1, 3: float("nan"), 4: 0.1}, "min")
        [2, 4, 1]
    """
    sign = 1.0 if mode == "min" else -1.0
    known = {s: sign * v for s, v in values.items() if v is not None and not math.isnan(v)}
    return sorted(known, key=lambda step: (known[step], step))


def retain(
    values: Mapping[int, float | None],
    keep_last: int | None = 1,
    keep_best: int = 0,
    mode: Mode = "min",
    keep_every: int | None = None,
    pinned: Collection[int] = (),
) -> frozenset[int]:
    """Choose the steps to keep: a union, of which each part is right by itself.

    Where fewer than k steps have a value, the best places that are left go to none: a step
    whose value is NaN or missing is kept for being recent, never for being good.

    Args:
        values: Step -> the monitored value, or None where it was not measured.
        keep_last: How many of the newest to keep, at least 1; None keeps all.
        keep_best: How many of the best to keep.
        mode: ``"min"`` if smaller is better, ``"max"`` if larger is.
        keep_every: Steps that are multiples of it are kept for good; None for none.
        pinned: Steps that are kept whatever else holds.

    Returns:
        The steps to keep. The latest is always among them.

    Example:
        >>> history = dict(enumerate([0.5, 0.1, float("nan"), 0.4, 0.3]))
        >>> sorted(retain(history, keep_last=1, keep_best=2))
        [1, 4]
        >>> sorted(retain(history, keep_last=2, keep_every=2, pinned=[1]))
        [0, 1, 2, 3, 4]
    """
    if keep_last is None:
        return frozenset(values)
    last = sorted(values)[-max(keep_last, 1) :]
    best = ranked(values, mode)[:keep_best]
    for_good = (step for step in values if keep_every is not None and step % keep_every == 0)
    return frozenset(last).union(best, for_good, values.keys() & set(pinned))


def superseded(found: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Find the steps that should be gone: a program was killed before it had deleted them.

    A run that begins again further back takes the place of the steps ahead of it.
    A number is not enough, since the same step may have been saved anew meanwhile.

    Args:
        found: Committed step -> its metadata, which is empty where it cannot be read.

    Returns:
        Those that another's metadata names, with the token that they have.

    Example:
        >>> again = {"token": "z", "superseded": [[2, "a"], [4, "b"], [6, "c"]]}
        >>> superseded({2: again, 4: {"token": "b"}, 6: {"token": "y"}})
        {4}
    """
    return {
        old
        for step, metadata in found.items()
        for old, token in metadata.get("superseded", ())
        if old != step and old in found and found[old].get("token") == token
    }
