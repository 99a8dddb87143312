"""When: a step count that keeps all of its digits, and the phases measured on it.

A float32 holds 24 bits, a step 31: `float32(step)` is wrong from 16,777,217 on, and `1 - step /
T` has lost everything ten steps before the end of a long run. So a moment is kept as a whole
number and a fraction, differences are taken between whole numbers, and only then is anything
divided.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._divide import divide
from ._numbers import Wide, is_integer, pair, real, whole_pair

LAST_STEP = 2**31 - 1
"""The greatest step: later ones are taken to be this one."""


class Moment(NamedTuple):
    """A moment or a length: `whole + part`, never negative.

    Attributes:
        whole: int32, of any shape.
        part: float32 in [0, 1) of the same shape, or None for a whole number.
    """

    whole: jax.Array
    part: jax.Array | None = None

    def real(self) -> jax.Array:
        """The nearest float32."""
        whole = self.whole.astype(jnp.float32)
        return whole if self.part is None else whole + self.part

    def since(self, other: Moment) -> jax.Array:
        """`self - other` as float32, negative if `self` is the earlier one."""
        whole = (self.whole - other.whole).astype(jnp.float32)
        if self.part is None and other.part is None:
            return whole
        return whole + (_part(self) - _part(other))

    def minus(self, other: Moment) -> Moment:
        """`self - other`, and 0 where `other` is the later one."""
        whole = self.whole - other.whole
        if self.part is None and other.part is None:
            return Moment(jnp.maximum(whole, 0))
        part = _part(self) - _part(other)
        borrow = jnp.less(part, 0)
        whole = whole - borrow.astype(jnp.int32)
        part = part + borrow.astype(jnp.float32)
        return Moment(jnp.maximum(whole, 0), jnp.where(whole < 0, 0.0, part))

    def plus(self, other: Moment) -> Moment:
        """`self + other`, and the greatest step where that is beyond it."""
        room = LAST_STEP - self.whole
        whole = self.whole + jnp.minimum(other.whole, room)
        if self.part is None and other.part is None:
            return Moment(whole)
        part = jnp.asarray(_part(self) + _part(other))
        carry = part >= 1
        full = (other.whole > room) | (carry & (other.whole == room))
        whole = jnp.where(full, whole, whole + carry.astype(jnp.int32))
        return Moment(whole, jnp.where(full, 0.0, part - carry.astype(jnp.float32)))

    def half(self) -> Moment:
        """`self / 2`, exact."""
        odd = (self.whole & 1).astype(jnp.float32)
        return Moment(self.whole >> 1, (odd + _part(self)) / 2)

    def pair(self) -> tuple[jax.Array, jax.Array]:
        """The moment as `high + low`, both float32."""
        return whole_pair(self.whole, _part(self))

    def reached(self, other: Moment) -> jax.Array:
        """Whether `self >= other`."""
        return self.since(other) >= 0


def select(condition: jax.Array, yes: Moment, no: Moment) -> Moment:
    """`yes` where the condition holds, `no` elsewhere."""
    part = None
    if yes.part is not None or no.part is not None:
        part = jnp.where(condition, _part(yes), _part(no))
    return Moment(jnp.where(condition, yes.whole, no.whole), part)


def _part(x: Moment) -> jax.Array | float:
    return 0.0 if x.part is None else x.part


def _from_float(x: Any, xp: ModuleType) -> Moment:
    """Split floats into whole and part with NumPy (on the host, in float64) or jax.numpy."""
    x = xp.maximum(x, 0)
    beyond = x >= float(LAST_STEP)
    # Infinity and NaN have no integer; NaN comes back through the part.
    floor = xp.floor(xp.where(beyond | xp.isnan(x), 0, x))
    whole = xp.where(beyond, LAST_STEP, floor.astype(np.int32)).astype(np.int32)
    part = xp.where(beyond, 0, xp.where(beyond, 0, x) - floor).astype(np.float32)
    return Moment(jnp.asarray(whole), jnp.asarray(part))


def moment(step: Any) -> Moment:
    """A step, of any real dtype and shape, as a `Moment`: negative is 0, and nothing wraps."""
    if not isinstance(step, jax.Array):
        step = np.asarray(step)
        if step.dtype == object and all(isinstance(x, int) for x in step.flat):  # beyond int64
            step = np.asarray(np.clip(step, 0, LAST_STEP), np.int64)
    dtype = step.dtype
    xp = jnp if isinstance(step, jax.Array) else np
    if jnp.issubdtype(dtype, np.bool_):
        return Moment(jnp.asarray(step, jnp.int32))
    if jnp.issubdtype(dtype, jnp.integer):
        if jnp.iinfo(dtype).max > LAST_STEP:
            step = xp.minimum(step, np.asarray(LAST_STEP, dtype))
        if jnp.iinfo(dtype).min < 0:
            step = xp.maximum(step, np.asarray(0, dtype))
        return Moment(jnp.asarray(step.astype(np.int32)))
    if jnp.issubdtype(dtype, jnp.floating):
        if jnp.finfo(dtype).bits < 32:
            step = step.astype(np.float32)
        return _from_float(step, xp)
    raise TypeError(f"A step must be an integer or a real number, got dtype {dtype}.")


def length(x: Any) -> Moment:
    """A hyper-parameter that counts steps, as a `Moment`."""
    if is_integer(x):
        return Moment(jnp.maximum(jnp.asarray(x, jnp.int32), 0))
    if not isinstance(x, Wide):
        return _from_float(real(x), jnp)
    # 2^31 - 1 is 2^31 - 1 in this form, and 2^31 is no int32.
    high, low = jnp.asarray(x.high), jnp.asarray(x.low)
    top = (high >= 2.0**31).astype(jnp.float32)
    head = _from_float(jnp.where(top > 0, 0.0, high), jnp)
    rest = low + top + _part(head)
    carry = jnp.floor(rest)
    whole = jnp.where(top > 0, LAST_STEP, head.whole) + carry.astype(jnp.int32)
    return Moment(whole, rest - carry)


class Phase(NamedTuple):
    """How much of a phase is behind and how much is ahead, each in [0, 1] and each exact.

    `done + left` is 1, but neither can be had from the other without losing the digits of the
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


