"""What is kept of the epochs: the best one, by the rule all monitors share, and the history."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._checks import check_count, check_monitor
from odyssey_jax._types import Clock, Event, Mode, Point, Signal, real_dtype
from odyssey_jax.callbacks._callback import Best, ShortRepr
from odyssey_jax.schedules import improves, observed
from odyssey_jax.schedules import worst as worst_of


class _Monitoring(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def monitor(self) -> str: ...

    @property
    def mode(self) -> Mode | None: ...


Monitoring = TypeVar("Monitoring", bound=_Monitoring)


def beats(value: Any, other: Any, mode: Mode, *, rtol: Any = 0.0, atol: Any = 0.0) -> jax.Array:
    """Return whether a value is better than another: strictly, and by more than the margin.

    The margin is `rtol * abs(other) + atol`. NaN neither beats nor is beaten.
    """
    margin = {"rtol": rtol, "atol": atol, "relative_to": "magnitude"}
    return improves(observed(value), observed(other), mode=mode, **margin)


def init_best(event: Event, monitor: str, snapshot: bool) -> Best:
    """Make the record of a run that has seen nothing; name a metric that does not exist."""
    value = event.metric(monitor)
    kept = (event.state.for_evaluation.params, event.state.for_evaluation.model_state)
    return Best(
        value=jnp.zeros_like(value),
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        seen=jnp.zeros((), bool),
        snapshot=jax.tree.map(jnp.zeros_like, kept) if snapshot else None,
    )


def with_mode(callback: Monitoring, event: Event) -> Monitoring:
    """Return the callback with the mode of its metric, where it was given none."""
    if callback.mode is not None:
        return callback
    return dataclasses.replace(callback, mode=event.mode(callback.monitor))


def is_better(
    value: jax.Array, best: Best, mode: Mode, *, rtol: float = 0.0, atol: float = 0.0
) -> jax.Array:
    """Return whether a value improves on the best so far.

    A flat metric does not. The first value that is not NaN always does, and NaN never does.
    """
    improved = beats(value, best.value, mode, rtol=rtol, atol=atol)
    return jnp.where(best.seen, improved, ~jnp.isnan(value))


def keep_best(best: Best, event: Event, value: jax.Array, better: jax.Array) -> Best:
    """Take the record past an epoch, which is the best one where it is better."""
    new = Best(
        value=value.astype(best.value.dtype),
        epoch=jnp.asarray(event.clock.epoch, jnp.int32),
        step=jnp.asarray(event.clock.step, jnp.int32),
        seen=jnp.ones((), bool),
        snapshot=None,
    )
    kept = best.snapshot
    if kept is not None:
        # Not a select: most epochs of a long run don't improve, and the copy of
        # the parameters is the only part of a callback that costs anything.
        now = (event.state.for_evaluation.params, event.state.for_evaluation.model_state)
        kept = apply_if(better, lambda _: now, kept)
    scalars = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best._replace(snapshot=None))
    return scalars._replace(snapshot=kept)


def worst(mode: Mode) -> jax.Array:
    """Return the best value where there is none yet: no finite value is worse."""
    return worst_of(mode).high


def diverges(
    value: jax.Array, best: Any, mode: Mode, threshold: float | None, factor: float | None
) -> jax.Array:
    """Return whether a value is worse than the threshold, or than the best so far by the factor.

    NaN is neither: that is for whoever looks for values that are not finite.
    """
    worse: Mode = "max" if mode == "min" else "min"
    diverged = jnp.zeros((), bool)
    if threshold is not None:
        diverged |= beats(value, threshold, worse)
    if factor is not None:
        diverged |= beats(value, best, worse, rtol=factor - 1)
    return diverged


@dataclasses.dataclass(frozen=True, repr=False)
class TrackBest(ShortRepr):
    """The callback that `track_best` makes; its state is a `Best`."""

    monitor: str
    mode: Mode | None = None

    asks_to_save = False
    asks_to_stop = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch."""
        return (Point.EPOCH_END,)

    def best(self, state: Best) -> Best:
        """Return the best epoch so far, for a loop of one's own."""
        return state

    def init(self, event: Event) -> Best:
        """Make the record of a run that has seen no epoch."""
        best = init_best(event, self.monitor, snapshot=True)
        with_mode(self, event)  # raises where it is not known
        return best

    def update(self, state: Best, event: Event) -> tuple[Best, Signal]:
        """Take a snapshot if the epoch is the best so far."""
        value = event.metric(self.monitor)
        better = is_better(value, state, self.mode or event.mode(self.monitor))
        return keep_best(state, event, value, better), Signal.none()


