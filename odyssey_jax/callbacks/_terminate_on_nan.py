"""Stops a run that has come to NaN."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from odyssey_jax._types import Event, Point, Signal, StopReason
from odyssey_jax.callbacks._finite import all_finite
from odyssey_jax.callbacks._monitor import check_monitor


@dataclasses.dataclass(frozen=True)
class TerminateOnNan:
    """The callback that `terminate_on_nan` makes; it has no state."""

    monitor: str

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> None:
        """Checks that the monitored metric exists."""
        event.metric(self.monitor)

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Stops unless the metric and every parameter is finite."""
        finite = jnp.isfinite(event.metric(self.monitor)) & all_finite(event.state.params)
        return state, Signal.stop_if(~finite, StopReason.NOT_FINITE, event.clock.step)


def terminate_on_nan(monitor: str = "train/loss") -> TerminateOnNan:
    """Stops at the end of an epoch after which the loss or a parameter is not finite.

    The training loss of an epoch is a mean over its batches: one of them that is NaN or infinite
    makes it so. A gradient that is not finite makes parameters that are not, so it is found by
    these. It is found at the end of the epoch, whose step the reason names; where epochs are long,
    `fit(steps_per_epoch=)` makes them shorter.

    To go on all the same, see `roll_back`; or leave out the updates that are not finite, as
    `optax.apply_if_finite` does, whose count is then in the history as "skipped_updates".

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
