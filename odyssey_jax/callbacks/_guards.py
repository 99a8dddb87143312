"""Guards of a run: a budget of steps, and what to do about numbers that are not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._apply_if import apply_if
from odyssey_jax._checks import (
    check_count,
    check_factor_of_growth,
    check_finite,
    check_monitor,
    check_rate_factor,
)
from odyssey_jax._types import Clock, Event, Mode, Point, PyTree, Signal, StopReason, TrainState
from odyssey_jax.callbacks._callback import ShortRepr
from odyssey_jax.callbacks._tracking import beats, diverges, worst
from odyssey_jax.transforms import all_finite, has_scale, scale_of, with_counts_of, with_scale


@dataclasses.dataclass(frozen=True)
class MaxSteps:
    """The callback that `max_steps` makes; it has no state."""

    steps: int

    asks_to_save = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> None:
        """Return None."""

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Stop once so many steps are done."""
        done = jnp.asarray(event.clock.step, jnp.int32)
        return state, Signal.stop_if(done >= self.steps, StopReason.MAX_STEPS, done)


def max_steps(steps: int) -> MaxSteps:
    """Stop at the end of the epoch in which so many train steps are done.

    An epoch that has begun is trained to its end, and validated: a budget that is no multiple of
    `steps_per_epoch` is exceeded by less than one. A budget of time is `fit(max_time=)`.

    Args:
        steps: The budget in train steps, over the whole run with all that it was resumed; at
            least 1.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: If the budget is less than 1.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.ones(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.zeros(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd(0.1), data, epochs=9, writers=[],
        ...                  callbacks=ody.max_steps(5))
        >>> result.epochs, result.reason
        (3, 'completed all 6 steps')
    """
    steps = check_count("steps", steps, 1)
    return MaxSteps(steps)


@dataclasses.dataclass(frozen=True)
class TerminateOnNan:
    """The callback that `terminate_on_nan` makes; it has no state."""

    monitor: str = "train/loss"

    asks_to_save = False

    @property
    def points(self) -> tuple[Point, ...]:
        """Where a loss is not finite, and the end of an epoch."""
        return (Point.LOSS_NOT_FINITE, Point.EPOCH_END)

    def init(self, event: Event) -> None:
        """Check that the monitored metric exists."""
        event.metric(self.monitor)

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Stop unless the metric and every parameter is finite."""
        failed = ~_is_finite(event, self.monitor)
        return state, Signal.stop_if(failed, StopReason.NOT_FINITE, event.clock.step)


def terminate_on_nan(monitor: str = "train/loss") -> TerminateOnNan:
    """Stop at a train step whose loss is NaN or infinite, and at no finite metric or parameter.

    A loss is looked at in each step, which costs nothing, and the run ends within 10 steps of it
    (`plan_blocks`); the reason names the step, as the number of those that are done with it. The
    epoch does not end, so it has no row in the history. A gradient that is not finite makes
    parameters that are not, and the next step's loss shows it. At the end of an epoch all
    parameters are looked at, and the metric.

    With another metric than "train/loss", a step's loss only ends the run if there are parameters
    that are not finite: so where updates that are not finite are left out, as
    `optax.apply_if_finite` does, the run goes on with `monitor="valid/loss"`. Their count is in
    the history as "skipped_updates". To go back instead, see `roll_back`.

    Args:
        monitor: The metric's name. Of several, `chain` one for each.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: If the monitor is no name; or, when the loop is traced, there is no such metric.

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
    check_monitor(monitor)
    return TerminateOnNan(monitor)


class RollBackState(NamedTuple):
    """The state of `roll_back`.

    Attributes:
        good: The train state at the end of the last good epoch, or at the start.
        best: float32 or float64 scalar, the best value of the metric so far; None without a
            `divergence_factor`.
        rollbacks: int32 scalar, how many times it has gone back.
        latest: The step and epoch from which it went back last; step 0 and epoch -1 before.
    """

    good: TrainState
    best: jax.Array | None
    rollbacks: jax.Array
    latest: Clock


