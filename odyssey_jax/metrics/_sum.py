"""A running sum in float32 that does not drift: the sum, and what rounding took from it.

A plain float32 sum of n terms may be off by n units in the last place, and stops counting
altogether at 2**24.  Two float32 carry about 48 bits between them, need no float64 (which JAX
has off by default and a TPU has not at all), and are carried and merged like any other array.

Source: D. E. Knuth, The Art of Computer Programming, volume 2, section 4.2.2 (the exact error
of a sum); T. J. Dekker, A floating-point technique for extending the available precision,
Numerische Mathematik 18 (1971) (sums of pairs).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def zeros(n: int) -> Any:
    """Return n sums of nothing, [n, 2] of (sum, rounding error); values even in a trace."""
    return np.zeros((n, 2), np.float32)


def of(term: jax.Array) -> jax.Array:
    """Return the sum of one term: [...] becomes [..., 2]."""
    return jnp.stack([term, jnp.zeros_like(term)], axis=-1)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the sum of two sums, each of shape [..., 2]."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    high, error = _exact_sum(a[..., 0], b[..., 0])
    high, error = _exact_sum(high, error + (a[..., 1] + b[..., 1]))
    return jnp.stack([high, error], axis=-1)


def value(total: jax.Array) -> jax.Array:
    """Return the sum as one float32: [..., 2] becomes [...]."""
    total = jnp.asarray(total)
    return total[..., 0] + total[..., 1]


def _exact_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return fl(a + b), and a + b - fl(a + b) exactly."""
    total = a + b
    b_seen = total - a
    error = (a - (total - b_seen)) + (b - b_seen)
    # Infinity less infinity is NaN: an infinite sum has no error, and stays infinite.
    return total, jnp.where(jnp.isfinite(total), error, jnp.zeros_like(error))
