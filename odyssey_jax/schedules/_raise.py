"""A phase raised to a power, with all digits of what is done and of what is left."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ._moment import Moment, Phase, share
from ._numbers import pair
from ._power import Pair, power, real_terms


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
    # Outside the open interval the power is known, and its derivative may not be finite.
    inside = (where.done > 0) & (where.left > 0)
    base = (where.done, jnp.zeros_like(where.done)) if steps is None else _quotient(*steps)
    base = jnp.where(inside, base[0], 1.0), jnp.where(inside, base[1], 0.0)
    high, low = pair(exponent)
    done = power(base, [*real_terms(high), low])
    done = jnp.where(inside, done, jnp.where(where.left > 0, 0.0, 1.0))
    # 1 - done has few digits near the end; there the distance to the end has all of them.
    near = where.left < 0.9
    small = jnp.where(near, where.left, 0.5)
    left = jnp.where(near, -jnp.expm1((high + low) * jnp.log1p(-small)), 1 - done)
    return Phase(done, left)


def _quotient(some: Moment, total: Moment) -> Pair:
    near, rest = share(some, total)
    high = near + rest
    return high, rest - (high - near)
