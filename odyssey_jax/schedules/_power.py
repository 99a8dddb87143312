"""Powers to float32's last digits: `(a / b) ** (p / q)`, each of the four numbers of 48 bits.

`exp(p * log(a))` in float32 loses one digit for every factor of ten in the logarithm: at e^-80
it is off by 5e-6, and float32 `pow` is no better. What 2^x needs is x with an *absolute* error
of 1e-7. So the logarithm and the exponent are kept as sums of two numbers, the first of them
with at most 12 significant bits: the product of the first two is then exact in float32 (with or
without fused multiply-add), its whole part goes to the exponent of the result, and all the other
products are small.

What depends on the hyper-parameters alone (the logarithm of a rate, divided by its interval) is
computed apart from the step, so that the compiler takes it out of a loop.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Two of the least normal number: half of it is normal too.
_TINY = 2 * float(np.finfo(np.float32).tiny)
# 2 / ln 2, the first 12 bits and the rest.
_SCALE = 2 / math.log(2)
_SCALE_HIGH = 2.884765625
_SCALE_LOW = _SCALE - _SCALE_HIGH
# atanh(s) = s + s * (these, of s^2), for |s| <= 1/5; and 2^f = 1 + f * (these, of f).
_ATANH = [0.0, *(1 / k for k in range(3, 12, 2))]
_EXP2 = [math.log(2) ** k / math.factorial(k) for k in range(1, 8)]
Pair = tuple[Any, Any]
ONE: Pair = np.float32(1), np.float32(0)


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def real_terms(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a float32 as a sum of two with at most 12 significant bits each."""
    first = _top(x)
    return first, x - first


def _top(x: jax.Array) -> jax.Array:
    return _float(_bits(x) & ~0xFFF)


def _two_to(n: jax.Array) -> jax.Array:
    """Return 2^n for an int32 n in [-126, 127], and 0 for -127."""
    return _float((n + 127) << 23)


def _inverse(x: jax.Array) -> jax.Array:
    """Return 1 / x for a positive x."""
    # The maximum changes nothing, but it is the one use of the division: a division used twice
    # is a kernel of its own where XLA compiles for the CPU.
    return jnp.maximum(1 / x, 0.0)


def _polynomial(x: jax.Array, coefficients: list[float]) -> jax.Array:
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def _quotient(top: Pair, bottom: Pair) -> Pair:
    """Return `top / bottom`, the first term of 12 bits; both seconds are small."""
    inverse = _inverse(bottom[0])
    near = _top(top[0] * inverse)
    wide = _top(bottom[0])
    rest = (top[0] - near * wide) - near * (bottom[0] - wide)
    return near, (rest + (top[1] - near * bottom[1])) * inverse


def _log2(top: Pair, bottom: Pair) -> Pair:
    """Return log2(top / bottom), the first term of 12 bits, to about 1e-9 relative."""
    (a, a_low), (b, b_low) = top, bottom
    # Without the power of two by which they differ, their quotient is in [2/3, 3/2], and near 1
    # where they are near each other.
    exponent = (_bits(a) - _bits(b) + 0x400000) >> 23
    a = _float(_bits(a) - (exponent << 23))
    # Where they are that far apart, the exponent is small, and the low part does not matter.
    a_low = a_low * _two_to(jnp.clip(-exponent, -127, 127))
    # log2(a / b) = 2/ln2 * atanh(s), s = (a - b) / (a + b). The difference is exact.
    difference, low = a - b, a_low - b_low
    over = difference + low
    low = low - (over - difference)
    # Its quotient by 2 b + over, which in turn may need more than 24 bits.
    under = 2 * b + over
    inverse = _inverse(under)
    near = _top(over * inverse)
    wide = _top(under)
    narrow = (2 * b - wide) + over
    rest = (((over - near * wide) - near * narrow) + (low - near * (low + 2 * b_low))) * inverse
    s = near + rest
    series = _SCALE * (s * _polynomial(s * s, _ATANH))
    large, small = _SCALE_HIGH * near, _SCALE_HIGH * rest + (_SCALE_LOW * s + series)
    whole = exponent.astype(jnp.float32)
    first = _top(whole + (large + small))
    return first, ((whole - first) + large) + small


