"""What begins again: decays restarted from a lower peak over a longer time, and triangles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds, recipe
from odyssey_jax.schedules._callables import as_schedule
from odyssey_jax.schedules._cosine import cosine_decay
from odyssey_jax.schedules._curves import line
from odyssey_jax.schedules._cycle_lengths import cycles
from odyssey_jax.schedules._decays import Ending
from odyssey_jax.schedules._endless import exponential
from odyssey_jax.schedules._fields import (
    is_known,
    require_at_least_one,
    require_choice,
    require_count,
    require_finite,
    require_length,
    require_positive,
    require_sum,
    require_unit,
)
from odyssey_jax.schedules._numbers import between, is_integer, pair, real, whole_pair
from odyssey_jax.schedules._power import power
from odyssey_jax.schedules._steps import (
    Interval,
    Phase,
    StepCount,
    fold,
    length,
    phase,
    select,
    turns,
)

# What the decays call their length.
_LENGTHS = ("decay_steps", "transition_steps")


def _length_of(schedule: Schedule) -> str:
    return next(name for name in _LENGTHS if hasattr(schedule, name))


@node
class Restarting(Schedule):
    """Restarts as they are evaluated: the cycles known as well as they can be."""

    schedule: Schedule
    cycles: Any
    m_mul: Any
    cycle_limit: Any

    def prepared(self) -> Restarting:
        """It is."""
        return self

    def at(self, now: StepCount) -> jax.Array:
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

    def at(self, now: StepCount) -> jax.Array:
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


CyclicMode = Literal["triangular", "triangular2", "exp_range"]


AmplitudeOf = Literal["cycle", "step"]


_HIGHEST = 2.0**64


def _span(up: Any, down: Any) -> Any:
    """The length of a cycle; whole if both halves are."""
    if is_integer(up) and is_integer(down):
        return jnp.asarray(up, jnp.int32) + jnp.asarray(down, jnp.int32)
    return real(up) + real(down)


def _triangle(local: StepCount, up: Any, down: Any) -> Phase:
    """How high on the triangle: `done` on the way up, and what is left on the way down."""
    rise, fall = phase(local, length(up)), phase(local.minus(length(up)), length(down))
    rising = rise.left > 0
    return Phase(jnp.where(rising, rise.done, fall.left), jnp.where(rising, rise.left, fall.done))


@node
class Cyclic(Schedule):
    """Triangles whose height may change; see `cyclic`."""

    base_value: Any
    peak_value: Any
    step_size_up: Any
    step_size_down: Any
    mode: str = dataclasses.field(metadata={"static": True})
    gamma: Any
    amplitude: Schedule | None
    amplitude_of: str = dataclasses.field(metadata={"static": True})

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        span = _span(up, down)
        height = self._height(now, turns(now, span).whole)
        top = self.peak_value
        if height is not None:
            top = between(self.base_value, self.peak_value, height, 1 - height)
        return line(_triangle(fold(now, span, mirror=False), up, down), self.base_value, top)

    def _height(self, now: StepCount, cycle: jax.Array) -> jax.Array | None:
        """The peak of this cycle as a part of the first one's; None if it does not change."""
        if self.amplitude is not None:
            return self.amplitude.at(StepCount(cycle) if self.amplitude_of == "cycle" else now)
        if self.mode == "triangular2":
            return power(pair(0.5), whole_pair(cycle))
        if self.mode == "exp_range":
            # Under a higher peak, neither values nor derivatives would be finite.
            return jnp.minimum(exponential(now, 1.0, 1, self.gamma), _HIGHEST)
        return None


