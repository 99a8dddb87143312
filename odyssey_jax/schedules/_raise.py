"""A phase raised to a power, with all digits of what is done and of what is left."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ._moment import Interval, Phase
from ._numbers import Halves, pair
from ._power import ONE, power_and_rest


def raised(where: Phase | Interval, exponent: Any) -> Phase:
    """`done ** exponent` is done, `1 - done ** exponent` is left.

    Args:
        where: The phase; an interval where that is known, as a great exponent multiplies the
            error of a float32 fraction.
        exponent: The exponent, above 0, as `canonical_exponent` left it.

    Returns:
        The phase raised; what is done in it has all of its digits, and what is left too.
    """
    if isinstance(exponent, Halves):
        return _multiplied(where.phase() if isinstance(where, Interval) else where, exponent.count)
    if isinstance(where, Interval):
        done, left = where.done.real(), where.left.real()
        top, bottom = where.done.pair(), where.total.pair()
    else:
        done, left = where
        # Near 1, what is left says more than what is done.
        late = left < 0.25
        top, bottom = (jnp.where(late, 1.0, done), jnp.where(late, -left, 0.0)), ONE
    # Outside the open interval the power is known, and its derivative may not be finite.
    inside = (done > 0) & (left > 0)
    top = jnp.where(inside, top[0], bottom[0]), jnp.where(inside, top[1], bottom[1])
    power, rest = power_and_rest(top, pair(exponent), bottom)
    begun = inside | (left <= 0)
    return Phase(jnp.where(begun, power, 0.0), jnp.where(begun, rest, 1.0))


def _multiplied(where: Phase, count: int) -> Phase:
    """The phase raised to `count` halves, by `1 - x^n = (1 - x) (1 + x + ... + x^(n - 1))`."""
    base, left, times = where.done, where.left, count // 2
    if count % 2:
        begun = where.done > 0  # at 0 the root has no finite derivative
        base = jnp.where(begun, jnp.sqrt(jnp.where(begun, where.done, 1.0)), 0.0)
        left, times = left / (1 + base), count
    total, product = jnp.zeros_like(base), jnp.ones_like(base)
    for _ in range(times):
        total, product = total + product, product * base
    return Phase(product, left * total)
