"""A schedule, higher or lower."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_finite
from ._moment import Moment
from ._node import node
from ._numbers import real


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scale(Schedule):
    """A multiple; see `scale`."""

    schedule: Schedule
    factor: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return real(self.factor) * self.schedule.at(now)


@builds(Scale)
def scale(schedule: Schedule | Callable[[Any], Any], factor: Any) -> Scale:
    r"""Multiply a schedule by a number.

    $$g(t) = c \, f(t)$$

    `factor * schedule` is the same.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        factor: The number $c$; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1: a rate in proportion
        to the batch.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, scale
        >>> schedule = scale(cosine_decay(0.1, 100), 8)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.8, 0.4, 0.0]
    """
    inner = as_schedule("schedule", schedule)
    require_finite("factor", factor)
    return Scale(inner, factor)
