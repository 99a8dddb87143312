"""Whether a pytree, or a run at one of its points, holds numbers only."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from odyssey_jax._types import Event, Point, PyTree


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no floating-point leaf has a NaN or an infinity."""
    floating = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    finite = (jnp.all(jnp.isfinite(x)) for x in floating)
    return functools.reduce(jnp.logical_and, finite, jnp.ones((), bool))


def is_finite(event: Event, monitor: str) -> jax.Array:
    """Whether every parameter and, where it is known already, the metric is finite."""
    finite = all_finite(event.state.params)
    if event.point is Point.EPOCH_END or monitor in event.metrics:
        finite &= jnp.isfinite(event.metric(monitor))
    return finite
