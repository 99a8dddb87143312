"""A constant, and decays without an end: staircases, exponentials, inverse powers of the time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._fields import FINITE, POSITIVE, SOME_STEPS, STEPS, checked, field, flag
from odyssey_jax.schedules._numbers import pair, real, whole_pair
from odyssey_jax.schedules._power import power
from odyssey_jax.schedules._steps import StepCount, step_count, turns
from odyssey_jax.schedules._units import Steps


@node
class Constant(Schedule):
    """`v` at every step; see `constant`."""

    steady = True

    value: Any = field(FINITE)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        del now
        return real(self.value)


@builds(Constant)
def constant(value: ArrayLike) -> Constant:
    r"""Keep one value for ever.

    $$f(t) = v$$

    There is no end: a warm-up before it is joined to it (see `join`).

    Args:
        value: The value $v$; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If the value is not a finite number.

    Source:
        `torch.optim.lr_scheduler.ConstantLR` with factor 1, `optax.constant_schedule`.

    Example:
        >>> from odyssey_jax.schedules import constant
        >>> print(constant(0.1)(1_000))
        0.1
    """
    return checked(Constant, locals())


def staircase(now: StepCount, init_value: Any, step_size: Any, gamma: Any) -> jax.Array:
    """Return `init_value * gamma ** floor(t / step_size)`."""
    stairs = turns(now, step_size).whole
    return real(init_value) * power(pair(gamma), whole_pair(stairs))


@node
class StepDecay(Schedule):
    """A staircase of powers; see `step_decay`."""

    init_value: Any = field(FINITE)
    step_size: Any = field(SOME_STEPS)
    gamma: Any = field(POSITIVE)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return staircase(now, self.init_value, self.step_size, self.gamma)


@builds(StepDecay)
def step_decay(init_value: ArrayLike, step_size: Steps, gamma: ArrayLike = 0.1) -> StepDecay:
    r"""Multiply by `gamma` every `step_size` steps.

    $$f(t) = v_0 \, \gamma^{\lfloor t / s \rfloor}$$

    There is no end: the curve goes on towards 0. A warm-up before it is joined to it, and its
    steps count from the end of that warm-up.

    Args:
        init_value: The first value $v_0$; scalar, finite.
        step_size: Steps $s$ between two cuts; scalar, in [1, 2**31 - 1].
        gamma: The factor $\gamma$ of each cut; scalar, above 0. A number known to more than
            float32's digits (a Python float) is used with all of them.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `torch.optim.lr_scheduler.StepLR`.

    Example:
        >>> from odyssey_jax.schedules import step_decay
        >>> schedule = step_decay(0.1, step_size=30, gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(60))
        0.1 0.05 0.025
    """
    return checked(StepDecay, locals())


def exponential(now: StepCount, init_value: Any, interval: Any, rate: Any) -> jax.Array:
    """Return `init_value * rate ** (t / interval)`."""
    return real(init_value) * power(pair(rate), now.pair(), unit=step_count(interval).pair())


@node
class ExponentialDecay(Schedule):
    """Powers of a rate; see `exponential_decay`."""

    init_value: Any = field(FINITE)
    transition_steps: Any = field(SOME_STEPS)
    decay_rate: Any = field(POSITIVE)
    transition_begin: Any = field(STEPS)
    end_value: Any = field(FINITE, optional=True)
    staircase: bool = flag()

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        curve = staircase if self.staircase else exponential
        now = now.minus(step_count(self.transition_begin))
        value = curve(now, self.init_value, self.transition_steps, self.decay_rate)
        if self.end_value is None:
            return value
        bound = real(self.end_value)
        falls = real(self.decay_rate) < 1
        past = jnp.where(falls, value < bound, value > bound)
        return jnp.where(past, bound, value)


@builds(ExponentialDecay)
def exponential_decay(
    init_value: ArrayLike,
    transition_steps: Steps,
    decay_rate: ArrayLike,
    transition_begin: Steps = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> ExponentialDecay:
    r"""Multiply by `decay_rate` over every `transition_steps` steps.

    $$f(t) = v_0 \, r^{(t - b) / s}, \qquad t \ge b$$

    The curve has no end unless `end_value` bounds it. Steps count from the start of this
    schedule: a warm-up joined before it is excluded; `transition_begin` keeps `init_value` for
        $b$ steps.

    Args:
        init_value: The first value $v_0$; scalar, finite.
        transition_steps: Steps $s$ for one factor; scalar, in [1, 2**31 - 1].
        decay_rate: The factor $r$; scalar, above 0. A number known to more than float32's
            digits (a Python float) is used with all of them.
        transition_begin: Steps $b$ before the decay begins; scalar, in [0, 2**31 - 1].
        staircase: Change only every `transition_steps` steps: $\lfloor (t - b) / s \rfloor$.
        end_value: Where the curve stops: a lower bound if the rate is below 1, an upper bound
            otherwise; scalar, finite, or None for no bound.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.exponential_decay`; with `transition_steps=1`,
        `torch.optim.lr_scheduler.ExponentialLR`.

    Example:
        >>> from odyssey_jax.schedules import exponential_decay
        >>> schedule = exponential_decay(0.8, transition_steps=10, decay_rate=0.25, end_value=0.01)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(1_000))
        0.8 0.4 0.2 0.01
    """
    return checked(ExponentialDecay, locals())


@node
class InverseSqrt(Schedule):
    """The inverse of a square root; see `inverse_sqrt`."""

    init_value: Any = field(FINITE)
    timescale: Any = field(SOME_STEPS)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return real(self.init_value) / jnp.sqrt(1 + now.real() / real(self.timescale))


@builds(InverseSqrt)
def inverse_sqrt(init_value: ArrayLike, timescale: Steps) -> InverseSqrt:
    r"""Decay as the inverse square root of the time.

    $$f(t) = \frac{v_0}{\sqrt{1 + t / s}}$$

    There is no end: the curve goes on towards 0. Steps count from the start of this schedule:
    joined to a warm-up of $s$ steps, it is $v_0 \sqrt{s / t}$ with $t$ counted from the start of
    that.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        timescale: The steps $s$ after which the value is $v_0 / \sqrt 2$; scalar, in
            [1, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), equation 3;
        `transformers.get_inverse_sqrt_schedule`.

    Example:
        >>> from odyssey_jax.schedules import inverse_sqrt
        >>> schedule = inverse_sqrt(0.1, timescale=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 300, 9_900)]
        [0.1, 0.05, 0.01]
    """
    return checked(InverseSqrt, locals())


@node
class InverseTimeDecay(Schedule):
    """The inverse of a line; see `inverse_time_decay`."""

    init_value: Any = field(FINITE)
    transition_steps: Any = field(SOME_STEPS)
    decay_rate: Any = field(POSITIVE)
    staircase: bool = flag()

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        if self.staircase:
            time = turns(now, self.transition_steps).whole.astype(jnp.float32)
        else:
            time = now.real() / real(self.transition_steps)
        return real(self.init_value) / (1 + real(self.decay_rate) * time)


@builds(InverseTimeDecay)
def inverse_time_decay(
    init_value: ArrayLike, transition_steps: Steps, decay_rate: ArrayLike, staircase: bool = False
) -> InverseTimeDecay:
    r"""Decay as the inverse of the time.

    $$f(t) = \frac{v_0}{1 + r t / s}$$

    There is no end: the curve goes on towards 0. A warm-up before it is joined to it, and its
    steps count from the end of that warm-up.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        transition_steps: The unit of time $s$ in steps; scalar, in [1, 2**31 - 1].
        decay_rate: How much is added to the divisor in a unit of time, $r$; scalar, above 0.
        staircase: Change only every `transition_steps` steps: $\lfloor t / s \rfloor$.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `keras.optimizers.schedules.InverseTimeDecay`.

    Example:
        >>> from odyssey_jax.schedules import inverse_time_decay
        >>> schedule = inverse_time_decay(0.1, transition_steps=10, decay_rate=0.5)
        >>> print(schedule(0), schedule(20), schedule(180))
        0.1 0.05 0.01
    """
    return checked(InverseTimeDecay, locals())


@node
class PowerDecay(Schedule):
    """A negative power; see `power_decay`."""

    init_value: Any = field(FINITE)
    timescale: Any = field(SOME_STEPS)
    power: Any = field(POSITIVE)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        # In units of two steps, as the sum can be more than 2^31 - 1.
        scale = step_count(self.timescale).half()
        share = power(scale.pair(), pair(self.power), now.half().plus(scale).pair())
        return real(self.init_value) * share


@builds(PowerDecay)
def power_decay(init_value: ArrayLike, timescale: Steps, power: ArrayLike) -> PowerDecay:
    r"""Decay as a negative power of the time.

    $$f(t) = v_0 \left(1 + \frac{t}{s}\right)^{-p}$$

    With $p = 1/2$ it is `inverse_sqrt`, with $p = 1$ `inverse_time_decay`, each of which costs
    less. There is no end: the curve goes on towards 0. Steps count from the start of this
    schedule: joined to a warm-up of $s$ steps, it is $v_0 (s / t)^p$ with $t$ counted from the
    start of that.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        timescale: The steps $s$ after which the value is $v_0 / 2^p$; scalar, in
            [1, 2**31 - 1].
        power: The exponent $p$; scalar, above 0.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Shen et al., "Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate
        Scheduler" (2024), whose power law it is.

    Example:
        >>> from odyssey_jax.schedules import power_decay
        >>> schedule = power_decay(0.1, timescale=100, power=2.0)
        >>> print(schedule(0), schedule(100), schedule(900))
        0.1 0.025 0.001
    """
    return checked(PowerDecay, locals())
