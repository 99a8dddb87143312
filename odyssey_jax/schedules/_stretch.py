"""A schedule, slower or faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_factor
from ._moment import Moment, turns
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Stretch(Schedule):
    """Another pace; see `stretch`."""

    schedule: Schedule
    factor: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.schedule.at(turns(now, self.factor).moment())


@builds(Stretch)
def stretch(schedule: Schedule | Callable[[Any], Any], factor: Any) -> Stretch:
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
    inner = as_schedule("schedule", schedule)
    require_factor("factor", factor)
    return Stretch(inner, factor)
