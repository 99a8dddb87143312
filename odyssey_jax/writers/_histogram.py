"""How the parameters are distributed, counted where they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_BINS = 50


class Histogram(NamedTuple):
    """The distribution of an array's finite values.

    Args:
        counts: int32 [bins].
        edges: float32 [bins + 1], from the least to the greatest value.
        total: float32 scalar, the sum of the values.
        squares: float32 scalar, the sum of their squares.
    """

    counts: Any
    edges: Any
    total: Any
    squares: Any


def histograms(params: Any) -> dict[str, Histogram]:
    """The histogram of each array of real numbers, by its path; only they leave the device.

    Example:
        >>> found = histograms({"layer": {"w": jnp.array([0.0, 1.0, 1.0, jnp.nan])}})
        >>> {name: (int(h.counts[0]), int(h.counts[-1])) for name, h in found.items()}
        {'layer/w': (1, 2)}
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    }
    return jax.device_get(_count_all(named))


@jax.jit
def _count_all(leaves: dict[str, jax.Array]) -> dict[str, Histogram]:
    return {name: _count(leaf.astype(jnp.float32).ravel()) for name, leaf in leaves.items()}


def _count(x: jax.Array) -> Histogram:
    finite = jnp.isfinite(x)
    low = jnp.min(jnp.where(finite, x, jnp.inf))
    high = jnp.max(jnp.where(finite, x, -jnp.inf))
    # An array of one value, or of none that is finite, still has bins.
    some = low <= high
    low, high = jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
    high = jnp.where(high > low, high, low + 1e-6 * jnp.maximum(1.0, jnp.abs(low)))
    at = jnp.clip((x - low) / (high - low) * _BINS, 0, _BINS - 1)
    at = jnp.where(finite, jnp.nan_to_num(at).astype(jnp.int32), _BINS)
    counts = jnp.zeros(_BINS, jnp.int32).at[at].add(1, mode="drop")
    kept = jnp.where(finite, x, 0.0)
    edges = low + (high - low) * jnp.linspace(0.0, 1.0, _BINS + 1)
    return Histogram(counts, edges, jnp.sum(kept), jnp.sum(kept * kept))
