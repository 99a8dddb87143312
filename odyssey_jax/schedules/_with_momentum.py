"""A rate, and the momentum that goes with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedule
from ._moment import Moment
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WithMomentum(Schedule):
    """A rate that knows its momentum; see `with_momentum`.

    Attributes:
        schedule: The rate.
        momentum: The momentum, a schedule of its own.
    """

    schedule: Schedule
    momentum: Schedule

    def at(self, now: Moment) -> jax.Array:
        """The rate."""
        return self.schedule.at(now)


@builds(WithMomentum)
def with_momentum(
    schedule: Schedule | Callable[[Any], Any], momentum: Schedule | Callable[[Any], Any]
) -> WithMomentum:
    """Keep a rate and the momentum that goes with it together.

    It is the rate, and has the momentum as `.momentum`: two schedules that are written, saved and
    compared as one.

    Args:
        schedule: The rate, or a plain function of the step.
        momentum: The momentum, or a plain function of the step.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If one of the two is not a schedule.

    Source:
        Smith, "A disciplined approach to neural network hyper-parameters" (2018), section 4.2;
        `torch.optim.lr_scheduler.OneCycleLR` with `cycle_momentum`.

    Example:
        >>> import optax
        >>> from odyssey_jax.schedules import cyclic, with_momentum
        >>> rate = with_momentum(cyclic(0.01, 0.1, 50), cyclic(0.95, 0.85, 50))
        >>> print(rate(50), rate.momentum(50))
        0.1 0.85
        >>> optimizer = optax.inject_hyperparams(optax.sgd)(rate, momentum=rate.momentum)
    """
    return WithMomentum(as_schedule("schedule", schedule), as_schedule("momentum", momentum))
