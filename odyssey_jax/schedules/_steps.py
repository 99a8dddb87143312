"""Steps that keep all of their digits, and the phases measured on them.

A float32 holds 24 bits, a step 31: `float32(step)` is wrong from 16,777,217 on, and `1 - step /
T` has lost everything ten steps before the end of a long run. So a count is kept as a whole
number and a fraction, differences are taken between whole numbers, and only then is anything
divided.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.schedules._numbers import Wide, is_integer, pair, real, whole_pair
from odyssey_jax.schedules._power import real_terms

LAST_STEP = 2**31 - 1
"""The greatest step; later ones are clamped to it."""


class StepCount(NamedTuple):
    """A number of steps, `whole + part`, never negative: when it is, or how long something is.

    A schedule of your own gets the current step as one, in `Schedule.at`; see `builds`.

    Attributes:
        whole: int32, of any shape.
        part: float32 in [0, 1) of the same shape, or None for a whole number.
    """

    whole: jax.Array
    part: jax.Array | None = None

    def real(self) -> jax.Array:
        """Return the nearest float32."""
        whole = self.whole.astype(jnp.float32)
        return whole if self.part is None else whole + self.part

    def since(self, other: StepCount) -> jax.Array:
        """Return `self - other` as float32, negative if `self` is the earlier one."""
        whole = (self.whole - other.whole).astype(jnp.float32)
        if self.part is None and other.part is None:
            return whole
        return whole + (_part(self) - _part(other))

    def minus(self, other: StepCount) -> StepCount:
        """Return `self - other`, and 0 where `other` is the later one."""
        whole = self.whole - other.whole
        if self.part is None and other.part is None:
            return StepCount(jnp.maximum(whole, 0))
        part = _part(self) - _part(other)
        borrow = jnp.less(part, 0)
        whole = whole - borrow.astype(jnp.int32)
        part = part + borrow.astype(jnp.float32)
        return StepCount(jnp.maximum(whole, 0), jnp.where(whole < 0, 0.0, part))

    def plus(self, other: StepCount) -> StepCount:
        """Return `self + other`, at most the greatest step."""
        room = LAST_STEP - self.whole
        whole = self.whole + jnp.minimum(other.whole, room)
        if self.part is None and other.part is None:
            return StepCount(whole)
        part = jnp.asarray(_part(self) + _part(other))
        carry = part >= 1
        full = (other.whole > room) | (carry & (other.whole == room))
        whole = jnp.where(full, whole, whole + carry.astype(jnp.int32))
        return StepCount(whole, jnp.where(full, 0.0, part - carry.astype(jnp.float32)))

    def half(self) -> StepCount:
        """Return `self / 2`, exact."""
        odd = (self.whole & 1).astype(jnp.float32)
        return StepCount(self.whole >> 1, (odd + _part(self)) / 2)

    def pair(self) -> tuple[jax.Array, jax.Array]:
        """Return the count as `high + low`, both float32."""
        return whole_pair(self.whole, _part(self))

    def reached(self, other: StepCount) -> jax.Array:
        """Return whether `self >= other`."""
        return self.since(other) >= 0

    def interval(self, total: Any) -> Interval:
        """Return where this step is within a phase of so many steps, in steps."""
        total = total if isinstance(total, StepCount) else step_count(total)
        return Interval(self, total.minus(self), total)

    def phase(self, total: Any) -> Phase:
        """Return where this step is within a phase of so many steps, as fractions of it.

        Args:
            total: The steps of the phase: a hyper-parameter, or a step count.

        Returns:
            The fractions behind and ahead; all is behind from the end on, and in a phase of 0.
        """
        return self.interval(total).phase()


ONE_STEP = StepCount(np.int32(1))  # pyright: ignore[reportArgumentType]


def select(condition: jax.Array, yes: StepCount, no: StepCount) -> StepCount:
    """Return `yes` where the condition holds and `no` elsewhere."""
    part = None
    if yes.part is not None or no.part is not None:
        part = jnp.where(condition, _part(yes), _part(no))
    return StepCount(jnp.where(condition, yes.whole, no.whole), part)


def _part(x: StepCount) -> jax.Array | float:
    return 0.0 if x.part is None else x.part


def _from_float(x: Any, xp: ModuleType) -> StepCount:
    """Split floats into whole and part with NumPy (on the host, in float64) or jax.numpy."""
    x = xp.maximum(x, 0)
    beyond = x >= float(LAST_STEP)
    # Infinity and NaN have no integer; NaN comes back through the part.
    floor = xp.floor(xp.where(beyond | xp.isnan(x), 0, x))
    whole = xp.where(beyond, LAST_STEP, floor.astype(np.int32)).astype(np.int32)
    part = xp.where(beyond, 0, xp.where(beyond, 0, x) - floor).astype(np.float32)
    return StepCount(jnp.asarray(whole), jnp.asarray(part))


def clamp_step(step: Any) -> StepCount:
    """Return a step of any real dtype and shape: negative is 0, and nothing wraps."""
    if not isinstance(step, jax.Array):
        step = np.asarray(step)
        if step.dtype == object and all(isinstance(x, int) for x in step.flat):  # beyond int64
            step = np.asarray(np.clip(step, 0, LAST_STEP), np.int64)
    dtype = step.dtype
    xp = jnp if isinstance(step, jax.Array) else np
    if jnp.issubdtype(dtype, np.bool_):
        return StepCount(jnp.asarray(step, jnp.int32))
    if jnp.issubdtype(dtype, jnp.integer):
        if jnp.iinfo(dtype).max > LAST_STEP:
            step = xp.minimum(step, np.asarray(LAST_STEP, dtype))
        if jnp.iinfo(dtype).min < 0:
            step = xp.maximum(step, np.asarray(0, dtype))
        return StepCount(jnp.asarray(step.astype(np.int32)))
    if jnp.issubdtype(dtype, jnp.floating):
        if jnp.finfo(dtype).bits < 32:
            step = step.astype(np.float32)
        return _from_float(step, xp)
    raise TypeError(f"A step must be an integer or a real number, got dtype {dtype}.")


def step_count(x: Any) -> StepCount:
    """Return a hyper-parameter that counts steps."""
    if is_integer(x):
        return StepCount(jnp.maximum(jnp.asarray(x, jnp.int32), 0))
    if not isinstance(x, Wide):
        return _from_float(real(x), jnp)
    # 2^31 - 1 is 2^31 - 1 in this form, and 2^31 is no int32.
    high, low = jnp.asarray(x.high), jnp.asarray(x.low)
    top = (high >= 2.0**31).astype(jnp.float32)
    head = _from_float(jnp.where(top > 0, 0.0, high), jnp)
    rest = low + top + _part(head)
    carry = jnp.floor(rest)
    whole = jnp.where(top > 0, LAST_STEP, head.whole) + carry.astype(jnp.int32)
    return StepCount(whole, rest - carry)


class Phase(NamedTuple):
    """How much of a phase is behind (`done`) and ahead (`left`), each in [0, 1] and exact.

    Their sum is 1, but neither can be had from the other without losing the digits of the
    smaller one: each is a difference of whole numbers, divided once.
    """

    done: jax.Array
    left: jax.Array

    @property
    def late(self) -> jax.Array:
        """Whether the end is the nearer one."""
        return self.left <= self.done

    @property
    def nearer(self) -> jax.Array:
        """The smaller of the two, in [0, 1/2]."""
        return jnp.where(self.late, self.left, self.done)

    @property
    def backwards(self) -> Phase:
        """The phase seen from its end."""
        return Phase(self.left, self.done)


class Interval(NamedTuple):
    """A phase in steps: what is behind, what is ahead, and its length.

    Where a formula needs more digits than a `Phase` has: it divides by itself.
    """

    done: StepCount
    left: StepCount
    total: StepCount

    def phase(self) -> Phase:
        """Return the fractions of it; an interval of length 0 is over at once."""
        ahead = self.left.real()
        over = ahead <= 0
        # Masked before the division, so that no gradient is NaN where the length is 0.
        span = jnp.where(over, 1.0, self.total.real())
        done = jnp.where(over, 1.0, jnp.where(over, 0.0, self.done.real()) / span)
        return Phase(done, jnp.where(over, 0.0, jnp.where(over, 0.0, ahead) / span))

    @property
    def late(self) -> jax.Array:
        """Whether the end is the nearer one."""
        return self.left.real() <= self.done.real()

    @property
    def nearer(self) -> jax.Array:
        """The distance to the nearer end as a fraction, in [0, 1/2]: one division."""
        ahead = self.left.real()
        over = ahead <= 0
        steps = jnp.where(over, 0.0, jnp.where(self.late, ahead, self.done.real()))
        return steps / jnp.where(over, 1.0, self.total.real())

    @property
    def backwards(self) -> Interval:
        """The interval from its end: one that is over has not begun, and any length will do."""
        over = self.left.real() <= 0
        total = select(over, ONE_STEP, self.total)
        return Interval(self.left, select(over, ONE_STEP, self.done), total)


class Turns(NamedTuple):
    """`now / span` as whole turns and the fraction `near + rest` of the next.

    `near` has at most 12 significant bits, so that products with it can be exact (see
    `_power.py`); `rest` is what is missing, at most 2^-12 where the span is whole.
    """

    whole: jax.Array
    near: jax.Array
    rest: jax.Array

    def step_count(self) -> StepCount:
        """Return the quotient as a step measured in units of the span."""
        return StepCount(self.whole, self.near + self.rest)


def turns(now: StepCount, span: Any) -> Turns:
    """Divide a step by a hyper-parameter that counts steps."""
    whole, rest = _quotient(now, span)
    return Turns(whole, *share(rest, step_count(span)))


def share(some: StepCount, total: StepCount) -> tuple[jax.Array, jax.Array]:
    """Return `some / total` as the `near` and `rest` of `Turns`, for `some <= total`."""
    width = _width(total)
    near = jax.lax.stop_gradient(jnp.round(2048 * (some.real() / width)))
    # int32 wraps, and the true difference is about total / 2 at most: so this is exact.
    missing = (2048 * some.whole - near.astype(jnp.int32) * total.whole).astype(jnp.float32)
    if some.part is not None or total.part is not None:
        missing = missing + (2048 * _part(some) - near * _part(total))
    return near / 2048, missing / (2048 * width)


def fold(now: StepCount, span: Any, *, mirror: bool) -> StepCount:
    """Bring a step back into [0, span): every turn alike, or every other one backwards."""
    whole, local = _quotient(now, span)
    return select(whole % 2 == 1, step_count(span).minus(local), local) if mirror else local


def _quotient(now: StepCount, span: Any) -> tuple[jax.Array, StepCount]:
    """Return `now` as whole spans, and the steps of the next one."""
    total = step_count(span)
    if is_integer(span):
        steps = jnp.maximum(total.whole, 1)
        # Both are positive, so the division that truncates is the one wanted, and the cheaper one.
        whole = jax.lax.div(*jnp.broadcast_arrays(now.whole, steps))
        return whole, StepCount(now.whole - whole * steps, now.part)
    stop = jax.lax.stop_gradient
    high, low = pair(span)
    whole, steps, part = divide(*stop((now.whole, _part(now), high, low)))
    # 0, and the way to the derivatives.
    slope = (_part(now) - stop(_part(now))) - whole.astype(jnp.float32) * (high - stop(high))
    return whole, StepCount(steps, part + slope)


def _width(total: StepCount) -> jax.Array:
    """Return a length to divide by: 1 in place of the 0 of a phase that is over anyway."""
    width = total.real()
    return jnp.where(width > 0, width, 1.0)


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
    """Return `(whole + part) / (high + low)`: the whole quotient, and the remainder.

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
    beyond = guess > LAST_STEP * (1 + 2.0**-22)
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
    beyond = beyond | (more > LAST_STEP - count)
    count = jnp.where(beyond, LAST_STEP, count + more)
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
    """Return `sum(ps) * sum(qs)`."""
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
