"""What a decay does past its end, for every decay that has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule
from ._check import require_choice, require_flag
from ._moment import Interval, Moment, fold, interval, length, select

PastEnd = Literal["hold", "zero", "repeat", "mirror", "stretch"]
PAST_END: tuple[str, ...] = get_args(PastEnd)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ending(Schedule):
    """A schedule with an end, and the choices that come with one."""

    past_end: str = dataclasses.field(metadata={"static": True})
    end_on_last_step: bool = dataclasses.field(metadata={"static": True})

    def until(self, now: Moment, steps: Any, curve: Callable[[Interval], jax.Array]) -> jax.Array:
        """The curve over `steps`, and what was asked for after them."""
        value = curve(
            interval_until(now, steps, self.past_end, end_on_last_step=self.end_on_last_step)
        )
        return zero_past_end(value, now, steps, self.past_end)


def require_ending(past_end: Any, end_on_last_step: Any) -> None:
    """The choices of `Ending`."""
    require_choice("past_end", past_end, PAST_END)
    require_flag("end_on_last_step", end_on_last_step)
    if past_end == "stretch" and end_on_last_step:
        raise ValueError(
            "end_on_last_step must be False where past_end is 'stretch', whose end moves; got "
            "end_on_last_step = True."
        )


def interval_until(now: Moment, steps: Any, past_end: str, *, end_on_last_step: bool) -> Interval:
    """Where `now` is within `steps`, brought back into them if the curve goes on past them.

    In place of the steps there may be the interval itself: see `restarts`.
    """
    if isinstance(steps, Interval):
        return steps
    total = length(steps)
    if past_end == "stretch":
        return _stretched(now, steps)
    if past_end in ("repeat", "mirror"):
        now = fold(now, steps, mirror=past_end == "mirror")
    if end_on_last_step:
        total = total.minus(Moment(jnp.ones((), jnp.int32)))
    return interval(now, total)


def zero_past_end(value: jax.Array, now: Moment, steps: Any, past_end: str) -> jax.Array:
    """0 after the end, if that is what was asked for; at the end itself the value stays."""
    if past_end != "zero":
        return value
    return jnp.where(now.since(length(steps)) > 0, 0.0, value)


def _stretched(now: Moment, steps: Any) -> Interval:
    """Where `now` is within the least multiple of `steps` that it does not exceed."""
    local = fold(now, steps, mirror=False)
    at_end = (local.real() == 0) & (now.real() > 0)
    left = select(at_end, Moment(jnp.zeros_like(local.whole)), length(steps).minus(local))
    # In units of two steps, as the multiple itself can be more than 2^31 - 1.
    done, left = now.half(), left.half()
    return Interval(done, left, done.plus(left))
