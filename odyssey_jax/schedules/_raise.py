"""A phase raised to a power, with all digits of what is done and of what is left."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ._moment import Moment, Phase
from ._numbers import pair
from ._power import ONE, power_and_rest


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
    if steps is None:
        # Near 1, what is left says more than what is done.
        late = where.left < 0.25
        top = jnp.where(late, 1.0, where.done), jnp.where(late, -where.left, 0.0)
        bottom = ONE
    else:
        top, bottom = map(Moment.pair, steps)
    # Outside the open interval the power is known, and its derivative may not be finite.
    inside = (where.done > 0) & (where.left > 0)
    top = jnp.where(inside, top[0], bottom[0]), jnp.where(inside, top[1], bottom[1])
    done, left = power_and_rest(top, pair(exponent), bottom)
    begun = inside | (where.left <= 0)
    return Phase(jnp.where(begun, done, 0.0), jnp.where(begun, left, 1.0))
