"""Schedules added to each other."""

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
class Sum(Schedule):
    """Terms; see `sum`."""

    schedules: tuple[Schedule, ...]

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return functools.reduce(operator.add, (each.at(now) for each in self.schedules))


@builds(Sum)
def sum(schedules: Sequence[Schedule | Callable[[Any], Any]]) -> Sum:
    r"""Add schedules, each at the same step.

    $$f(t) = \sum_i f_i(t)$$

    `a + b` is the same for two, and `a - b` for their difference. Where terms cancel, the error
    is that of the terms: 1e-6 of the greatest of them.

    Args:
        schedules: The terms, at least one: schedules, or plain functions of the step (see
            `from_callable`).

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no term, or one is not a schedule.

    Source:
        Pointwise addition.

    Example:
        >>> from odyssey_jax.schedules import constant, cosine_decay, sum
        >>> schedule = sum([cosine_decay(0.1, 100), constant(0.02)])
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.12, 0.07, 0.02]
    """
    return Sum(as_schedules("schedules", schedules))
