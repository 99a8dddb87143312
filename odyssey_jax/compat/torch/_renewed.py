"""What is left of a factor in a chain where a cosine has climbed back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax.schedules import Schedule, StepCount, builds, node
from odyssey_jax.schedules._steps import step_count, turns


@node
class Renewed(Schedule):
    """A factor since it was last forgotten; see `renewed`."""

    schedule: Schedule
    first: Any
    period: Any
    late: int = dataclasses.field(metadata={"static": True})

    def at(self, now: StepCount) -> jax.Array:
        """The formula; a factor that is 0 for good stays what it is."""
        start = step_count(self.first)
        laps = turns(now.minus(start), self.period).whole
        last = start.whole + laps * step_count(self.period).whole - self.late
        begun = now.reached(start)
        then = self.schedule.at(StepCount(jnp.where(begun, last, 0)))
        some = begun & (then != 0)
        value = self.schedule.at(now) / jnp.where(some, then, 1.0)
        return jnp.where(begun & ~some, 1.0, value)


@builds(Renewed)
def renewed(schedule: Schedule, first: int, period: int, late: int = 0) -> Renewed:
    r"""Take a factor anew at step `first`, and every `period` steps from there on.

    $$g(t) = f(t), \quad t < a; \qquad
      g(t) = \frac{f(t)}{f(a + n \lfloor (t - a) / n \rfloor - l)}, \quad t \ge a$$

    Args:
        schedule: The factor $f$.
        first: The first step $a$ at which it is taken anew.
        period: Steps $n$ from there to the next such step.
        late: How many steps $l$ before that the factor is 1: 0 or 1.

    Returns:
        A schedule: step to float32.

    Source:
        `torch.optim.lr_scheduler.ChainedScheduler` around a `CosineAnnealingLR`.

    Example:
        >>> from odyssey_jax import step_decay
        >>> from odyssey_jax.compat.torch._renewed import renewed
        >>> schedule = renewed(step_decay(1.0, 2, 0.5), first=4, period=10)
        >>> print(schedule(3), schedule(4), schedule(6))
        0.5 1.0 0.5
    """
    return Renewed(schedule, first, period, late)
