"""Numbers by piece, as tables: a step finds its piece once, and looks its numbers up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._moment import Moment, length
from ._numbers import Wide, canonical, exact


def stack(*rows: Any) -> Any:
    """Rows as a table, along a new axis 0: on the host if all of them are there."""
    if any(isinstance(row, jax.Array) for row in rows):
        return jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, rows)))
    return np.asarray(rows)


def row(table: Any, index: jax.Array) -> jax.Array:
    """The row of each step; a table may itself have been looked up, and then has their shape."""
    table = jnp.asarray(table)
    if table.ndim == 1:
        return table.at[index].get(mode="promise_in_bounds")
    return jnp.take_along_axis(table, index[None], axis=0)[0]


def table_of_starts(boundaries: Any) -> Any:
    """The steps at which the pieces start: 0, and the boundaries; as it is if it is a table."""
    if not isinstance(boundaries, tuple) or isinstance(boundaries, Wide):
        return boundaries
    starts = [_whole(canonical(b)) for b in (0, *boundaries)]
    kinds = {jax.tree.structure(b) for b in starts[1:]} | {
        leaf.dtype for b in starts[1:] for leaf in jax.tree.leaves(b)
    }
    if kinds - {jax.tree.structure(0), np.dtype(np.int32)}:
        starts = [Wide(*_wide(b)) for b in starts]
    return jax.tree.map(stack, *starts)


def table_of_values(values: Any) -> Any:
    """The values of the pieces in float32; as it is if it is a table."""
    if not isinstance(values, tuple):
        return values
    rows = [canonical(value) for value in values]
    return stack(*(x.high if isinstance(x, Wide) else x.astype(np.float32) for x in rows))


def piece_at(now: Moment, starts: Any) -> jax.Array:
    """The piece of each step, int32: the last that has begun, found by halving.

    The first piece has begun whatever happens, and of pieces that start together the last one
    is meant. A table of k pieces is looked at log2(k) times.
    """
    last = len(jax.tree.leaves(starts)[0]) - 1
    piece = jnp.zeros_like(now.whole)
    width = 1 << last.bit_length()
    while width := width >> 1:
        ahead = piece + width
        begun = (ahead <= last) & now.reached(start_of(jnp.minimum(ahead, last), starts))
        piece = jnp.where(begun, ahead, piece)
    return piece


def start_of(piece: jax.Array, starts: Any) -> Moment:
    """The step at which a piece starts."""
    return length(jax.tree.map(lambda leaf: row(leaf, piece), starts))


def _whole(x: Any) -> Any:
    """As int32 if it is known, and whole: to look for a step among whole numbers is cheaper."""
    if not isinstance(x, Wide) or any(isinstance(leaf, jax.Array) for leaf in x):
        return x
    value = exact(x)
    return value.astype(np.int32) if np.all(value == np.floor(value)) else x


def _wide(x: Any) -> tuple[Any, Any]:
    """A step number as `high + low`, whatever it was; a traced float32 has no low part."""
    if isinstance(x, Wide):
        return x
    if x.dtype != np.int32:
        return x, x * 0
    big = (x & ~127).astype(np.float32)
    return big, (x & 127).astype(np.float32)