@dataclasses.dataclass(frozen=True, repr=False)
class RollBack(ShortRepr):
    """The callback that `roll_back` makes."""

    monitor: str = "train/loss"
    factor: float = 0.5
    at_most: int = 3
    divergence_threshold: float | None = None
    divergence_factor: float | None = None
    mode: Mode | None = None

    asks_to_save = False

    @property
    def points(self) -> tuple[Point, ...]:
        """Where a loss is not finite, and the end of an epoch."""
        return (Point.LOSS_NOT_FINITE, Point.EPOCH_END)

    def init(self, event: Event) -> RollBackState:
        """Take the first state for a good one; refuse an optimizer without a scale to lower."""
        like = event.metric(self.monitor)
        self._mode(event)  # raises where it is needed and not known
        if self.factor < 1 and not has_scale(event.state.opt_state):
            raise ValueError(
                "roll_back finds no scale to lower in the optimizer's state: put "
                "scale_by_callback() behind the learning rate, as in "
                "optimizer=lambda rate: optax.chain(optax.adamw(rate), ody.scale_by_callback()); "
                "or keep the rate, with factor=1."
            )
        best = None if self.divergence_factor is None else worst(self._mode(event))
        return RollBackState(
            good=_copied(event.state),
            best=None if best is None else best.astype(like.dtype),
            rollbacks=jnp.zeros((), jnp.int32),
            latest=Clock(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)),
        )

    def update(self, state: RollBackState, event: Event) -> tuple[RollBackState, Signal]:
        """Keep the state of a good epoch; replace a bad one at once, and stop at the last."""
        # The clock of a loop of one's own may be of int64, or Python's.
        clock = Clock(*(jnp.asarray(count, jnp.int32) for count in event.clock))
        event = dataclasses.replace(event, clock=clock)
        now, finite = event.state, _is_finite(event, self.monitor)
        good, bad, best = jnp.zeros((), bool), ~finite, state.best
        if event.point is Point.EPOCH_END:
            value = event.metric(self.monitor)
            bounds, mode = (self.divergence_threshold, self.divergence_factor), self._mode(event)
            bad |= diverges(value, best, mode, *bounds)
            good, bad = ~bad, bad & ~self._is_spoilt(value, state, event)
            if best is not None:
                better = good & beats(value, best, mode)
                best = jnp.where(better, value.astype(best.dtype), best)
        give_up = bad & (state.rollbacks >= self.at_most)
        back = bad & ~give_up
        kept = apply_if(good, lambda _: now, state.good)
        new = RollBackState(
            good=kept,
            best=best,
            rollbacks=jnp.where(back, state.rollbacks + 1, state.rollbacks),
            latest=jax.tree.map(lambda a, b: jnp.where(back, a, b), event.clock, state.latest),
        )
        reason = jnp.where(finite, StopReason.DIVERGED, StopReason.NOT_FINITE)
        signal = Signal.stop_if(give_up, reason, event.clock.step)
        went_on = apply_if(bad, lambda now: self._lowered(kept, now), now)
        return new, signal._replace(state=went_on)

    def report(self, state: RollBackState) -> Mapping[str, jax.Array]:
        """Return how many times it has gone back, and from which step last."""
        return {"rollbacks": state.rollbacks, "rollback_step": state.latest.step}

    def _mode(self, event: Event) -> Mode:
        """Return which way is better; without a bound it makes no difference."""
        bounded = (self.divergence_threshold, self.divergence_factor) != (None, None)
        return self.mode or (event.mode(self.monitor) if bounded else "min")

    def _is_spoilt(self, value: jax.Array, state: RollBackState, event: Event) -> jax.Array:
        """Return whether an epoch's metric is not finite for a step that was gone back from."""
        before = (state.latest.epoch == event.clock.epoch) & self.monitor.startswith("train/")
        return before & ~jnp.isfinite(value) & all_finite(event.state.params)

    def _lowered(self, good: TrainState, now: TrainState) -> TrainState:
        """Return the good state in the present: at a lower rate than now, where the schedule is."""
        opt_state = with_counts_of(good.opt_state, now.opt_state)
        if has_scale(opt_state):  # with a factor of 1 too: the good state may have a higher one
            opt_state = with_scale(opt_state, scale_of(now.opt_state) * self.factor)
        return good._replace(opt_state=opt_state)


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)


