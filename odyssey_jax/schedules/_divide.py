"""Division of a step by a real number, with a remainder that keeps all of its digits.

`float32(t) / span` has 24 bits for a quotient that may have 31. Here the quotient is guessed in
float32, multiplied back as a sum of products that are exact (factors of 12 bits), and corrected
by what is missing, which is small.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._power import real_terms

_MOST = 2**31 - 1
_LEAST = 1e-6
# A guess that is surely not too high, so that no product is beyond an int32.
_BELOW = 1 - 2.0**-21
# What is that near to a whole number of spans is one: the digits that a span has end there.
_NEAR = 2.0**-22

_Split = tuple[jax.Array, jax.Array]  # an int32, and a small float32 to add to it
_Terms = list[jax.Array]  # a number as the sum of floats of 12 significant bits


def divide(
    whole: jax.Array, part: Any, high: jax.Array, low: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(whole + part) / (high + low)`: the whole quotient, and the remainder.

    Args:
        whole: int32, not negative.
        part: float32 in [0, 1), or 0.
        high: The span, above 0 (what is below 1e-6 is taken as 1), as `high + low`.
        low: float32.

    Returns:
        The quotient, int32 and at most 2^31 - 1, and the remainder as an int32 and a fraction
        in [0, 1), to about 1e-7 of a step. They have no derivatives.
    """
    known = high >= _LEAST
    high, low = jnp.where(known, high, 1.0), jnp.where(known, low, 0.0)
    guess = (whole.astype(jnp.float32) + part) / high
    beyond = guess > _MOST * (1 + 2.0**-22)
    guess = jnp.where(beyond, 0.0, guess)
    # Both sides times one power of 2, by which the span is at least 1/2, loses no digits.
    shift = jnp.maximum(126 - (jax.lax.bitcast_convert_type(high, jnp.int32) >> 23), 0)
    factor = _two_to(shift)
    large = jnp.floor(part * factor)
    rest = (jnp.where(beyond, 0, whole) << shift) + large.astype(jnp.int32), part * factor - large
    span = [*real_terms(high * factor), *real_terms(low * factor)]

    count = jnp.floor(guess * _BELOW).astype(jnp.int32)
    rest = _minus(rest, _times(_whole_terms(count), span))
    # At most 2^10 spans are missing: 11 bits, so what they take is exact as well.
    more = jnp.floor(_real(rest) / (high * factor))
    rest = _minus(rest, _times([more], span))
    one = _times([jnp.float32(1)], span)
    over = _real(_minus(rest, one)) >= -_NEAR
    under = _real(rest) <= -_NEAR
    last = over.astype(jnp.float32) - under.astype(jnp.float32)
    rest = _minus(rest, _times([last], span))

    more = (more + last).astype(jnp.int32)
    beyond = beyond | (more > _MOST - count)
    count = jnp.where(beyond, _MOST, count + more)
    carry = jnp.floor(rest[1] + 2.0**-25)  # a fraction is below 1 in float32 too
    left = rest[0] + carry.astype(jnp.int32)
    fraction = jnp.maximum(rest[1] - carry, 0.0)
    # Back to steps. With a span below 1, all of the remainder is a fraction.
    gone = beyond | (left < 0)
    left, fraction = jnp.where(gone, 0, left), jnp.where(gone, 0.0, fraction)
    small = (left.astype(jnp.float32) + fraction) / factor
    return count, jnp.where(shift > 0, 0, left), jnp.where(shift > 0, small, fraction)


def _whole_terms(n: jax.Array) -> _Terms:
    return [(n & mask).astype(jnp.float32) for mask in (0x7FF, 0x7FF << 11, 0x1FF << 22)]


def _times(ps: _Terms, qs: _Terms) -> _Split:
    """`sum(ps) * sum(qs)`."""
    whole, rest = jnp.int32(0), jnp.float32(0)
    for product in (p * q for p in ps for q in qs):
        nearest = jnp.round(product)
        whole = whole + nearest.astype(jnp.int32)
        rest = rest + (product - nearest)
    return whole, rest


def _minus(a: _Split, b: _Split) -> _Split:
    return a[0] - b[0], a[1] - b[1]


def _real(x: _Split) -> jax.Array:
    return x[0].astype(jnp.float32) + x[1]


def _two_to(n: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type((n + 127) << 23, jnp.float32)
