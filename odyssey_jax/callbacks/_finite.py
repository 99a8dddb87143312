"""Whether a pytree holds numbers only."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from odyssey_jax._types import PyTree


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no floating-point leaf has a NaN or an infinity."""
    floating = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    finite = (jnp.all(jnp.isfinite(x)) for x in floating)
    return functools.reduce(jnp.logical_and, finite, jnp.ones((), bool))