def _exp2(exponent: Pair, log: Pair) -> Pair:
    """Return 2^(exponent * log), and 1 less that."""
    high = _top(exponent[0])
    product = high * log[0]
    whole = jnp.clip(jnp.round(product), -127, 127)
    rest = (exponent[0] - high) * log[0] + (exponent[0] * log[1] + exponent[1] * log[0])
    # Beyond the range of float32 it is not one.
    fraction = jnp.clip((product - whole) + rest, -1, 1)
    scale = _two_to(whole.astype(jnp.int32))
    more = fraction * _polynomial(fraction, _EXP2) * scale
    return scale + more, (1 - scale) - more


@jax.custom_jvp
def with_gradient_of(value: jax.Array, nominal: jax.Array) -> jax.Array:
    """Return `value`, differentiated as if it were `nominal`: bits have no derivative."""
    del nominal
    return value


@with_gradient_of.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The shapes can differ where the hyper-parameters are scalars and the steps are not.
    shape = jnp.shape(primals[0])
    return with_gradient_of(*primals), jnp.broadcast_to(tangents[1], shape)


def power_and_rest(top: Pair, exponent: Pair, bottom: Pair = ONE, unit: Pair = ONE) -> Pair:
    """Return `x = (top / bottom) ** (exponent / unit)` and `1 - x`, float32, within 5e-7 relative.

    Every argument is `high + low`, and the low part is small.

    Args:
        top: The numerator; taken as 1e-38 where it is less, so `0 ** 0` is 1.
        exponent: The exponent, or its numerator.
        bottom: The denominator.
        unit: The denominator of the exponent; taken as 1 where it is 0.

    Returns:
        The power, and what it lacks to 1, with the derivatives of the formula for every
        argument. A power beyond float32 is its greatest number, and below its least normal
        one it is 0; beyond e^64 and below e^-87 the derivatives are 0.
    """
    stop = jax.lax.stop_gradient
    top, bottom = _known(top, _TINY, _TINY), _known(bottom, _TINY, _TINY)
    log = _log2(stop(top), stop(bottom))
    # Not of the quotient, which may be beyond float32 where its power is not.
    natural = with_gradient_of(math.log(2) * sum(log), jnp.log(sum(top)) - jnp.log(sum(bottom)))
    if unit is not ONE:
        unit = _known(unit, _TINY, 1.0)
        log = _quotient(log, stop(unit))
    value, rest = _exp2(stop(exponent), log)
    # The clip keeps the derivative finite: it is the power times an exponent of up to 2^31.
    nominal = jnp.exp(jnp.clip(sum(exponent) / sum(unit) * natural, -87.0, 64.0))
    shape = jnp.broadcast_shapes(jnp.shape(value), jnp.shape(nominal))
    value, rest, nominal = (jnp.broadcast_to(x, shape) for x in (value, rest, nominal))
    return with_gradient_of(value, nominal), with_gradient_of(rest, -nominal)


def power(top: Pair, exponent: Pair, bottom: Pair = ONE, unit: Pair = ONE) -> jax.Array:
    """Return the first of `power_and_rest`, which saturates at float32's greatest number."""
    return power_and_rest(top, exponent, bottom, unit)[0]


def _known(x: Pair, least: float, otherwise: float) -> Pair:
    known = x[0] >= least
    return jnp.where(known, x[0], otherwise), jnp.where(known, x[1], 0.0)


def add(a: Pair, b: Pair) -> Pair:
    """Return `a + b`."""
    high, low = _sum(a[0], b[0])
    return _settled(high, low + (a[1] + b[1]))


def multiply(a: Pair, b: Pair) -> Pair:
    """Return `a * b`."""
    (a1, a2), (b1, b2) = real_terms(a[0]), real_terms(b[0])
    high, first = _sum(a1 * b1, a1 * b2)
    high, second = _sum(high, a2 * b1)
    high, third = _sum(high, a2 * b2)
    return _settled(high, (first + second) + third + (a[0] * b[1] + a[1] * b[0]))


def _sum(x: jax.Array, y: jax.Array) -> Pair:
    """Return `x + y` and what its rounding lost, exact."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def _settled(high: jax.Array, low: jax.Array) -> Pair:
    """Return the same sum with a high part that is the float32 nearest to it."""
    total = high + low
    return total, low - (total - high)