def roll_back(
    monitor: str = "train/loss",
    *,
    factor: float = 0.5,
    at_most: int = 3,
    divergence_threshold: float | None = None,
    divergence_factor: float | None = None,
    mode: Mode | None = None,
) -> RollBack:
    r"""Go back to the last good epoch when the loss is not finite, and on at a lower rate.

    It goes back within 10 steps of a loss that is not finite (see `terminate_on_nan` for what
    that finds), or at the end of an epoch if a parameter or the metric is not finite, or the
    metric has diverged. The parameters, the model state and the optimizer's state are then those
    of the last good epoch's end, or the first ones, and the learning rate is multiplied by
    `factor`, from there on and each time. The clock goes on: the next step has its own batch and
    key, and the schedule is where it would have been. After `at_most` times the next time ends
    the run, with the last good state as its result.

    The history keeps the bad epochs, with what was measured; its columns "rollbacks" and
    "rollback_step" have how many times it had gone back before an epoch was over, and after how
    many train steps last (0 for never); "learning_rate" is the rate in force.

    The optimizer needs `scale_by_callback()` behind its learning rate, as for `adapt_rate`; both
    may be in one run. Put `roll_back` first, so that the other callbacks see the state that the
    run goes on with.

    Costs one copy of the train state in the carry: for Adam three times the parameters, and as
    much in every checkpoint.

    Args:
        monitor: The metric's name.
        factor: What the learning rate is multiplied by, in (0, 1]; 1 keeps it.
        at_most: How many times it may go back, at least 1.
        divergence_threshold: A value worse than which the metric has diverged; None is none.
        divergence_factor: The same relative to the best value $b$ of the good epochs, greater than
            1: a value has diverged that is worse than $b$ by more than $(k - 1) |b|$; for a loss
            above 0, one above $k b$.
        mode: Whether "min" or "max" is better, for the two. None is as the metric has it, or its
            name: less of a loss or an error, more of an accuracy.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own. Its `init` takes the state to begin
        with from the event.

    Raises:
        ValueError: If an argument is out of its range; or, when the loop is traced, there is no
            such metric, or no `scale_by_callback` in the optimizer.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.ones(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.zeros(8), batch_size=4)
        >>> result = ody.fit(
        ...     task, lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
        ...     data, epochs=4, learning_rate=3.0, writers=[],
        ...     callbacks=ody.roll_back(divergence_threshold=2.0))
        >>> for name in ("train/loss", "learning_rate", "rollbacks"):
        ...     print(name, [round(float(x), 2) for x in result.history[name]])
        train/loss [13.0, 2.5, 0.62, 0.04]
        learning_rate [3.0, 1.5, 0.75, 0.75]
        rollbacks [0.0, 1.0, 2.0, 2.0]
    """
    check_monitor(monitor, mode)
    check_rate_factor("factor", factor)
    at_most = check_count("at_most", at_most, 1)
    check_finite("divergence_threshold", divergence_threshold)
    check_factor_of_growth("divergence_factor", divergence_factor)
    return RollBack(
        monitor=monitor,
        factor=float(factor),
        at_most=at_most,
        divergence_threshold=divergence_threshold,
        divergence_factor=divergence_factor,
        mode=mode,
    )


def _is_finite(event: Event, monitor: str) -> jax.Array:
    """Return whether every parameter and, where it is known already, the metric is finite."""
    finite = all_finite(event.state.params)
    if event.point is Point.EPOCH_END or monitor in event.metrics:
        finite &= jnp.isfinite(event.metric(monitor))
    return finite
