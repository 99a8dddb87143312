"""Stops a run that has come to NaN."""

from __future__ import annotations

import dataclasses

from odyssey_jax._types import Event, Point, Signal, StopReason
from odyssey_jax.callbacks._finite import is_finite
from odyssey_jax.callbacks._monitor import check_monitor


@dataclasses.dataclass(frozen=True)
class TerminateOnNan:
    """The callback that `terminate_on_nan` makes; it has no state."""

    monitor: str

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts where a loss is not finite, and at the end of an epoch."""
        return (Point.LOSS_NOT_FINITE, Point.EPOCH_END)

    def init(self, event: Event) -> None:
        """Checks that the monitored metric exists."""
        event.metric(self.monitor)

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Stops unless the metric and every parameter is finite."""
        failed = ~is_finite(event, self.monitor)
        return state, Signal.stop_if(failed, StopReason.NOT_FINITE, event.clock.step)


def terminate_on_nan(monitor: str = "train/loss") -> TerminateOnNan:
    """Stops at a train step whose loss is NaN or infinite, and at no finite metric or parameter.

    A loss is looked at in each step, which costs nothing, and the run ends within ten steps of it
    (`plan_blocks`); the reason names the step, as the number of those that are done with it. The
    epoch does not end, so it has no row in the history. A gradient that is not finite makes
    parameters that are not, and the next step's loss shows it. At the end of an epoch all
    parameters are looked at, and the metric.

    With another metric than "train/loss", a step's loss only ends the run if there are parameters
    that are not finite: so where updates that are not finite are left out, as
    `optax.apply_if_finite` does, the run goes on with `monitor="valid/loss"`. Their count is in
    the history as "skipped_updates". To go back instead, see `roll_back`.

    Args:
        monitor: the metric's name. Of several, `chain` one for each.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: the monitor is no name; or, when the loop is traced, there is no such metric.

    Source:
        `keras.callbacks.TerminateOnNaN`, which looks at the loss of every batch.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.ones(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.zeros(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd, data, epochs=9, learning_rate=1e19, writers=[],
        ...                  callbacks=ody.terminate_on_nan())
        >>> result.reason
        'a metric or a parameter is not finite at step 2'
    """
    check_monitor(monitor, "min")
    return TerminateOnNan(monitor)
