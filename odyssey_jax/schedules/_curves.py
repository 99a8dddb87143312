"""Curves from 0 to 1 over a phase: the formulas that warm-ups, decays and cooldowns share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax.schedules._numbers import Halves, between, choose, pair, real
from odyssey_jax.schedules._power import ONE, Pair, power, power_and_rest
from odyssey_jax.schedules._steps import Interval, Phase, select, share


def line(where: Phase, start: Any, end: Any) -> jax.Array:
    """Return `start + (end - start) * done`."""
    return between(start, end, where.done, where.left)


def _from_nearer_end(where: Phase | Interval) -> jax.Array:
    """Return `(1 - cos(pi * x)) / 2` as `sin(pi / 2 * x) ** 2`, x the nearer end's distance.

    So it is small where the other form cancels: one transcendental, all digits at both ends.
    """
    return jnp.square(jnp.sin((math.pi / 2) * where.nearer))


def wave(where: Phase) -> Phase:
    """Return the phase of which `(1 - cos(pi * done)) / 2` is done."""
    small = _from_nearer_end(where)
    return choose(where.late, Phase(1 - small, small), Phase(small, 1 - small))


def cosine(where: Phase | Interval, start: Any, end: Any) -> jax.Array:
    """Return `end + (start - end) * (1 + cos(pi * done)) / 2`."""
    start, end, late = real(start), real(end), where.late
    near, far = jnp.where(late, end, start), jnp.where(late, start, end)
    return near + (far - near) * _from_nearer_end(where)


def root(where: Phase) -> Phase:
    """Return the phase of which `sqrt(done)` is done."""
    begun = where.done > 0
    # Masked, as the derivative is not finite at 0.
    done = jnp.where(begun, jnp.sqrt(jnp.where(begun, where.done, 1.0)), 0.0)
    return Phase(done, where.left / (1 + done))


def geometric(where: Interval, start: Any, end: Any) -> jax.Array:
    """Return `start * (end / start) ** done`, measured from the nearer end."""
    late = where.left.since(where.done) <= 0
    done, left = where.done.pair(), where.left.pair()
    exponent = jnp.where(late, -left[0], done[0]), jnp.where(late, -left[1], done[1])
    share = power(pair(end), exponent, pair(start), unit=where.total.pair())
    return jnp.where(late, real(end), real(start)) * share


def sigmoid(where: Interval, lower: Any, upper: Any) -> Phase:
    """Return the phase of which `(1 + tanh(z)) / 2` is done, z from `lower` to `upper`.

    Towards the end it is `exp(-2 z)` that counts, which needs z with an absolute error of 1e-7:
    so z is `coarse + fine`, where `coarse` is a sum of products that are exact.
    """
    near, rest = share(where.done, where.total)
    (low, low_rest), (high, high_rest) = _coarse(pair(lower), pair(upper))
    coarse = low * (1 - near) + high * near
    fine = low_rest * (1 - near) + high_rest * near + (real(upper) - real(lower)) * rest
    late = coarse > 0
    small = jnp.exp(-2 * jnp.abs(coarse))
    # Not `exp * exp`, which XLA turns into the `exp` of the sum.
    small = small + small * jnp.expm1(jnp.where(late, -2.0, 2.0) * fine)
    less, more = small / (1 + small), 1 / (1 + small)
    return choose(late, Phase(more, less), Phase(less, more))


def _coarse(lower: Pair, upper: Pair) -> tuple[Pair, Pair]:
    """Return both numbers as multiples of one unit, at most 2^11 of it, and the rest."""
    greatest = jnp.maximum(jnp.maximum(jnp.abs(lower[0]), jnp.abs(upper[0])), 1.0)
    unit = jax.lax.stop_gradient(jnp.exp2(jnp.ceil(jnp.log2(greatest))) / 2048)
    low, high = (unit * jnp.round(x[0] / unit) for x in (lower, upper))
    return (low, (lower[0] - low) + lower[1]), (high, (upper[0] - high) + upper[1])


def phase_power(where: Phase | Interval, exponent: Any) -> Phase:
    """Return the phase of which `done ** exponent` is done, `1 - done ** exponent` left.

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
    """Raise a phase to `count` halves, by `1 - x^n = (1 - x) (1 + x + ... + x^(n - 1))`."""
    base, left, times = where.done, where.left, count // 2
    if count % 2:
        begun = where.done > 0  # at 0 the root has no finite derivative
        base = jnp.where(begun, jnp.sqrt(jnp.where(begun, where.done, 1.0)), 0.0)
        left, times = left / (1 + base), count
    total, product = jnp.zeros_like(base), jnp.ones_like(base)
    for _ in range(times):
        total, product = total + product, product * base
    return Phase(product, left * total)


MOST_LAPS = 2**20


def laps(where: Interval, count: Pair) -> tuple[jax.Array, Phase]:
    """Return how many laps are whole, and where in the next one `where` is.

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
    """Return the exponent of a float32 that is not negative."""
    return (jax.lax.bitcast_convert_type(x, jnp.int32) >> 23) - 127