def track_best(monitor: str, *, mode: Mode | None = None) -> TrackBest:
    """Keep the parameters and model state of the epoch with the best metric.

    Costs one copy of them in the carry, so every checkpoint holds the best as well. An epoch
    is better if its metric is strictly so; NaN never is, nor one at which it was not measured (see
    `Evaluation`).

    Of several metrics, `chain` one for each: `FitResult.bests` has them by the metric's name, and
    `FitResult.best` is the first, or the one that `early_stopping(restore_best=True)` gives back
    as the result. A best checkpoint, `checkpoint(keep_best=...)`, has a monitor of its own.

    Args:
        monitor: The metric's name, such as "valid/loss".
        mode: Whether "min" or "max" is better. None is as the metric has it, or its name: less of
            a loss or an error, more of an accuracy.

    Returns:
        A callback whose state is a `Best`: value, epoch, step, seen and the snapshot
        `(params, model_state)`.

    Raises:
        ValueError: If an argument is out of its range; or, when the loop is traced, there is no
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


class History(NamedTuple):
    """A table with a row for each epoch.

    Attributes:
        epoch: int32 [capacity], the index of the epoch.
        step: int32 [capacity], the number of steps done at its end.
        metrics: Name to float32 [capacity]; float64 of a metric that is.
        length: int32 scalar, how many rows are filled. Past the capacity the last row is
            written again.
    """

    epoch: jax.Array
    step: jax.Array
    metrics: dict[str, jax.Array]
    length: jax.Array

    @classmethod
    def empty(cls, capacity: int, metrics: Mapping[str, Any]) -> History:
        """Make a table without a row.

        Args:
            capacity: How many rows there is room for.
            metrics: Name to value; each scalar among them has a column.

        Returns:
            The table.
        """
        scalars = {k: real_dtype(x) for k, x in sorted(metrics.items()) if jnp.ndim(x) == 0}
        return cls(
            epoch=jnp.zeros(capacity, jnp.int32),
            step=jnp.zeros(capacity, jnp.int32),
            metrics={name: jnp.zeros(capacity, dtype) for name, dtype in scalars.items()},
            length=jnp.zeros((), jnp.int32),
        )

    def append(self, metrics: Mapping[str, Any], clock: Clock) -> History:
        """Return the table with one more row.

        Args:
            metrics: Name to value, of all columns; others are ignored.
            clock: Epoch and step of the row.

        Returns:
            The table, of the same shapes and dtypes.

        Raises:
            ValueError: If a column's metric is missing.
        """
        row = jnp.minimum(self.length, self.epoch.shape[0] - 1)
        event = Event(metrics, clock)

        def put(column: jax.Array, value: Any) -> jax.Array:
            # Not `.at[row].set`, which is a scatter: this is a copy in place.
            value = jnp.asarray(value, column.dtype)
            return lax.dynamic_update_index_in_dim(column, value, row, axis=0)

        return History(
            epoch=put(self.epoch, clock.epoch),
            step=put(self.step, clock.step),
            metrics={name: put(x, event.metric(name)) for name, x in self.metrics.items()},
            length=self.length + 1,
        )


@dataclasses.dataclass(frozen=True)
class Log:
    """The callback that `log` makes; its state is a `History`."""

    capacity: int | None = None

    asks_to_save = False
    asks_to_stop = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> History:
        """Make an empty table with a column for each scalar metric."""
        capacity = self.capacity or event.capacity
        if capacity is None:
            raise ValueError("log() needs room for how many epochs: pass log(capacity=...).")
        return History.empty(capacity, event.metrics)

    def update(self, state: History, event: Event) -> tuple[History, Signal]:
        """Append a row."""
        return state.append(event.metrics, event.clock), Signal.none()


def log(capacity: int | None = None) -> Log:
    """Record every scalar metric of every epoch.

    `fit` always records, and hands the table to its writers; this is for loops of one's own
    and for `Loop`.

    Args:
        capacity: How many epochs there is room for, at least 1; None takes it from the event.

    Returns:
        A callback whose state is a `History`.

    Raises:
        ValueError: If the capacity is less than 1, or neither it nor the event's is given.

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
        capacity = check_count("capacity", capacity, 1, " or None")
    return Log(capacity)
