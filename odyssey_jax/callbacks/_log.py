"""Writes every epoch's metrics into a history: arrays in the carry, not files."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._checks import check_count
from odyssey_jax._types import Event, Point, Signal


class History(NamedTuple):
    """A table with a row for each epoch.

    Args:
        epoch: int32 [capacity], the index of the epoch.
        step: int32 [capacity], the number of steps done at its end.
        metrics: name to float32 [capacity].
        length: int32 scalar, how many rows are filled. Past the capacity the last row is
            written again.
    """

    epoch: jax.Array
    step: jax.Array
    metrics: dict[str, jax.Array]
    length: jax.Array


@dataclasses.dataclass(frozen=True)
class Log:
    """The callback that `log` makes; its state is a `History`."""

    capacity: int | None

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> History:
        """Makes an empty table with a column for each scalar metric."""
        capacity = self.capacity or event.capacity
        if capacity is None:
            raise ValueError("log() needs room for how many epochs: pass log(capacity=...).")
        return History(
            epoch=jnp.zeros(capacity, jnp.int32),
            step=jnp.zeros(capacity, jnp.int32),
            metrics={name: jnp.zeros(capacity, jnp.float32) for name in _scalars(event)},
            length=jnp.zeros((), jnp.int32),
        )

    def update(self, state: History, event: Event) -> tuple[History, Signal]:
        """Appends a row."""
        row = jnp.minimum(state.length, state.epoch.shape[0] - 1)

        def put(column: jax.Array, value: Any) -> jax.Array:
            # Not `.at[row].set`, which is a scatter: this is a copy in place.
            value = jnp.asarray(value, column.dtype)
            return lax.dynamic_update_index_in_dim(column, value, row, axis=0)

        history = History(
            epoch=put(state.epoch, event.clock.epoch),
            step=put(state.step, event.clock.step),
            metrics={name: put(x, event.metric(name)) for name, x in state.metrics.items()},
            length=state.length + 1,
        )
        return history, Signal.none()


def _scalars(event: Event) -> list[str]:
    return [name for name, value in sorted(event.metrics.items()) if jnp.ndim(value) == 0]


def log(capacity: int | None = None) -> Log:
    """Records every scalar metric of every epoch.

    `fit` always records, and hands the table to its writers; this is for loops of one's own
    and for `Loop`.

    Args:
        capacity: how many epochs there is room for, at least 1; None takes it from the event.

    Returns:
        A callback whose state is a `History`.

    Raises:
        ValueError: the capacity is less than 1; or neither it nor the event's is given.

    Example:
        >>> import odyssey_jax as ody
        >>> recorder = ody.callbacks.log(capacity=3)
        >>> event = lambda epoch, loss: ody.Event({"loss": loss}, ody.Clock(epoch, epoch))
        >>> history = recorder.init(event(0, 0.0))
        >>> for epoch, loss in enumerate([3.0, 2.0]):
        ...     history, _ = recorder.update(history, event(epoch, loss))
        >>> history.metrics["loss"][: int(history.length)].tolist()
        [3.0, 2.0]
    """
    if capacity is not None:
        check_count("capacity", capacity, 1, " or None")
    return Log(capacity)
