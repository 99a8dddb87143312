"""An interval in equal laps, as many as one likes and not whole steps each.

A lap of `T / count` steps has no exact length. But `count * t / T` is a quotient of whole
numbers if `count` is, and its whole part and its fraction can be had with all of their digits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._moment import Interval, Phase, select
from ._power import Pair

MOST_LAPS = 2**20


def laps(where: Interval, count: Pair) -> tuple[jax.Array, Phase]:
    """How many laps are whole, and where in the next one `where` is.

    Args:
        where: The interval; past its end it is at its end.
        count: The number of laps, `high + low`, in [0, 2^20]; it need not be whole.

    Returns:
        The number of whole laps, int32, and the phase within the next.
    """
    high, low = count
    # count = (shares + excess) / scale, with shares in [2^19, 2^20] and scale a power of two.
    shift = jnp.clip(19 - _exponent(high), 0, 30)
    scale = (1 << shift).astype(jnp.float32)
    shares = jnp.round(high * scale).astype(jnp.int32)
    excess = (high * scale - shares.astype(jnp.float32)) + low * scale

    fraction = where.phase()
    done = select(fraction.left > 0, where.done, where.total)
    width = jnp.where(where.total.real() > 0, where.total.real(), 1.0)
    counted = jnp.round(shares.astype(jnp.float32) * fraction.done).astype(jnp.int32)
    # int32 wraps, and the true difference is about total / 2: so this is exact.
    missing = (shares * done.whole - counted * where.total.whole).astype(jnp.float32)
    for moment, times in ((done, shares), (where.total, -counted)):
        if moment.part is not None:
            missing = missing + times.astype(jnp.float32) * moment.part
    rest = missing / width + excess * fraction.done

    whole = counted >> shift
    part = counted - (whole << shift)
    borrow = ((part == 0) & (rest < 0)).astype(jnp.int32)
    whole, part = whole - borrow, part + (borrow << shift)
    left = ((1 << shift) - part).astype(jnp.float32)
    return whole, Phase((part.astype(jnp.float32) + rest) / scale, (left - rest) / scale)


def _exponent(x: jax.Array) -> jax.Array:
    """The exponent of a float32 that is not negative."""
    return (jax.lax.bitcast_convert_type(x, jnp.int32) >> 23) - 127
