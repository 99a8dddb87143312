"""A check that all processes hold the same values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from odyssey_jax.parallel._agree import decide
from odyssey_jax.parallel._placement import is_key


def check_alike(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless all processes hold the same.

    Args:
        values: What each is called in the error -> pytree of arrays, numbers and strings.

    Raises:
        ValueError: If a process differs from process 0; the message names what and which.
    """
    if jax.process_count() == 1:
        return
    own = [_fingerprint(value) for value in values.values()]
    found = decide(own, _first_to_differ, "fit")
    if found is not None:
        process, number = found
        raise ValueError(
            f"process {process} has another {list(values)[number]} than process 0: every process "
            "must call fit with the same arguments, and with the same whole arrays, from the same "
            "seeds."
        )


def _fingerprint(tree: Any) -> int:
    found = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            continue  # a part of one array, which no two processes hold alike
        data = jax.random.key_data(leaf) if is_key(leaf) else leaf
        found = zlib.crc32(np.asarray(data).tobytes(), found)
    return found


def _first_to_differ(all_of_them: list[list[int]]) -> list[int] | None:
    first = all_of_them[0]
    for process, own in enumerate(all_of_them):
        for number, (a, b) in enumerate(zip(first, own, strict=True)):
            if a != b:
                return [process, number]
    return None
