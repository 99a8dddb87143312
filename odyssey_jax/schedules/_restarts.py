"""Decays that begin again: from a peak that may be lower, over a time that may be longer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._base import Schedule, builds, recipe
from ._check import is_known, require_at_least_one, require_count, require_positive, require_unit
from ._cosine import cosine_decay
from ._cycles import cycles
from ._moment import Interval, Moment, select
from ._node import node
from ._numbers import pair, real, whole_pair
from ._past_end import Ending
from ._power import power

# What the decays call their length.
_LENGTHS = ("decay_steps", "transition_steps")


def _length_of(schedule: Schedule) -> str:
    return next(name for name in _LENGTHS if hasattr(schedule, name))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Restarting(Schedule):
    """Restarts as they are evaluated: the cycles known as well as they can be."""

    schedule: Schedule
    cycles: Any
    m_mul: Any
    cycle_limit: Any

    def prepared(self) -> Restarting:
        """It is."""
        return self

    def at(self, now: Moment) -> jax.Array:
        """One decay, with the numbers of each step's cycle."""
        cycle = self.cycles.at(now)
        number, where = cycle.number, cycle.where
        if self.cycle_limit is not None:
            last = jnp.asarray(self.cycle_limit, jnp.int32) - 1
            where = _over(number > last, where)
            number = jnp.minimum(number, last)
        peak = self.schedule.init_value  # pyright: ignore[reportAttributeAccessIssue]
        if self.m_mul is not None:
            peak = real(peak) * power(pair(self.m_mul), whole_pair(number))
        numbers = {"init_value": peak, _length_of(self.schedule): where}
        piece: Schedule = dataclasses.replace(self.schedule, **numbers)  # pyright: ignore
        return piece.at(where.done)


