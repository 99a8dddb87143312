"""A stretch of a schedule, over and over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import require_flag, require_unit
from ._moment import Moment, fold
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Repeat(Schedule):
    """A period; see `repeat`."""

    schedule: Schedule
    period: Any
    mirror: bool = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.schedule.at(fold(now, self.period, mirror=self.mirror))


@builds(Repeat)
def repeat(schedule: Schedule | Callable[[Any], Any], period: Any, mirror: bool = False) -> Repeat:
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
    inner = as_schedule("schedule", schedule)
    period = require_unit("period", period)
    require_flag("mirror", mirror)
    return Repeat(inner, period, mirror)
