"""A cut by the same factor at each of a list of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from ._base import Schedule, builds
from ._check import require_boundaries, require_finite, require_positive
from ._moment import Moment
from ._node import node
from ._numbers import canonical, pair, real, whole_pair
from ._power import power
from ._table import piece_at, table_of_starts


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MultistepDecay(Schedule):
    """A staircase with steps of its own; see `multistep_decay`."""

    init_value: Any
    boundaries: Any
    gamma: Any

    def prepared(self) -> MultistepDecay:
        """The boundaries as a table."""
        starts = table_of_starts(self.boundaries)
        return MultistepDecay(canonical(self.init_value), starts, canonical(self.gamma))

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        cuts = piece_at(now, table_of_starts(self.boundaries))
        return real(self.init_value) * power(pair(self.gamma), whole_pair(cuts))


@builds(MultistepDecay)
def multistep_decay(init_value: Any, boundaries: Sequence[Any], gamma: Any = 0.1) -> MultistepDecay:
    r"""Multiply by `gamma` at each of the boundaries.

    $$f(t) = v_0 \, \gamma^{\#\{i : b_i \le t\}}$$

    At a boundary the new value is in force. Boundaries may be equal, and cut twice then, or 0.
    They count from the start of this schedule: a warm-up joined before it is excluded. There is
    no end: after the last boundary the value stays.

    Args:
        init_value: The value $v_0$ before the first boundary; scalar, finite.
        boundaries: The steps $b_i$ of the cuts, any number of them; sorted, each in
            [0, 2**31 - 1].
        gamma: The factor $\gamma$ of each cut; scalar, above 0. A number known to more than
            float32's digits (a Python float) is used with all of them.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or the boundaries are unsorted.

    Source:
        `torch.optim.lr_scheduler.MultiStepLR`.

    Example:
        >>> from odyssey_jax.schedules import multistep_decay
        >>> schedule = multistep_decay(0.1, boundaries=[30, 80], gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(80))
        0.1 0.05 0.025
    """
    require_finite("init_value", init_value)
    require_positive("gamma", gamma)
    return MultistepDecay(init_value, require_boundaries(boundaries), gamma)