@builds(Cyclic)
def cyclic(
    base_value: Any,
    peak_value: Any,
    step_size_up: Any,
    step_size_down: Any = None,
    mode: CyclicMode = "triangular",
    gamma: Any = 1.0,
    *,
    amplitude: Schedule | Callable[[Any], Any] | None = None,
    amplitude_of: AmplitudeOf = "cycle",
) -> Cyclic:
    r"""Rise from `base_value` to `peak_value` and fall back along straight lines, over and over.

    $$f(t) = v_0 + (v - v_0) \, a \cdot \begin{cases}
      u / n_1 & u \le n_1 \\ (n_1 + n_2 - u) / n_2 & u > n_1
    \end{cases} \qquad u = t \bmod (n_1 + n_2)$$

    In cycle $c = \lfloor t / (n_1 + n_2) \rfloor$ the amplitude $a$ is 1 (`"triangular"`),
    $2^{-c}$ (`"triangular2"`) or $\min(\gamma^t, 2^{64})$ (`"exp_range"`), or what `amplitude`
    says.

    There is no end. A warm-up before it is joined to it, and its steps count from the end of
    that warm-up. The momentum that goes with the rate is another one, with its own two values
    the other way round: `cyclic(0.95, 0.85, ...)` falls while the rate rises.

    Args:
        base_value: The value $v_0$ at the start of each cycle; scalar, finite.
        peak_value: The value $v$ at the peak of the first cycle; scalar, finite.
        step_size_up: Steps $n_1$ up; scalar, in [0, 2**31 - 1]. If 0, a cycle starts at its peak.
        step_size_down: Steps $n_2$ down; scalar, in [0, 2**31 - 1], or None for as many as up.
            If 0, the value falls back at once. Together they are in [1, 2**31 - 1].
        mode: How the amplitude changes: `"triangular"`, `"triangular2"` or `"exp_range"`.
        gamma: The factor $\gamma$ of `"exp_range"`; scalar, above 0.
        amplitude: The amplitude as a schedule of its own, in place of a mode.
        amplitude_of: What the amplitude's step counts: the `"cycle"`, from 0, or the `"step"`
            $t$.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or belongs to another mode.

    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.1;
        `torch.optim.lr_scheduler.CyclicLR`.

    Example:
        >>> from odyssey_jax.schedules import cyclic
        >>> schedule = cyclic(0.0, 0.8, step_size_up=4, step_size_down=8, mode="triangular2")
        >>> print(schedule(0), schedule(2), schedule(4), schedule(12), schedule(16))
        0.0 0.4 0.8 0.0 0.4
    """
    require_finite("base_value", base_value)
    require_finite("peak_value", peak_value)
    step_size_up = require_length("step_size_up", step_size_up)
    if step_size_down is not None:
        step_size_down = require_length("step_size_down", step_size_down)
    down = step_size_up if step_size_down is None else step_size_down
    require_sum("step_size_up", step_size_up, "step_size_down", down)
    require_choice("mode", mode, get_args(CyclicMode))
    require_positive("gamma", gamma)
    require_choice("amplitude_of", amplitude_of, get_args(AmplitudeOf))
    if amplitude is not None:
        amplitude = as_schedule("amplitude", amplitude)
    _require_one_amplitude(mode, gamma, amplitude, amplitude_of)
    return Cyclic(
        base_value,
        peak_value,
        step_size_up,
        step_size_down,
        mode,
        gamma,
        amplitude,
        amplitude_of,
    )


def _require_one_amplitude(mode: str, gamma: Any, amplitude: Any, amplitude_of: str) -> None:
    """Refuse what would be ignored."""
    if amplitude is not None and mode != "triangular":
        raise ValueError(
            f"amplitude takes the place of a mode: leave mode at 'triangular'; got mode = {mode!r}."
        )
    if amplitude is None and amplitude_of != "cycle":
        raise ValueError(
            f"amplitude_of says what an amplitude's step counts: give amplitude too; got "
            f"amplitude_of = {amplitude_of!r}."
        )
    if mode != "exp_range" and isinstance(gamma, (int, float)) and gamma != 1:
        raise ValueError(
            f"gamma belongs to mode = 'exp_range'; got gamma = {gamma!r}, mode = {mode!r}."
        )
