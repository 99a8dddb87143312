"""What every warm-up is: a curve to a peak, exactly there at its end, and held from then on."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._base import Schedule
from ._check import require_finite, require_length
from ._moment import Interval, Moment, interval, length


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Warmup(Schedule):
    """The numbers of a warm-up; the curve is that of a decay, in its own file."""

    peak_value: Any
    warmup_steps: Any
    init_value: Any

    def where(self, now: Moment) -> Interval:
        """Where `now` is within the warm-up."""
        return interval(now, length(self.warmup_steps))


def require_warmup(peak_value: Any, warmup_steps: Any, init_value: Any) -> Any:
    """The numbers of `Warmup`; gives the number of steps."""
    require_finite("peak_value", peak_value)
    require_finite("init_value", init_value)
    return require_length("warmup_steps", warmup_steps)
