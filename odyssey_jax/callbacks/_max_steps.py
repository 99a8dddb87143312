"""Stops a run that has used up its steps."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from odyssey_jax._checks import check_count
from odyssey_jax._types import Event, Point, Signal, StopReason


@dataclasses.dataclass(frozen=True)
class MaxSteps:
    """The callback that `max_steps` makes; it has no state."""

    steps: int

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> None:
        """Needs nothing."""

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Stops once so many steps are done."""
        done = jnp.asarray(event.clock.step, jnp.int32)
        return state, Signal.stop_if(done >= self.steps, StopReason.MAX_STEPS, done)


def max_steps(steps: int) -> MaxSteps:
    """Stops at the end of the epoch in which so many train steps are done.

    An epoch that has begun is trained to its end, and validated: a budget that is no multiple of
    `steps_per_epoch` is exceeded by less than one. A budget of time is `fit(max_time=)`.

    Args:
        steps: the budget in train steps, over the whole run with all that it was resumed; at
            least 1.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: the budget is less than 1.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.ones(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.zeros(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd(0.1), data, epochs=9, writers=[],
        ...                  callbacks=ody.max_steps(5))
        >>> result.epochs, result.reason
        (3, 'completed all 6 steps')
    """
    check_count("steps", steps, 1)
    return MaxSteps(steps)