def choose(condition: jax.Array, yes: Phase, no: Phase) -> Phase:
    """`yes` where the condition holds, `no` elsewhere."""
    return Phase(jnp.where(condition, yes.done, no.done), jnp.where(condition, yes.left, no.left))


class Interval(NamedTuple):
    """A phase in steps: what is behind, what is ahead, and its length.

    Where a formula needs more digits than a `Phase` has: it divides by itself.
    """

    done: Moment
    left: Moment
    total: Moment

    def phase(self) -> Phase:
        """The fractions of it; an interval of length 0 is over at once."""
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
        one = Moment(jnp.ones((), jnp.int32))
        total = select(over, one, self.total)
        return Interval(self.left, select(over, one, self.done), total)


def interval(now: Moment, total: Moment) -> Interval:
    """Where `now` is within a phase of length `total`."""
    return Interval(now, total.minus(now), total)


def phase(now: Moment, total: Moment) -> Phase:
    """Where `now` is within a phase of length `total`, as fractions of it."""
    return interval(now, total).phase()


class Turns(NamedTuple):
    """`now / span` as whole turns and the fraction `near + rest` of the next.

    `near` has at most 12 significant bits, so that products with it can be exact (see
    `_power.py`); `rest` is what is missing, at most 2^-12 where the span is whole.
    """

    whole: jax.Array
    near: jax.Array
    rest: jax.Array

    def moment(self) -> Moment:
        """The quotient as a `Moment`: a step measured in units of the span."""
        return Moment(self.whole, self.near + self.rest)


def turns(now: Moment, span: Any) -> Turns:
    """Divide a moment by a hyper-parameter that counts steps."""
    whole, rest = _divide(now, span)
    return Turns(whole, *share(rest, length(span)))


def share(some: Moment, total: Moment) -> tuple[jax.Array, jax.Array]:
    """`some / total` as the `near` and `rest` of `Turns`, for `some <= total`."""
    width = _width(total)
    near = jax.lax.stop_gradient(jnp.round(2048 * (some.real() / width)))
    # int32 wraps, and the true difference is about total / 2 at most: so this is exact.
    missing = (2048 * some.whole - near.astype(jnp.int32) * total.whole).astype(jnp.float32)
    if some.part is not None or total.part is not None:
        missing = missing + (2048 * _part(some) - near * _part(total))
    return near / 2048, missing / (2048 * width)


def fold(now: Moment, span: Any, *, mirror: bool) -> Moment:
    """Bring a moment back into [0, span): every turn alike, or every other one backwards."""
    whole, local = _divide(now, span)
    return select(whole % 2 == 1, length(span).minus(local), local) if mirror else local


def _divide(now: Moment, span: Any) -> tuple[jax.Array, Moment]:
    """`now` as whole spans, and the steps of the next one."""
    total = length(span)
    if is_integer(span):
        steps = jnp.maximum(total.whole, 1)
        # Both are positive, so the division that truncates is the one wanted, and the cheaper one.
        whole = jax.lax.div(*jnp.broadcast_arrays(now.whole, steps))
        return whole, Moment(now.whole - whole * steps, now.part)
    stop = jax.lax.stop_gradient
    high, low = pair(span)
    whole, steps, part = divide(*stop((now.whole, _part(now), high, low)))
    # 0, and the way to the derivatives.
    slope = (_part(now) - stop(_part(now))) - whole.astype(jnp.float32) * (high - stop(high))
    return whole, Moment(steps, part + slope)


def _width(total: Moment) -> jax.Array:
    """A length to divide by: 1 in place of the 0 of a phase that is over anyway."""
    width = total.real()
    return jnp.where(width > 0, width, 1.0)