def _over(condition: jax.Array, where: Interval) -> Interval:
    """The end of an interval where the condition holds."""
    done = select(condition, where.total, where.done)
    return Interval(
        done, select(condition, where.total.minus(where.total), where.left), where.total
    )


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Restarts(Schedule):
    """A decay and how it begins again; see `restarts`."""

    schedule: Schedule
    t_mul: Any
    m_mul: Any
    cycle_limit: Any

    def prepared(self) -> Restarting:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The cycles as a table, where their lengths are known."""
        plain = super().prepared()
        assert isinstance(plain, Restarts)
        first = getattr(self.schedule, _length_of(self.schedule))
        falls = not (isinstance(self.m_mul, (int, float)) and self.m_mul == 1)
        return Restarting(
            plain.schedule,
            cycles(first, self.t_mul),
            plain.m_mul if falls else None,
            plain.cycle_limit,
        )

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.prepared().at(now)


@builds(Restarts)
def restarts(
    schedule: Schedule, t_mul: Any = 1.0, m_mul: Any = 1.0, cycle_limit: Any = None
) -> Restarts:
    r"""Begin a decay again at its end: each cycle longer by `t_mul`, from a peak times `m_mul`.

    $$f(t) = g_{v_0 d^i, \, T_0 m^i}(t - t_i), \qquad t_i \le t < t_{i+1}, \quad
      t_i = T_0 (1 + m + \dots + m^{i - 1})$$

    where $g_{v, T}$ is the decay from $v$ over $T$ steps. A restart need not fall on a whole
    step; the first step not before it belongs to the next cycle, and where it does fall on one,
    that step is at the peak to the bit.

    Where the lengths are traced, or several of these are joined, the starts have 48 bits: exact
    if they are whole, and to $10^{-4}$ of a step near step $2^{31}$ if they are not.

    There is no end, unless `cycle_limit` sets it: from the end of the last cycle on the decay's
    end value is held. A warm-up before it is joined to it, and its steps count from the end of
    that warm-up.

    Args:
        schedule: The first cycle: a decay that holds its end value, such as `cosine_decay`,
            `polynomial` or `tanh_decay`; its length $T_0$ is at least 1 step.
        t_mul: The factor $m$ of the lengths; scalar, at least 1. If it is not 1, fewer than
            4096 cycles may begin before step $2^{31}$.
        m_mul: The factor $d$ of the peaks; scalar, above 0.
        cycle_limit: How many cycles there are; scalar, in [1, 2**31 - 1], or None for no limit.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or the schedule can't be restarted.

    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017);
        the cycles of timm's schedulers.

    Example:
        >>> from odyssey_jax.schedules import linear, restarts
        >>> schedule = restarts(linear(0.8, 0.0, 10), t_mul=2.0, m_mul=0.5, cycle_limit=2)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(20), schedule(30))
        0.8 0.4 0.4 0.2 0.0
    """
    first = _require_decay(schedule)
    require_at_least_one("t_mul", t_mul)
    require_positive("m_mul", m_mul)
    if cycle_limit is not None:
        cycle_limit = require_count("cycle_limit", cycle_limit, 1)
    cycles(first, t_mul)  # refuses too many
    return Restarts(schedule, t_mul, m_mul, cycle_limit)


@recipe
def cosine_restarts(
    init_value: Any,
    first_decay_steps: Any,
    t_mul: Any = 1.0,
    m_mul: Any = 1.0,
    end_value: Any = 0.0,
    *,
    cycle_limit: Any = None,
) -> Restarts:
    r"""Fall along half a cosine, jump back to the peak, and fall again, ever more slowly.

    $$f(t) = v_1 + (v_0 d^i - v_1) \, \tfrac{1}{2}\left(1 + \cos \frac{\pi (t - t_i)}{T_i}
      \right), \qquad T_i = T_0 m^i, \quad t_i = T_0 + \dots + T_{i-1} \le t < t_{i+1}$$

    The peak is reached at each restart to the bit, where that is a whole step. The end value is
    reached only if `cycle_limit` sets an end: at $t$ = the sum of all lengths, one step after
    the last update, and it is held from there. Steps count from the end of a warm-up joined
    before it.

    Args:
        init_value: The first peak $v_0$; scalar, finite.
        first_decay_steps: The length $T_0$ of the first cycle in steps; scalar, in
            [1, 2**31 - 1].
        t_mul: The factor $m$ of the lengths; scalar, at least 1. If it is not 1, fewer than
            4096 cycles may begin before step $2^{31}$.
        m_mul: The factor $d$ of the peaks; scalar, above 0.
        end_value: The value $v_1$ that each cycle falls to; scalar, finite.
        cycle_limit: How many cycles there are; scalar, in [1, 2**31 - 1], or None for no limit.

    Returns:
        The `restarts` of a `cosine_decay`: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
        equation 5; `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`,
        `optax.sgdr_schedule`, timm's `CosineLRScheduler`.

    Example:
        >>> from odyssey_jax.schedules import cosine_restarts
        >>> schedule = cosine_restarts(0.8, 10, t_mul=2.0, m_mul=0.5)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 20, 30)]
        [0.8, 0.4, 0.4, 0.2, 0.2]
    """
    first_decay_steps = require_unit("first_decay_steps", first_decay_steps)
    decay = cosine_decay(init_value, first_decay_steps, end_value)
    return restarts(decay, t_mul, m_mul, cycle_limit)


def _require_decay(schedule: Any) -> Any:
    """A decay that can be restarted; gives the length of its first cycle."""
    if not isinstance(schedule, Ending) or not hasattr(schedule, "init_value"):
        raise ValueError(
            "schedule must be a decay from an init_value over a number of steps, such as "
            f"cosine_decay; got schedule = {schedule!r}."
        )
    if schedule.past_end != "hold" or schedule.end_on_last_step:
        raise ValueError(
            "schedule must hold its end value (past_end = 'hold', end_on_last_step = False): "
            f"what is past the end is the next cycle; got schedule = {schedule!r}."
        )
    begin = getattr(schedule, "transition_begin", 0)
    if is_known(begin) and np.any(np.asarray(begin) != 0):
        raise ValueError(
            f"schedule must decay from its first step; got transition_begin = {begin!r}."
        )
    name = _length_of(schedule)
    return require_unit(name, getattr(schedule, name))
