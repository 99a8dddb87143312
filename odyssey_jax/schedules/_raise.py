"""A phase raised to a power, with all digits of what is done and of what is left."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._moment import Moment, Phase
from ._numbers import pair
from ._power import power, real_terms


def raised(where: Phase, exponent: Any, steps: tuple[Moment, Moment] | None = None) -> Phase:
    """`done ** exponent` is done, `1 - done ** exponent` is left.

    Args:
        where: The phase.
        exponent: The exponent, above 0, as `canonical` left it.
        steps: What `done` is the quotient of, where that is known: a great exponent multiplies
            the error of a float32 fraction.

    Returns:
        The phase raised; what is done in it has all of its digits, and what is left too.
    """
    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    top, bottom = ((where.done, zero), (one, zero)) if steps is None else map(Moment.pair, steps)
    # Outside the open interval the power is known, and its derivative may not be finite.
    inside = (where.done > 0) & (where.left > 0)
    top = jnp.where(inside, top[0], 1.0), jnp.where(inside, top[1], 0.0)
    bottom = jnp.where(inside, bottom[0], 1.0), jnp.where(inside, bottom[1], 0.0)
    high, low = pair(exponent)
    done = power(top, [*real_terms(high), low], bottom)
    done = jnp.where(inside, done, jnp.where(where.left > 0, 0.0, 1.0))
    return Phase(done, jnp.where(inside, _left(where, inside, high + low), 1 - done))


def _left(where: Phase, inside: jax.Array, exponent: jax.Array) -> jax.Array:
    """`1 - done ** exponent`, from whichever of `done` and `left` is far from 1."""
    late = where.late
    small = jnp.where(inside, where.nearer, 0.5)
    log = jnp.where(late, jnp.log1p(-small), jnp.log(small))
    return -jnp.expm1(exponent * log)
