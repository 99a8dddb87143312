"""What begins again: decays restarted from a lower peak over a longer time, and triangles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule, builds, recipe
from odyssey_jax.schedules._cosine import cosine_decay
from odyssey_jax.schedules._curves import line
from odyssey_jax.schedules._cycle_lengths import cycles
from odyssey_jax.schedules._decays import Ending
from odyssey_jax.schedules._endless import exponential
from odyssey_jax.schedules._fields import (
    AT_LEAST_ONE,
    FINITE,
    POSITIVE,
    SOME_STEPS,
    STEPS,
    checked,
    choice,
    count,
    field,
    is_known,
)
from odyssey_jax.schedules._numbers import between, is_integer, pair, real, whole_pair
from odyssey_jax.schedules._parts import Part
from odyssey_jax.schedules._power import power
from odyssey_jax.schedules._steps import (
    LAST_STEP,
    Interval,
    Phase,
    StepCount,
    fold,
    select,
    step_count,
    turns,
)
from odyssey_jax.schedules._units import Steps


def _require_decay(name: str, schedule: Any) -> Schedule:
    """Return a decay that can be restarted."""
    if not isinstance(schedule, Ending) or not hasattr(schedule, "init_value"):
        raise ValueError(
            f"{name} must be a decay from an init_value over a number of steps, such as "
            f"cosine_decay; got {name} = {schedule!r}."
        )
    if schedule.past_end != "hold" or schedule.end_on_last_step:
        raise ValueError(
            f"{name} must hold its end value (past_end = 'hold', end_on_last_step = False): "
            f"what is past the end is the next cycle; got {name} = {schedule!r}."
        )
    begin = 0 if schedule.begin is None else schedule.begin
    if is_known(begin) and np.any(np.asarray(begin) != 0):
        raise ValueError(
            f"{name} must decay from its first step; got {schedule.begin_field} = {begin!r}."
        )
    SOME_STEPS(schedule.length_field, schedule.length)
    return schedule


@node
class Restarting(Schedule):
    """Restarts as they are evaluated: the cycles known as well as they can be."""

    schedule: Any
    cycles: Any
    m_mul: Any
    cycle_limit: Any

    def prepared(self) -> Restarting:
        """Return it as it is: it is prepared."""
        return self

    def at(self, now: StepCount) -> jax.Array:
        """Evaluate one decay, with the numbers of each step's cycle."""
        cycle = self.cycles.at(now)
        number, where = cycle.number, cycle.where
        if self.cycle_limit is not None:
            last = jnp.asarray(self.cycle_limit, jnp.int32) - 1
            where = _over(number > last, where)
            number = jnp.minimum(number, last)
        peak = self.schedule.init_value
        if self.m_mul is not None:
            peak = real(peak) * power(pair(self.m_mul), whole_pair(number))
        numbers = {"init_value": peak, self.schedule.length_field: where}
        return dataclasses.replace(self.schedule, **numbers).at(where.done)


def _over(condition: jax.Array, where: Interval) -> Interval:
    """Return the end of an interval where the condition holds."""
    done = select(condition, where.total, where.done)
    return Interval(
        done, select(condition, where.total.minus(where.total), where.left), where.total
    )


