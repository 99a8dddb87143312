"""What a decay does past its end, for every decay that has one."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._moment import Moment, Phase, fold, length, phase

PastEnd = Literal["hold", "zero", "repeat", "mirror"]
PAST_END: tuple[str, ...] = get_args(PastEnd)


def phase_until(now: Moment, steps: Any, past_end: str, *, end_on_last_step: bool) -> Phase:
    """Where `now` is within `steps`, brought back into them if the curve goes on past them."""
    total = length(steps)
    if past_end in ("repeat", "mirror"):
        now = fold(now, steps, mirror=past_end == "mirror")
    if end_on_last_step:
        total = total.minus(Moment(jnp.ones((), jnp.int32)))
    return phase(now, total)


def zero_past_end(value: jax.Array, now: Moment, steps: Any, past_end: str) -> jax.Array:
    """0 after the end, if that is what was asked for; at the end itself the value stays."""
    if past_end != "zero":
        return value
    return jnp.where(now.since(length(steps)) > 0, 0.0, value)
