"""Steps that another takes the place of, as those of a run that is begun again further back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def superseded(found: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Finds the steps that should be gone: a program was killed before it had deleted them.

    A number is not enough, since the same step may have been saved anew meanwhile.

    Args:
        found: Committed step -> its metadata, which is empty where it cannot be read.

    Returns:
        Those that another's metadata names, with the timestamp that they have.

    Example:
        >>> again = {"timestamp": 9.0, "superseded": [[2, 1.0], [4, 2.0], [6, 3.0]]}
        >>> superseded({2: again, 4: {"timestamp": 2.0}, 6: {"timestamp": 10.0}})
        {4}
    """
    return {
        old
        for step, metadata in found.items()
        for old, timestamp in metadata.get("superseded", ())
        if old != step and old in found and found[old].get("timestamp") == timestamp
    }
