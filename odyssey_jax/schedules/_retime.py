"""Schedules in another time: shifted, stretched, repeated, counted in epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule, builds
from odyssey_jax.schedules._fields import (
    FACTOR,
    SOME_STEPS,
    STEPS,
    STEPS_OF_EITHER_SIGN,
    checked,
    field,
    flag,
)
from odyssey_jax.schedules._numbers import Wide
from odyssey_jax.schedules._parts import Part, known_steps, lasting, moved
from odyssey_jax.schedules._steps import StepCount, fold, step_count, turns
from odyssey_jax.schedules._units import Steps


@node
class Shift(Schedule):
    """Another start; see `shift`."""

    schedule: Schedule = field(as_schedule)
    steps: Any = field(STEPS_OF_EITHER_SIGN)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at another step; one of the two lengths is 0, whatever the sign."""
        later, earlier = _positive(self.steps), _positive(_negative(self.steps))
        return self.schedule.at(now.minus(step_count(later)).plus(step_count(earlier)))

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, as much later; the first begins at 0."""
        steps = known_steps(self.steps)
        first, *rest = moved(self.schedule.parts(), lambda t: max(t + steps, 0.0))
        return lasting([first._replace(start=0.0), *rest])


@builds(Shift)
def shift(schedule: Schedule | Callable[[Any], Any], steps: Steps) -> Shift:
    r"""Start a schedule later, or (`steps` below 0) in its midst.

    $$g(t) = f(\max(t - s, 0)), \quad s \ge 0; \qquad g(t) = f(t + |s|), \quad s < 0$$

    Later, the value at its start is in force until then: an end at step $T$ is now at $T + s$.
    So shifted later and then as much earlier, it is the same schedule; the other way round, its
    first $|s|$ steps are gone.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        steps: By how much later $s$; scalar, in [-(2**31 - 1), 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The `transition_begin` of Optax's schedules, for any schedule and for either sign.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, shift
        >>> schedule = shift(cosine_decay(0.1, 100), 20)
        >>> [round(float(schedule(t)), 4) for t in (0, 20, 70, 120)]
        [0.1, 0.1, 0.05, 0.0]
    """
    return checked(Shift, locals())


def _negative(x: Any) -> Any:
    return Wide(-x.high, -x.low) if isinstance(x, Wide) else -x


def _positive(x: Any) -> Any:
    """Return the number where it is above 0, and 0 elsewhere."""
    if not isinstance(x, Wide):
        return jnp.maximum(x, 0)
    return Wide(jnp.where(x.high > 0, x.high, 0), jnp.where(x.high > 0, x.low, 0))


@node
class Stretch(Schedule):
    """Another pace; see `stretch`."""

    schedule: Schedule = field(as_schedule)
    factor: Any = field(FACTOR)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return self.schedule.at(turns(now, self.factor).step_count())

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, stretched."""
        return lasting(moved(self.schedule.parts(), known_steps(self.factor).__mul__))


@builds(Stretch)
def stretch(schedule: Schedule | Callable[[Any], Any], factor: ArrayLike) -> Stretch:
    r"""Let a schedule take `factor` times as long.

    $$g(t) = f(t / c)$$

    The whole recipe keeps its shape, warm-up and all: an end at step $T$ is now at $c T$. A
    factor below 1 makes it shorter. Between the steps of $f$ its formula goes on in fractions
    of a step.

    Args:
        schedule: The schedule $f$, or a plain function of the step (which then gets float32).
        factor: How many times as long $c$; scalar, in [1e-6, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `odyssey_jax.schedules.by_epoch_fraction` is the same with steps per epoch as the factor.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, stretch
        >>> schedule = stretch(cosine_decay(0.1, 100), 2.5)
        >>> [round(float(schedule(t)), 4) for t in (0, 125, 250)]
        [0.1, 0.05, 0.0]
    """
    return checked(Stretch, locals())


@node
class Repeat(Schedule):
    """A period; see `repeat`."""

    schedule: Schedule = field(as_schedule)
    period: Any = field(SOME_STEPS)
    mirror: bool = flag()

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return self.schedule.at(fold(now, self.period, mirror=self.mirror))


@builds(Repeat)
def repeat(
    schedule: Schedule | Callable[[Any], Any], period: Steps, mirror: bool = False
) -> Repeat:
    r"""Begin a schedule again every `period` steps, for ever.

    $$g(t) = f(t \bmod n)$$

    The step at the end of a period belongs to the next one. There is no end; to stop after some
    periods, join what follows (`then`).

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        period: Steps $n$ after which it begins again; scalar, in [1, 2**31 - 1].
        mirror: Go through every other period backwards: from 0 to $n$, back to 0, and so on.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The `past_end` of the decays, for any schedule.

    Example:
        >>> from odyssey_jax.schedules import repeat, warmup_cosine
        >>> schedule = repeat(warmup_cosine(0.1, 10, 110), 110)
        >>> [round(float(schedule(t)), 4) for t in (10, 60, 110, 120, 170)]
        [0.1, 0.05, 0.0, 0.1, 0.05]
    """
    return checked(Repeat, locals())


@node
class ByEpoch(Schedule):
    """A staircase in time; see `by_epoch`."""

    schedule: Schedule = field(as_schedule)
    steps_per_epoch: Any = field(SOME_STEPS)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return self.schedule.at(StepCount(turns(now, self.steps_per_epoch).whole))

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, in steps."""
        return lasting(moved(self.schedule.parts(), known_steps(self.steps_per_epoch).__mul__))


@node
class ByEpochFraction(Schedule):
    """Another unit of time; see `by_epoch_fraction`."""

    schedule: Schedule = field(as_schedule)
    steps_per_epoch: Any = field(SOME_STEPS)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return self.schedule.at(turns(now, self.steps_per_epoch).step_count())

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, in steps."""
        return lasting(moved(self.schedule.parts(), known_steps(self.steps_per_epoch).__mul__))


@builds(ByEpoch)
def by_epoch(schedule: Schedule | Callable[[Any], Any], steps_per_epoch: ArrayLike) -> ByEpoch:
    r"""Run a schedule written in epochs, changing only where an epoch begins.

    $$g(t) = f\left(\lfloor t / n \rfloor\right)$$

    Every length of the schedule within, a warm-up's included, counts epochs: where it reaches
    its end at $E$, this reaches it at step $E n$, the first after epoch $E - 1$.

    Args:
        schedule: The schedule $f$, in epochs (the first epoch is 0).
        steps_per_epoch: Steps $n$ in an epoch; scalar, in [1, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The schedulers of PyTorch, called once an epoch.

    Example:
        >>> from odyssey_jax.schedules import by_epoch, step_decay
        >>> schedule = by_epoch(step_decay(0.1, step_size=30, gamma=0.5), steps_per_epoch=100)
        >>> print(schedule(2_999), schedule(3_000))
        0.1 0.05
    """
    return checked(ByEpoch, locals())


@builds(ByEpochFraction)
def by_epoch_fraction(
    schedule: Schedule | Callable[[Any], Any], steps_per_epoch: ArrayLike
) -> ByEpochFraction:
    r"""Run a schedule written in epochs, changing at every step.

    $$g(t) = f(t / n)$$

    Every length of the schedule within, a warm-up's included, counts epochs, and may be a
    fraction of one: where it reaches its end at $E$, this reaches it at step $E n$.

    Args:
        schedule: The schedule $f$, in epochs (the first epoch is from 0 to 1).
        steps_per_epoch: Steps $n$ in an epoch; scalar, in [1, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`, called with fractional epochs.

    Example:
        >>> from odyssey_jax.schedules import by_epoch_fraction, linear_warmup
        >>> schedule = by_epoch_fraction(linear_warmup(0.1, 2.5), steps_per_epoch=100)
        >>> [round(float(schedule(t)), 4) for t in (50, 125, 250)]
        [0.02, 0.05, 0.1]
    """
    return checked(ByEpochFraction, locals())


def epochs_to_steps(epochs: float, steps_per_epoch: int) -> int:
    """Convert a number of epochs to the nearest number of steps.

    `round(epochs * steps_per_epoch)`, for the arguments that count steps.

    Args:
        epochs: A number of epochs, whole or not; at least 0.
        steps_per_epoch: Steps in an epoch; in [1, 2**31 - 1].

    Returns:
        The number of steps, an int.

    Raises:
        ValueError: If an argument is outside its range, or the result is above 2**31 - 1.

    Example:
        >>> from odyssey_jax.schedules import epochs_to_steps
        >>> epochs_to_steps(2.5, steps_per_epoch=100)
        250
    """
    STEPS("epochs", epochs)
    SOME_STEPS("steps_per_epoch", steps_per_epoch)
    steps = round(epochs * steps_per_epoch)
    return STEPS("epochs * steps_per_epoch", steps)
