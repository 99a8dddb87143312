"""Decay by a constant factor per interval: continuous, or as a staircase."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import (
    require_finite,
    require_flag,
    require_length,
    require_positive,
    require_unit,
)
from ._moment import Moment, length
from ._node import node
from ._numbers import pair, real
from ._power import power
from ._step_decay import staircase


def exponential(now: Moment, init_value: Any, interval: Any, rate: Any) -> jax.Array:
    """`init_value * rate ** (t / interval)`."""
    return real(init_value) * power(pair(rate), now.pair(), unit=length(interval).pair())


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExponentialDecay(Schedule):
    """Powers of a rate; see `exponential_decay`."""

    init_value: Any
    transition_steps: Any
    decay_rate: Any
    transition_begin: Any
    end_value: Any
    staircase: bool = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        curve = staircase if self.staircase else exponential
        now = now.minus(length(self.transition_begin))
        value = curve(now, self.init_value, self.transition_steps, self.decay_rate)
        if self.end_value is None:
            return value
        bound = real(self.end_value)
        falls = real(self.decay_rate) < 1
        past = jnp.where(falls, value < bound, value > bound)
        return jnp.where(past, bound, value)


@builds(ExponentialDecay)
def exponential_decay(
    init_value: Any,
    transition_steps: Any,
    decay_rate: Any,
    transition_begin: Any = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> ExponentialDecay:
    r"""Multiply by `decay_rate` over every `transition_steps` steps.

    $$f(t) = v_0 \, r^{(t - b) / s}, \qquad t \ge b$$

    The curve has no end unless `end_value` bounds it. Steps count from the start of this
    schedule: a warm-up joined before it is excluded; `transition_begin` keeps `init_value` for
        $b$ steps.

    Args:
        init_value: The first value $v_0$; scalar, finite.
        transition_steps: Steps $s$ for one factor; scalar, in [1, 2**31 - 1].
        decay_rate: The factor $r$; scalar, above 0. A number known to more than float32's
            digits (a Python float) is used with all of them.
        transition_begin: Steps $b$ before the decay begins; scalar, in [0, 2**31 - 1].
        staircase: Change only every `transition_steps` steps: $\lfloor (t - b) / s \rfloor$.
        end_value: Where the curve stops: a lower bound if the rate is below 1, an upper bound
            otherwise; scalar, finite, or None for no bound.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.exponential_decay`; with `transition_steps=1`,
        `torch.optim.lr_scheduler.ExponentialLR`.

    Example:
        >>> from odyssey_jax.schedules import exponential_decay
        >>> schedule = exponential_decay(0.8, transition_steps=10, decay_rate=0.25, end_value=0.01)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(1_000))
        0.8 0.4 0.2 0.01
    """
    require_finite("init_value", init_value)
    transition_steps = require_unit("transition_steps", transition_steps)
    require_positive("decay_rate", decay_rate)
    transition_begin = require_length("transition_begin", transition_begin)
    require_flag("staircase", staircase)
    if end_value is not None:
        require_finite("end_value", end_value)
    return ExponentialDecay(
        init_value, transition_steps, decay_rate, transition_begin, end_value, staircase
    )
