"""Decay as the inverse of the time: continuous, or as a staircase."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import require_finite, require_flag, require_positive, require_unit
from ._moment import Moment, turns
from ._node import node
from ._numbers import real


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InverseTimeDecay(Schedule):
    """The inverse of a line; see `inverse_time_decay`."""

    init_value: Any
    transition_steps: Any
    decay_rate: Any
    staircase: bool = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        if self.staircase:
            time = turns(now, self.transition_steps).whole.astype(jnp.float32)
        else:
            time = now.real() / real(self.transition_steps)
        return real(self.init_value) / (1 + real(self.decay_rate) * time)


@builds(InverseTimeDecay)
def inverse_time_decay(
    init_value: Any, transition_steps: Any, decay_rate: Any, staircase: bool = False
) -> InverseTimeDecay:
    r"""Decay as the inverse of the time.

    $$f(t) = \frac{v_0}{1 + r t / s}$$

    There is no end: the curve goes on towards 0. A warm-up before it is joined to it, and its
    steps count from the end of that warm-up.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        transition_steps: The unit of time $s$ in steps; scalar, in [1, 2**31 - 1].
        decay_rate: How much is added to the divisor in a unit of time, $r$; scalar, above 0.
        staircase: Change only every `transition_steps` steps: $\lfloor t / s \rfloor$.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `keras.optimizers.schedules.InverseTimeDecay`.

    Example:
        >>> from odyssey_jax.schedules import inverse_time_decay
        >>> schedule = inverse_time_decay(0.1, transition_steps=10, decay_rate=0.5)
        >>> print(schedule(0), schedule(20), schedule(180))
        0.1 0.05 0.01
    """
    require_finite("init_value", init_value)
    transition_steps = require_unit("transition_steps", transition_steps)
    require_positive("decay_rate", decay_rate)
    require_flag("staircase", staircase)
    return InverseTimeDecay(init_value, transition_steps, decay_rate, staircase)
