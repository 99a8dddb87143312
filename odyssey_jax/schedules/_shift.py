"""A schedule, earlier or later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_offset
from ._moment import Moment, length
from ._node import node
from ._numbers import Wide


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shift(Schedule):
    """Another start; see `shift`."""

    schedule: Schedule
    steps: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula: one of the two lengths is 0, whichever sign a traced number has."""
        later, earlier = _positive(self.steps), _positive(_negative(self.steps))
        return self.schedule.at(now.minus(length(later)).plus(length(earlier)))


@builds(Shift)
def shift(schedule: Schedule | Callable[[Any], Any], steps: Any) -> Shift:
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
    inner = as_schedule("schedule", schedule)
    return Shift(inner, require_offset("steps", steps))


def _negative(x: Any) -> Any:
    return Wide(-x.high, -x.low) if isinstance(x, Wide) else -x


def _positive(x: Any) -> Any:
    """The number where it is above 0, and 0 elsewhere."""
    if not isinstance(x, Wide):
        return jnp.maximum(x, 0)
    return Wide(jnp.where(x.high > 0, x.high, 0), jnp.where(x.high > 0, x.low, 0))