@node
class Restarts(Schedule):
    """A decay and how it begins again; see `restarts`."""

    schedule: Any = field(_require_decay)
    t_mul: Any = field(AT_LEAST_ONE)
    m_mul: Any = field(POSITIVE)
    cycle_limit: Any = field(count(1), optional=True)

    def prepared(self) -> Restarting:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the cycles as a table, where their lengths are known."""
        plain = super().prepared()
        assert isinstance(plain, Restarts)
        first = self.schedule.length
        falls = not (isinstance(self.m_mul, (int, float)) and self.m_mul == 1)
        return Restarting(
            plain.schedule,
            cycles(first, self.t_mul),
            plain.m_mul if falls else None,
            plain.cycle_limit,
        )

    def at(self, now: StepCount) -> jax.Array:
        """Return the value of the restarted decay."""
        return self.prepared().at(now)

    def check(self) -> None:
        """Raise ValueError if too many cycles begin before step 2**31."""
        cycles(self.schedule.length, self.t_mul)

    def parts(self) -> list[Part]:
        """Return one part, which turns where the first cycle ends."""
        return [Part(self.name, turn=self.schedule.parts()[0].end)]


@builds(Restarts)
def restarts(
    schedule: Schedule,
    t_mul: ArrayLike = 1.0,
    m_mul: ArrayLike = 1.0,
    cycle_limit: ArrayLike | None = None,
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
    return checked(Restarts, locals())


@recipe
def cosine_restarts(
    init_value: ArrayLike,
    first_decay_steps: Steps,
    t_mul: ArrayLike = 1.0,
    m_mul: ArrayLike = 1.0,
    end_value: ArrayLike = 0.0,
    *,
    cycle_limit: ArrayLike | None = None,
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
    first_decay_steps = SOME_STEPS("first_decay_steps", first_decay_steps)
    decay = cosine_decay(init_value, first_decay_steps, end_value)
    return restarts(decay, t_mul, m_mul, cycle_limit)


CyclicMode = Literal["triangular", "triangular2", "exp_range"]
AmplitudeOf = Literal["cycle", "step"]
_HIGHEST = 2.0**64


def _span(up: Any, down: Any) -> Any:
    """Return the length of a cycle; whole if both halves are."""
    if is_integer(up) and is_integer(down):
        return jnp.asarray(up, jnp.int32) + jnp.asarray(down, jnp.int32)
    return real(up) + real(down)


def _triangle(local: StepCount, up: Any, down: Any) -> Phase:
    """Return how high on the triangle it is: `done` on the way up, what is left on the way down."""
    rise, fall = local.phase(up), local.minus(step_count(up)).phase(down)
    rising = rise.left > 0
    return Phase(jnp.where(rising, rise.done, fall.left), jnp.where(rising, rise.left, fall.done))


@node
class Cyclic(Schedule):
    """Triangles whose height may change; see `cyclic`."""

    base_value: Any = field(FINITE)
    peak_value: Any = field(FINITE)
    step_size_up: Any = field(STEPS)
    step_size_down: Any = field(STEPS, optional=True)
    mode: str = choice(CyclicMode)
    gamma: Any = field(POSITIVE)
    amplitude: Schedule | None = field(as_schedule, optional=True)
    amplitude_of: str = choice(AmplitudeOf)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        span = _span(up, down)
        height = self._height(now, turns(now, span).whole)
        top = self.peak_value
        if height is not None:
            top = between(self.base_value, self.peak_value, height, 1 - height)
        return line(_triangle(fold(now, span, mirror=False), up, down), self.base_value, top)

    def check(self) -> None:
        """Raise ValueError for a cycle without steps, and for what would be ignored."""
        up, down = self.step_size_up, self.step_size_down
        down = up if down is None else down
        if is_known(up) and is_known(down):
            total = np.asarray(up, np.float64) + np.asarray(down, np.float64)
            if np.any((total < 1) | (total > LAST_STEP)):
                raise ValueError(
                    "step_size_up + step_size_down must be in the range [1, 2**31 - 1] steps; "
                    f"got step_size_up = {up!r}, step_size_down = {down!r}."
                )
        if self.amplitude is not None and self.mode != "triangular":
            raise ValueError(
                "amplitude takes the place of a mode: leave mode at 'triangular'; got mode = "
                f"{self.mode!r}."
            )
        if self.amplitude is None and self.amplitude_of != "cycle":
            raise ValueError(
                "amplitude_of says what an amplitude's step counts: give amplitude too; got "
                f"amplitude_of = {self.amplitude_of!r}."
            )
        if self.mode != "exp_range" and isinstance(self.gamma, (int, float)) and self.gamma != 1:
            raise ValueError(
                f"gamma belongs to mode = 'exp_range'; got gamma = {self.gamma!r}, mode = "
                f"{self.mode!r}."
            )

    def _height(self, now: StepCount, cycle: jax.Array) -> jax.Array | None:
        """Return the peak of this cycle as a part of the first one's; None if it is the same."""
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
    base_value: ArrayLike,
    peak_value: ArrayLike,
    step_size_up: Steps,
    step_size_down: Steps | None = None,
    mode: CyclicMode = "triangular",
    gamma: ArrayLike = 1.0,
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
    return checked(Cyclic, locals())
