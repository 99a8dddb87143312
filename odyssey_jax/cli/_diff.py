"""How two checkpoints differ, leaf by leaf and in their metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax.store import Reader, SavedLeaf

Values = Mapping[str, Any]

# What differs between any two checkpoints.
_ALWAYS = ("step", "timestamp", "token")


class Difference(NamedTuple):
    """How checkpoint A differs from checkpoint B.

    Attributes:
        equal: How many leaves are equal to the bit.
        leaves: Path of each other leaf -> how it differs.
        metadata: Dotted name -> the values in A and in B, where they differ.
    """

    equal: int
    leaves: dict[str, str]
    metadata: dict[str, list[Any]]


def compare(a: tuple[Reader, int], b: tuple[Reader, int]) -> Difference:
    """Compare two steps, each of a reader."""
    both = (a, b)
    old, new = ({leaf.path: leaf for leaf in reader.leaves(step)} for reader, step in both)
    leaves = dict(_differing(old, new, *(reader.values(step) for reader, step in both)))
    was, now = (_flat(reader.metadata(step)) for reader, step in both)
    metadata = {
        name: [was.get(name), now.get(name)]
        for name in dict.fromkeys([*was, *now])
        if repr(was.get(name)) != repr(now.get(name)) and name not in _ALWAYS
    }
    return Difference(len(old.keys() | new.keys()) - len(leaves), leaves, metadata)


def _differing(
    old: dict[str, SavedLeaf], new: dict[str, SavedLeaf], before: Values, after: Values
) -> Iterator[tuple[str, str]]:
    for path in dict.fromkeys([*old, *new]):
        if path not in new:
            yield path, f"only in A, {old[path]}"
        elif path not in old:
            yield path, f"only in B, {new[path]}"
        elif _kind(old[path]) != _kind(new[path]):
            yield path, f"{old[path]} in A, {new[path]} in B"
        elif what := _values(before[path], after[path]):
            yield path, what


def _kind(leaf: SavedLeaf) -> tuple[tuple[int, ...], str]:
    return leaf.shape, leaf.dtype


def _values(a: Any, b: Any) -> str | None:
    """Return how two values of one shape and dtype differ; None if they are equal to the bit."""
    if not hasattr(a, "dtype"):
        # As text, in which NaN is like NaN, and 0.0 is not -0.0.
        return None if repr(a) == repr(b) else f"{a!r} in A, {b!r} in B"
    if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    if a.tobytes() == b.tobytes():
        return None
    gap, same = _gap(a, b)
    if same.all():
        bits = np.count_nonzero(_bits(a) != _bits(b))
        return f"the sign of a zero or the bits of a NaN, in {bits} of {a.size} values"
    most = f"{gap.max().item():.4g}"
    return f"max abs difference {most} in {np.count_nonzero(~same)} of {a.size} values"


def _gap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far values are apart, and which are equal; NaN equals NaN."""
    if a.dtype.kind in "iu":
        # Float64 does not have all integers. Modulo 2**64 the larger less the smaller is right.
        above, below = (bound(a, b).astype(np.uint64) for bound in (np.maximum, np.minimum))
        return above - below, a == b
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(np.where(same, 0, a - b)), same


def _bits(array: np.ndarray) -> np.ndarray:
    """Return the bytes of each value."""
    return np.ascontiguousarray(array).reshape(-1).view(f"V{array.dtype.itemsize}")


def _flat(metadata: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested metadata as one mapping, with dots between the names."""
    found: dict[str, Any] = {}
    for name, value in metadata.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
