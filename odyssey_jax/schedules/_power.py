"""Powers to float32's last digits: `(a / b) ** p` with p up to 2^31 and a, b of 48 bits.

`exp(p * log(a))` in float32 loses one digit for every factor of ten in the logarithm: at e^-80
it is off by 5e-6, and float32 `pow` is no better. What 2^x needs is x with an *absolute* error
of 1e-7. So both factors of `x = p * log2(a / b)` are written as sums of numbers with at most 12
significant bits; their products are then exact in float32 (with or without fused multiply-add),
and of each product the whole part goes to the exponent and the fraction to a sum below 1.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_TINY = np.finfo(np.float32).tiny
# 2 / ln 2, the first 12 bits and the rest.
_SCALE = 2 / math.log(2)
_SCALE_HIGH = 2.884765625
_SCALE_LOW = _SCALE - _SCALE_HIGH

Terms = list[jax.Array]
Pair = tuple[jax.Array, jax.Array]


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _halves(x: jax.Array) -> Terms:
    """A float32 as a sum of two with at most 12 significant bits each."""
    first = _float(_bits(x) & ~0xFFF)
    return [first, x - first]


def _two_to(n: jax.Array) -> jax.Array:
    """2^n for an int32 n in [-252, 254], in two factors that are normal numbers."""
    half = n >> 1
    return _float((half + 127) << 23) * _float((n - half + 127) << 23)


def log2_terms(high: jax.Array, low: jax.Array) -> Terms:
    """log2(high + low) as a sum of short terms, to about 1e-9 relative; below 1e-38 as 1e-38."""
    safe = high >= _TINY
    high, low = jnp.where(safe, high, _TINY), jnp.where(safe, low, 0.0)
    bits = _bits(high)
    # high = 2^exponent * m with m in [sqrt(1/2), sqrt(2)), near 1 without a jump at 1.
    exponent = (bits - 0x3F3504F3) >> 23
    m = _float(bits - (exponent << 23))
    low = low * _two_to(-exponent)
    # log2(m) = 2/ln2 * atanh(s), s = (m - 1) / (m + 1), the quotient as near + rest.
    over = m - 1
    near = _halves((over + low) / (over + 2))[0]
    # m + 1 as wide + narrow. Not from (over + 2) - 2, which the compiler takes to be `over`.
    wide = _halves(over + 2)[0]
    narrow = over - (wide - 2)
    rest = (((over - near * wide) - near * narrow) + (low - near * low)) / (over + 2)
    s = near + rest
    square = s * s
    series = square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9))))
    small = _SCALE_HIGH * rest + (_SCALE_LOW * s + _SCALE * (s * series))
    # The product is exact; its first half has 12 bits, and what is left is 2^-7 of it at most.
    first, second = _halves(_SCALE_HIGH * near)
    return [exponent.astype(jnp.float32), first, second + small]


def whole_terms(n: jax.Array) -> Terms:
    """An int32 that is not negative, as a sum of floats of 11 significant bits."""
    return [(n & mask).astype(jnp.float32) for mask in (0x7FF, 0x7FF << 11, 0x1FF << 22)]


def real_terms(x: jax.Array) -> Terms:
    """A float32 as a sum of floats of 12 significant bits."""
    return _halves(x)


def _exp2_product(ps: Terms, qs: Terms) -> jax.Array:
    """2^(sum(ps) * sum(qs))."""
    wholes, fractions = [], []
    for product in (p * q for p in ps for q in qs):
        nearest = jnp.round(product)
        wholes.append(nearest)
        fractions.append(product - nearest)
    # As a tree, and back below 1/2 at every node: each sum then has an error below 2^-25.
    while len(fractions) > 1:
        sums = [a + b for a, b in zip(fractions[::2], fractions[1::2], strict=False)]
        carries = [jnp.round(x) for x in sums]
        wholes += carries
        odd = fractions[len(sums) * 2 :]
        fractions = [x - carry for x, carry in zip(sums, carries, strict=True)] + odd
    exponent = sum(wholes[1:], start=wholes[0])
    n = jnp.clip(exponent, -252.0, 254.0).astype(jnp.int32)
    return jnp.exp2(fractions[0]) * _two_to(n)


@jax.custom_jvp
def with_gradient_of(value: jax.Array, nominal: jax.Array) -> jax.Array:
    """`value`, differentiated as if it were `nominal`: bits have no derivative."""
    del nominal
    return value


@with_gradient_of.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The shapes can differ where the hyper-parameters are scalars and the steps are not.
    shape = jnp.shape(primals[0])
    return with_gradient_of(*primals), jnp.broadcast_to(tangents[1], shape)


def power(top: Pair, exponent: Terms, bottom: Pair | None = None) -> jax.Array:
    """`(top / bottom) ** exponent`, float32, within 3e-7 relative.

    Args:
        top: The numerator, `high + low`; taken as 1e-38 where it is less, so `0 ** 0` is 1.
        exponent: The exponent as a sum of floats of 12 significant bits.
        bottom: The denominator, `high + low`; 1 if not given.

    Returns:
        The power, with the derivatives of the formula for every argument.
    """
    stop = jax.lax.stop_gradient
    logs = log2_terms(*stop(top))
    base = jnp.maximum(top[0] + top[1], _TINY)
    if bottom is not None:
        first, *others = log2_terms(*stop(bottom))
        logs = [logs[0] - first, *logs[1:], *(-term for term in others)]
        base = base / jnp.maximum(bottom[0] + bottom[1], _TINY)
    value = _exp2_product(stop(exponent), logs)
    total = sum(exponent[1:], start=exponent[0])
    # The clip keeps the derivative finite where the power itself is not.
    nominal = jnp.exp(jnp.clip(total * jnp.log(base), -87.0, 87.0))
    shape = jnp.broadcast_shapes(jnp.shape(value), jnp.shape(nominal))
    return with_gradient_of(jnp.broadcast_to(value, shape), jnp.broadcast_to(nominal, shape))
