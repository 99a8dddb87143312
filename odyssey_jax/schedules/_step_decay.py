"""A cut by the same factor at regular intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ._base import Schedule, builds
from ._check import require_finite, require_positive, require_unit
from ._moment import Moment, turns
from ._node import node
from ._numbers import pair, real, whole_pair
from ._power import power


def staircase(now: Moment, init_value: Any, step_size: Any, gamma: Any) -> jax.Array:
    """`init_value * gamma ** floor(t / step_size)`."""
    stairs = turns(now, step_size).whole
    return real(init_value) * power(pair(gamma), whole_pair(stairs))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StepDecay(Schedule):
    """A staircase of powers; see `step_decay`."""

    init_value: Any
    step_size: Any
    gamma: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return staircase(now, self.init_value, self.step_size, self.gamma)


@builds(StepDecay)
def step_decay(init_value: Any, step_size: Any, gamma: Any = 0.1) -> StepDecay:
    r"""Multiply by `gamma` every `step_size` steps.

    $$f(t) = v_0 \, \gamma^{\lfloor t / s \rfloor}$$

    There is no end: the curve goes on towards 0. A warm-up before it is joined to it, and its
    steps count from the end of that warm-up.

    Args:
        init_value: The first value $v_0$; scalar, finite.
        step_size: Steps $s$ between two cuts; scalar, in [1, 2**31 - 1].
        gamma: The factor $\gamma$ of each cut; scalar, above 0. A number known to more than
            float32's digits (a Python float) is used with all of them.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `torch.optim.lr_scheduler.StepLR`.

    Example:
        >>> from odyssey_jax.schedules import step_decay
        >>> schedule = step_decay(0.1, step_size=30, gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(60))
        0.1 0.05 0.025
    """
    require_finite("init_value", init_value)
    step_size = require_unit("step_size", step_size)
    require_positive("gamma", gamma)
    return StepDecay(init_value, step_size, gamma)
