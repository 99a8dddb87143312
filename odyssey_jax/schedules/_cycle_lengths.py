"""Cycles of growing length: which one a step is in, and where in it.

Never by `floor(log(t))`, which a rounding error puts into the cycle before at the very step of a
restart: the starts are exact, and the step is compared to them.

Where the numbers are known, the starts are a table. Where they are traced, the cycle is found in
spans of 2048, 1024, ... 1 cycles, each taken if the step is past it. A span of $2^j$ cycles is
$1 + m + ... + m^{2^j - 1}$ times as long as its first cycle, and the cycle after it $m^{2^j}$
times.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._numbers import Wide, canonical, pair, real
from odyssey_jax.schedules._power import Pair, add, multiply, with_gradient_of
from odyssey_jax.schedules._steps import (
    LAST_STEP,
    Interval,
    StepCount,
    fold,
    select,
    step_count,
    turns,
)

SPANS = 12
MOST_CYCLES = 2**SPANS
"""How many cycles may begin before step 2^31, if they grow."""
# Tables have a multiple of so many rows, so that most of them share a program.
_ROWS = 32
# Tables are made in units of 2^-80 steps.
_POINT = 2**80
# A pair has 48 bits: two of them that are nearer than this are equal.
_PAIR_BITS = 2.0**-44
# What is longer than this is to 2^31 steps as if it were as long.
_GREATEST = 2.0**60


class Cycle(NamedTuple):
    """The cycle that a step is in.

    Attributes:
        number: int32, of cycles before it.
        where: What of it is behind and ahead: in steps, or in units of `2^k` steps if it is
            longer than 2^31 - 1.
    """

    number: jax.Array
    where: Interval


def cycles(first: Any, factor: Any) -> Equal | Growing | Table:
    """Return cycles, given the length of the first and that of each by the one before."""
    if not (_is_number(first) and _is_number(factor)):
        return Growing(canonical(first), canonical(factor))
    return table(first, factor) if factor > 1 else Equal(canonical(first))


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.generic)) or (isinstance(x, np.ndarray) and x.ndim == 0)


@node
class Equal:
    """Cycles of one length."""

    first: Any

    def at(self, now: StepCount) -> Cycle:
        """Return the cycle of a step."""
        local = fold(now, self.first, mirror=False)
        return Cycle(turns(now, self.first).whole, local.interval(self.first))


@node
class Table:
    """Cycles whose starts are known: one row a cycle."""

    start: StepCount
    stop: StepCount
    total: StepCount
    shift: Any

    def at(self, now: StepCount) -> Cycle:
        """Return the cycle of a step."""
        number = self._number(now)
        row = jax.tree.map(lambda x: jnp.asarray(x).at[number].get(mode="promise_in_bounds"), self)
        done = _shifted(now.minus(row.start), row.shift)
        # Where the stop is beyond 2^31 it has wrapped, and the difference wraps back.
        left = select(row.shift > 0, row.total.minus(done), row.stop.minus(now))
        return Cycle(number, Interval(done, left, row.total))

    def _number(self, now: StepCount) -> jax.Array:
        """Return how many cycles are over."""
        if now.part is None and len(self.shift) <= _ROWS:
            # One by one: XLA gives a reduction a kernel of its own, of some 30 ns.
            before = self.start.whole - (self.start.part == 0).astype(jnp.int32)
            over = (now.whole > before[i] for i in range(1, len(self.shift)))
            return sum((each.astype(jnp.int32) for each in over), start=jnp.zeros_like(now.whole))
        tall = jax.tree.map(lambda x: x.reshape(x.shape + (1,) * now.whole.ndim), self.start)
        ahead = StepCount(now.whole[None], None if now.part is None else now.part[None])
        return jnp.sum(ahead.reached(tall)[1:], axis=0, dtype=jnp.int32)


def table(first: Any, factor: Any) -> Table:
    """Return the cycles that begin before step 2^31, of numbers that are known.

    Raises:
        ValueError: If there are too many.
    """
    growth = Fraction(float(factor))
    start, total = 0, int(Fraction(float(first)) * _POINT)
    rows = []
    while start <= LAST_STEP * _POINT:
        if len(rows) == MOST_CYCLES:
            raise ValueError(
                f"t_mul must be 1, or so much more that fewer than {MOST_CYCLES} cycles begin "
                f"before step 2**31; got t_mul = {factor!r}, with a first cycle of {first!r} steps."
            )
        stop = _snapped(start + total, (start + total) * len(rows) >> 52)
        shift = max(0, (total // _POINT).bit_length() - 31)
        rows.append((*_split(start), *_split(stop), *_split(total >> shift), shift))
        start = stop
        total = min(total * growth.numerator // growth.denominator, int(_GREATEST) * _POINT)
    # Rows that no step reaches.
    rows += [(LAST_STEP, 0.5) * 3 + (0,)] * (-len(rows) % _ROWS)
    start, stop, total = (_column(rows, i) for i in (0, 2, 4))
    return Table(start, stop, total, np.asarray([row[6] for row in rows], np.int32))


def _column(rows: list[Any], i: int) -> Any:
    """Return step counts, their whole steps in column `i` and their parts in the next."""
    whole = np.asarray([row[i] for row in rows], np.int64).astype(np.int32)
    return StepCount(whole, np.asarray([row[i + 1] for row in rows], np.float32))  # pyright: ignore


def _snapped(x: int, slack: int) -> int:
    """Return the whole number of steps that a moment is, if it is one to within `slack`."""
    whole = round(Fraction(x, _POINT)) * _POINT
    return whole if abs(x - whole) <= slack else x


def _split(x: int) -> tuple[int, float]:
    """Return a moment as whole steps and a part that stays below 1 as a float32."""
    return x // _POINT, min(x % _POINT / _POINT, 1 - 2.0**-24)


@node
class Growing:
    """Cycles each `factor` times as long as the one before, of numbers that are traced."""

    first: Any
    factor: Any

    def at(self, now: StepCount) -> Cycle:
        """Return the cycle of a step."""
        grows = real(self.factor) > 1
        equal, growing = Equal(self.first).at(now), self._growing(now)
        where = [select(grows, a, b) for a, b in zip(growing.where, equal.where, strict=True)]
        return Cycle(jnp.where(grows, growing.number, equal.number), Interval(*where))

    def _growing(self, now: StepCount) -> Cycle:
        moment = jax.lax.stop_gradient(now.pair())
        start, total, number = self._find(moment)
        # The same once more in float32, for the derivatives.
        first, factor = real(self.first), real(self.factor)
        factor = jnp.where(factor > 1, factor, 2.0)
        log = jnp.minimum(number.astype(jnp.float32) * jnp.log(factor), 40.0)
        begin, size = first * (jnp.expm1(log) / (factor - 1)), first * jnp.exp(log)
        # A float32's exponent says by how many bits a length exceeds an int32.
        bits = jax.lax.bitcast_convert_type(total[0], jnp.int32)
        unit = jnp.exp2(-jnp.maximum((bits >> 23) - 127 - 30, 0).astype(jnp.float32))
        left = add(add(start, total), (-moment[0], -moment[1]))
        return Cycle(
            number,
            Interval(
                _moment(add(moment, (-start[0], -start[1])), unit, now.real() - begin),
                _moment(left, unit, begin + size - now.real()),
                _moment(total, unit, size),
            ),
        )

    def _find(self, moment: Pair) -> tuple[Pair, Pair, jax.Array]:
        """Return start, length and number of the cycle: exact, and without derivatives."""
        numbers = (moment, pair(self.first), pair(self.factor))
        moment, first, factor = _broadcast(jax.lax.stop_gradient(numbers))

        def take(place: Any, span: Any) -> tuple[Any, None]:
            start, total, number = place
            count, growth, lengths = span
            end = add(start, multiply(total, lengths))
            past = (moment[0] - end[0]) + (moment[1] - end[1]) >= -_PAIR_BITS * end[0]
            there = (end, _bounded(multiply(total, growth)), number + count)
            return jax.tree.map(lambda a, b: jnp.where(past, a, b), there, place), None

        place = (_like(moment, 0.0), first, jnp.zeros_like(first[0], jnp.int32))
        counts = 2 ** np.arange(SPANS, dtype=np.int32)
        # A loop, because its body is compiled once.
        return jax.lax.scan(take, place, (counts, *_spans(factor)), reverse=True)[0]


def _spans(factor: Pair) -> tuple[Pair, Pair]:
    """Return how much longer the next cycle is after 1, 2, 4, ..., and how long those are."""

    def double(spans: tuple[Pair, Pair], _: None) -> tuple[Any, Any]:
        growth, lengths = spans
        twice = add(lengths, multiply(lengths, growth))
        return (_bounded(multiply(growth, growth)), _bounded(twice)), spans

    return jax.lax.scan(double, (factor, _like(factor, 1.0)), length=SPANS)[1]


def _like(x: Pair, value: float) -> Pair:
    return jnp.full_like(x[0], value), jnp.zeros_like(x[0])


def _broadcast(pairs: tuple[Pair, ...]) -> list[Pair]:
    flat = jnp.broadcast_arrays(*(x for a_pair in pairs for x in a_pair))
    return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]


def _bounded(x: Pair) -> Pair:
    small = x[0] < _GREATEST
    return jnp.where(small, x[0], _GREATEST), jnp.where(small, x[1], 0.0)


def _moment(x: Pair, unit: jax.Array, nominal: jax.Array) -> StepCount:
    """Return a pair as a step count in units of `1 / unit`, with the derivatives of `nominal`."""
    exact = step_count(Wide(x[0] * unit, x[1] * unit))
    assert exact.part is not None
    return StepCount(
        exact.whole, with_gradient_of(*jnp.broadcast_arrays(exact.part, nominal * unit))
    )


def _shifted(x: StepCount, shift: Any) -> StepCount:
    """Return `x / 2^shift`."""
    part = jnp.zeros((), jnp.float32) if x.part is None else x.part
    below = (x.whole & ((1 << shift) - 1)).astype(jnp.float32)
    return StepCount(x.whole >> shift, (below + part) * jnp.exp2(-shift.astype(jnp.float32)))
