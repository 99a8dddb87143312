"""A schedule within bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_bounds, require_finite
from ._moment import Moment
from ._node import node
from ._numbers import real


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clip(Schedule):
    """Bounds; see `clip`."""

    schedule: Schedule
    min_value: Any
    max_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        value = self.schedule.at(now)
        if self.max_value is not None:
            bound = real(self.max_value)
            value = jnp.where(value > bound, bound, value)
        if self.min_value is not None:
            bound = real(self.min_value)
            value = jnp.where(value < bound, bound, value)
        return value


@builds(Clip)
def clip(
    schedule: Schedule | Callable[[Any], Any], min_value: Any = None, max_value: Any = None
) -> Clip:
    r"""Keep a schedule within bounds.

    $$g(t) = \max(v_{min}, \min(v_{max}, f(t)))$$

    The derivative with respect to a bound is 1 where the bound is in force.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        min_value: The lower bound; scalar, finite, or None for none.
        max_value: The upper bound; scalar, finite, at least `min_value`, or None for none.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no bound at all, or an argument is outside its range.

    Source:
        `jax.numpy.clip`.

    Example:
        >>> from odyssey_jax.schedules import clip, step_decay
        >>> schedule = clip(step_decay(0.1, 30, 0.5), min_value=0.02)
        >>> [round(float(schedule(t)), 4) for t in (0, 30, 60, 90)]
        [0.1, 0.05, 0.025, 0.02]
    """
    inner = as_schedule("schedule", schedule)
    if min_value is None and max_value is None:
        raise ValueError("clip needs min_value, max_value or both; got neither.")
    if min_value is not None:
        require_finite("min_value", min_value)
    if max_value is not None:
        require_finite("max_value", max_value)
    if min_value is not None and max_value is not None:
        require_bounds("min_value", min_value, "max_value", max_value)
    return Clip(inner, min_value, max_value)
