"""Keeps a copy of the best parameters."""

from __future__ import annotations

import dataclasses

from odyssey_jax._types import Event, Point, Signal
from odyssey_jax.callbacks._monitor import (
    Best,
    Mode,
    check_monitor,
    init_best,
    is_better,
    keep_best,
)


@dataclasses.dataclass(frozen=True)
class TrackBest:
    """The callback that `track_best` makes; its state is a `Best`."""

    monitor: str
    mode: Mode

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> Best:
        """Makes the record of a run that has seen no epoch."""
        return init_best(event, self.monitor, snapshot=True)

    def update(self, state: Best, event: Event) -> tuple[Best, Signal]:
        """Takes a snapshot if the epoch is the best so far."""
        value = event.metric(self.monitor)
        better = is_better(value, state, self.mode)
        return keep_best(state, event, value, better), Signal.none()


def track_best(monitor: str, *, mode: Mode = "min") -> TrackBest:
    """Keeps the parameters and model state of the epoch with the best metric.

    Costs one copy of them in the carry, so every checkpoint holds the best as well. An epoch
    is better if its metric is strictly so; NaN never is.

    Of several metrics, `chain` one for each: `FitResult.bests` has them by the metric's name, and
    `FitResult.best` is the first, or the one that `early_stopping(restore_best=True)` gives back
    as the result. A best checkpoint, `checkpoint(keep_best=...)`, has a monitor of its own.

    Args:
        monitor: the metric's name, such as "valid/loss".
        mode: whether "min" or "max" is better.

    Returns:
        A callback whose state is a `Best`: value, epoch, step, seen and the snapshot
        `(params, model_state)`.

    Raises:
        ValueError: an argument is out of its range; or, when the loop is traced, there is no
            such metric.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> best = ody.track_best("accuracy", mode="max")
        >>> at = lambda epoch, x: ody.Event(
        ...     {"accuracy": x}, ody.Clock(epoch, epoch), ody.TrainState(jnp.float32(epoch)))
        >>> state = best.init(at(0, 0.0))
        >>> for epoch, x in enumerate([0.3, 0.9, 0.5]):
        ...     state, _ = best.update(state, at(epoch, x))
        >>> int(state.epoch), float(state.snapshot[0])
        (1, 1.0)
    """
    check_monitor(monitor, mode)
    return TrackBest(monitor, mode)
