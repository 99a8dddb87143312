"""Sums and products of `high + low`: 48 bits where a float32 has 24.

Every product here is of two numbers of 12 significant bits and so exact: it makes no difference
whether the compiler fuses it with an addition.
"""

from __future__ import annotations

import jax

from ._power import Pair, real_terms


def add(a: Pair, b: Pair) -> Pair:
    """`a + b`."""
    high, low = _sum(a[0], b[0])
    return _settled(high, low + (a[1] + b[1]))


def multiply(a: Pair, b: Pair) -> Pair:
    """`a * b`."""
    (a1, a2), (b1, b2) = real_terms(a[0]), real_terms(b[0])
    high, first = _sum(a1 * b1, a1 * b2)
    high, second = _sum(high, a2 * b1)
    high, third = _sum(high, a2 * b2)
    return _settled(high, (first + second) + third + (a[0] * b[1] + a[1] * b[0]))


def _sum(x: jax.Array, y: jax.Array) -> Pair:
    """`x + y` and what its rounding lost, exact."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def _settled(high: jax.Array, low: jax.Array) -> Pair:
    """The same sum with a high part that is the float32 nearest to it."""
    total = high + low
    return total, low - (total - high)
