"""Schedules multiplied with each other."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ._base import Schedule, builds
from ._callable import as_schedules
from ._moment import Moment
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Product(Schedule):
    """Factors; see `product`."""

    schedules: tuple[Schedule, ...]

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return functools.reduce(operator.mul, (each.at(now) for each in self.schedules))


@builds(Product)
def product(schedules: Sequence[Schedule | Callable[[Any], Any]]) -> Product:
    r"""Multiply schedules, each at the same step.

    $$f(t) = \prod_i f_i(t)$$

    `a * b` is the same for two. A decay from 1 to 0 times any schedule is that schedule, decayed.

    Args:
        schedules: The factors, at least one: schedules, or plain functions of the step (see
            `from_callable`).

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no factor, or one is not a schedule.

    Source:
        `torch.optim.lr_scheduler.ChainedScheduler`, whose schedulers each multiply the rate.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, product, step_decay
        >>> schedule = product([cosine_decay(1.0, 100), step_decay(0.1, 50, 0.5)])
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.1, 0.025, 0.0]
    """
    return Product(as_schedules("schedules", schedules))
