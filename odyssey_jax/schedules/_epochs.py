"""Schedules written in epochs, run in steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_length, require_unit
from ._moment import Moment, turns
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ByEpoch(Schedule):
    """A staircase in time; see `by_epoch`."""

    schedule: Schedule
    steps_per_epoch: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.schedule.at(Moment(turns(now, self.steps_per_epoch).whole))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ByEpochFraction(Schedule):
    """Another unit of time; see `by_epoch_fraction`."""

    schedule: Schedule
    steps_per_epoch: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.schedule.at(turns(now, self.steps_per_epoch).moment())


@builds(ByEpoch)
def by_epoch(schedule: Schedule | Callable[[Any], Any], steps_per_epoch: Any) -> ByEpoch:
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
    inner = as_schedule("schedule", schedule)
    return ByEpoch(inner, require_unit("steps_per_epoch", steps_per_epoch))


@builds(ByEpochFraction)
def by_epoch_fraction(
    schedule: Schedule | Callable[[Any], Any], steps_per_epoch: Any
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
    inner = as_schedule("schedule", schedule)
    return ByEpochFraction(inner, require_unit("steps_per_epoch", steps_per_epoch))


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
    require_length("epochs", epochs)
    require_unit("steps_per_epoch", steps_per_epoch)
    steps = round(epochs * steps_per_epoch)
    require_length("epochs * steps_per_epoch", steps)
    return steps
