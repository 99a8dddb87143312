"""The epoch as pure functions: the only places where a task and callbacks are called.

A driver calls `begin`, then `train_block` between `begin_steps` and `end_steps` until the epoch
ends, and then `begin_validation`, `validate_block` over the validation data, and `end_epoch`.
`Loop.run` is a driver within one compiled program, `Driven` one on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import (
    Batch,
    Clock,
    Event,
    Mode,
    Outputs,
    Point,
    PyTree,
    ScheduleFn,
    Signal,
    StopReason,
    TrainState,
    Transform,
)
from odyssey_jax.callbacks import Chain, Ranking, Retention
from odyssey_jax.metrics import metric_modes
from odyssey_jax.train._carry import Carry, Inputs
from odyssey_jax.train._evaluation import prefix_of
from odyssey_jax.train._metric_set import MetricSet
from odyssey_jax.train._optimizer import (
    Optimizers,
    logged_hyperparams,
    make_optimizer,
    make_optimizers,
)
from odyssey_jax.train._options import Sampling, StepOptions
from odyssey_jax.train._step import NORMS, Step, empty_norms, own_step, train_step, weighted
from odyssey_jax.train._transformed import transformed
from odyssey_jax.train._user_functions import Traced
from odyssey_jax.train._validation import Validation, under
from odyssey_jax.transforms import scale_of_loss

_NONE: Mapping[str, Any] = {}


class Steps(NamedTuple):
    """What train steps change: a loop over them carries this, and nothing else of the run.

    Attributes:
        state: The train state.
        metrics: The training metrics' partial sums.
        samples: The samples, or None.
        failed: Int32 scalar, the steps done at the end of the first one whose loss is not
            finite; 0 where there is none.
    """

    state: TrainState
    metrics: PyTree
    samples: Any
    failed: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Epoch(Validation):
    """The static part of a run, hashable and compared by value, and the functions of its epoch."""

    loss: Callable[..., Any]
    update: Callable[..., Any] | None
    optimizer: Any
    callbacks: Chain
    train_metrics: MetricSet
    steps_per_epoch: int | None
    last_step: int | None
    options: StepOptions
    capacity: int | None
    sample_capacity: int
    keep_best: Retention | None
    axis_name: str | None

    @functools.cached_property
    def sampling(self) -> Sampling | None:
        """What of the train steps is sampled."""
        return self.options.sampling(self.sample_capacity)

    @functools.cached_property
    def modes(self) -> tuple[tuple[str, Mode], ...]:
        """The metrics that know whether less or more of them is better."""
        sets = {"train": self.train_metrics.metrics, "valid": self.metrics.metrics}
        for name, _ in self.evaluations:
            sets[prefix_of(name)] = self.metrics_of(name).metrics
        return metric_modes(sets)

    @functools.cached_property
    def _traced_loss(self) -> Traced:
        return Traced(self.placement.wrapped(self.loss))

    # Training.

    def begin(self, carry: Carry, epoch_steps: int) -> Carry:
        """Tell the callbacks that an epoch begins, and before the first one, the training."""
        step = carry.clock.step
        begins = ((Point.TRAIN_BEGIN, step == 0), (Point.EPOCH_BEGIN, step % epoch_steps == 0))
        for point, now in begins:
            if point in self.callbacks.points:
                carry = apply_if(now, functools.partial(self.notify, point, metrics={}), carry)
        return carry

    def begun(self, carry: Carry, epoch_steps: int, train: Callable[[Carry], Carry]) -> Carry:
        """Begin, and train unless a callback stops the run before its first step."""
        carry = self.begin(carry, epoch_steps)
        if not {Point.TRAIN_BEGIN, Point.EPOCH_BEGIN} & set(self.callbacks.points):
            return train(carry)
        go_on = ~self.all_members(carry.signal.stop != StopReason.NONE)
        return self.freeze_stopped(carry, apply_if(go_on, train, carry))

    def begin_steps(self, carry: Carry) -> Steps:
        """Return what the train steps of a carry go on from."""
        return Steps(carry.state, carry.metrics, carry.samples, jnp.zeros((), jnp.int32))

    def train_block(
        self,
        steps: Steps,
        first: jax.Array,
        count: int,
        batch_at: Callable[[Any], Batch],
        transform: Transform | None,
        key: jax.Array,
        inputs: Inputs,
    ) -> Steps:
        """Make a block of train steps.

        Args:
            steps: What they go on from.
            first: Int32 scalar, the index of the first.
            count: How many there are; static.
            batch_at: Position within the block -> batch.
            transform: The source's, of a batch and a key of the step's own.
            key: Typed PRNG key of the run's steps.
            inputs: The schedule and the length of the run; its data may be left out.

        Returns:
            What they leave.
        """
        learning_rate = inputs.learning_rate
        optimizer = self.make_optimizer(learning_rate)

        def step(index: Any, steps: Steps) -> Steps:
            number = first + index
            step_key = jax.random.fold_in(key, number)
            batch = transformed(transform, self.placement.batch(batch_at(index)), step_key)
            where = (step_key, number.astype(jnp.int32), inputs.total_steps)
            at = Step(*where, loss=self._traced_loss)
            reads = functools.partial(self._reads_norms, steps.metrics)
            state, outputs = self._stepped(steps.state, batch, at, optimizer, reads_norms=reads)
            state = self._averaged(state, number)
            state = self.placement.constrain(state, steps.state)
            samples = steps.samples
            if self.sampling is not None:
                in_force = self._in_force(learning_rate, state, number + 1)
                samples = self.sampling.put(samples, number, {**in_force, **outputs})
            metrics = self.train_metrics.observe(steps.metrics, outputs)
            is_first = (steps.failed == 0) & ~jnp.isfinite(outputs["loss"])
            return Steps(state, metrics, samples, jnp.where(is_first, number + 1, steps.failed))

        # XLA's time grows with loops within loops, also with those of 1 trip.
        return step(0, steps) if count == 1 else lax.fori_loop(0, count, step, steps)

    def end_steps(self, carry: Carry, steps: Steps, done: jax.Array) -> Carry:
        """Put train steps back into their carry, and tell the callbacks of a failure.

        Args:
            carry: What they went on from.
            steps: What they left.
            done: Int32 scalar, the steps done now.

        Returns:
            The carry.
        """
        # A first loss that is not finite is a mistake in the set-up, not in the training.
        first_failed = Signal.stop_if(steps.failed == 1, StopReason.FIRST_LOSS_NOT_FINITE)
        carry = carry._replace(
            clock=carry.clock._replace(step=done),
            state=steps.state,
            metrics=steps.metrics,
            samples=steps.samples,
            signal=carry.signal.merge(first_failed),
        )
        return self._tell_of(steps.failed, carry)

    def _reads_norms(self, metrics: PyTree, outputs: Outputs) -> bool:
        """Return whether a sample or a training metric reads a norm among these outputs."""
        sampled = () if self.sampling is None else self.sampling.outputs
        read = self.train_metrics.reads(metrics, outputs)
        return not read.union(sampled).isdisjoint(NORMS)

    def _stepped(
        self, state: TrainState, batch: Batch, step: Step, optimizer: Any, **how: Any
    ) -> Any:
        if self.update is None:
            return train_step(state, batch, step, optimizer, **how)
        return own_step(self.update, state, batch, step, optimizer)

    def _averaged(self, state: TrainState, step: jax.Array) -> TrainState:
        """Take the parameters into their average, where the step has updated them."""
        averaging, accumulate = self.options.averaging, self.options.accumulate_steps
        if averaging is None:
            return state
        take = lambda average: averaging.update(average, state, step // accumulate)
        if accumulate == 1:
            return state._replace(average=take(state.average))
        is_update = (step + 1) % accumulate == 0
        return state._replace(average=apply_if(is_update, take, state.average))

    def _tell_of(self, failed: jax.Array, carry: Carry) -> Carry:
        """Tell the callbacks of a loss that is not finite, and when it was."""
        if Point.LOSS_NOT_FINITE not in self.callbacks.points:
            return carry
        news = self.is_news(failed, carry)

        def tell(carry: Carry) -> Carry:
            then = carry._replace(clock=carry.clock._replace(step=failed))
            known = carry.latest.get("train/loss")
            loss = jnp.full((), jnp.nan, jnp.float32 if known is None else known.dtype)
            told = self.notify(Point.LOSS_NOT_FINITE, then, {"train/loss": loss})
            return self.keep_where(~news, carry, told)._replace(clock=carry.clock)

        return apply_if(self.any_member(news), tell, carry)

    def is_news(self, failed: jax.Array, carry: Carry) -> jax.Array:
        """Return True if a loss was not finite and the run is still going."""
        return (failed > 0) & (carry.signal.stop == StopReason.NONE)

    # The end of an epoch.

    def begin_validation(self, carry: Carry, learning_rate: ScheduleFn | None) -> Carry:
        """Tell the callbacks that validation begins; they may swap the parameters for it."""
        if Point.VALIDATION_BEGIN not in self.callbacks.points:
            return carry
        return self.notify(Point.VALIDATION_BEGIN, carry, self.trained(carry, learning_rate))

    def end_epoch(
        self,
        carry: Carry,
        learning_rate: ScheduleFn | None,
        validated: Mapping[str, PyTree],
        columns: Mapping[str, jax.Array] = _NONE,
    ) -> Carry:
        """Tell the callbacks how the epoch went, log it, and make ready for the next one.

        Args:
            carry: After the last step, and after `begin_validation`.
            learning_rate: The schedule, where the optimizer is made from one.
            validated: The validation metrics' states of each set: see `as_sets`.
            columns: What the host has measured, a value for each name of `self.columns`: NaN for
                those that are not due.

        Returns:
            The carry, with one epoch more on its clock.
        """
        metrics = self.trained(carry, learning_rate) | self.measured(validated, carry.clock.epoch)
        metrics |= columns
        carry = self.notify(Point.VALIDATION_END, carry, metrics)
        metrics |= self.callbacks.report(carry.callbacks)
        carry = self.notify(Point.EPOCH_END, carry, metrics)
        history, ranking, signal = carry.history, carry.ranking, carry.signal
        if history is not None:
            history = history.append(metrics, carry.clock)
        if ranking is not None:
            ranking, entered = ranking.enter(self.score(metrics))
            signal = signal._replace(save=signal.save | entered)
        return carry._replace(
            clock=carry.clock._replace(epoch=carry.clock.epoch + 1),
            metrics=self.train_metrics.restarted(carry.metrics),
            latest=metrics,
            signal=signal,
            history=history,
            ranking=ranking,
        )

    def placed(self, carry: Carry) -> Carry:
        """Hold every leaf of a carry where it belongs: for what a compiled program returns."""
        return self.placement.constrain(carry, carry.state)

    def trained(self, carry: Carry, learning_rate: ScheduleFn | None) -> dict[str, Any]:
        """Return the training metrics of the running epoch, and the rates in force."""
        values = under("train", self.train_metrics.compute(carry.metrics))
        return values | self._in_force(learning_rate, carry.state, carry.clock.step)

    def _in_force(self, learning_rate: Any, state: TrainState, step: jax.Array) -> dict[str, Any]:
        accumulate = self.options.accumulate_steps
        return logged_hyperparams(learning_rate, state, step, accumulate)

    def score(self, metrics: Mapping[str, Any]) -> jax.Array:
        """Return what the best epochs are ranked by; names a metric that does not exist."""
        kept = self.keep_best
        assert kept is not None
        return kept.score(Event(metrics).metric(str(kept.monitor)))

    def empty_ranking(self, metrics: Mapping[str, Any]) -> Ranking | None:
        """Return the ranking of no epoch, where the best are saved, by metrics like these."""
        kept = self.keep_best
        return None if kept is None else Ranking.empty(kept.keep_best, self.score(metrics).dtype)

    # Callbacks.

    def notify(self, point: Point, carry: Carry, metrics: Mapping[str, Any]) -> Carry:
        """Call the callbacks at a point, and do what they ask of the carry."""
        if point not in self.callbacks.points:
            return carry
        event = self.event(point, carry, metrics)
        states, asked = self.callbacks.update(carry.callbacks, event)
        signal = carry.signal.merge(asked)
        state = carry.state if signal.state is None else signal.state
        return carry._replace(state=state, callbacks=states, signal=signal._replace(state=None))

    def event(self, point: Point, carry: Carry, metrics: Mapping[str, Any]) -> Event:
        """Return what callbacks see of a carry."""
        # At the end of the training the metrics are those of the epoch before.
        due = self.due(carry.clock.epoch, before=int(point is Point.TRAIN_END))
        rest = (carry.state, point, self.capacity, self.modes, due)
        return Event(metrics, carry.clock, *rest)

    def make_optimizer(self, learning_rate: Any) -> Any:
        """Put the optimizer together; of a step of one's own it may be a mapping of them."""
        options = self.options
        if self.update is not None:
            how = (options.clip_norm, options.accumulate_steps)
            return make_optimizers(self.optimizer, learning_rate, *how)
        return make_optimizer(
            self.optimizer,
            learning_rate,
            options.clip_norm,
            options.accumulate_steps,
            options.loss_scale,
        )

    def rates_of(self, rate: ScheduleFn) -> Any:
        """Return a rate in the form of the inputs', for the optimizers that are made of one."""
        if not isinstance(self.optimizer, Optimizers):
            return rate
        return dict.fromkeys(self.optimizer.names, rate)

    def empty_training(self, state: TrainState, batch: Batch, inputs: Inputs) -> PyTree:
        """Return the training metrics before any batch, for a batch like this one."""

        def outputs_of(state: TrainState, batch: Batch) -> Any:
            where = (jax.random.key(0), jnp.zeros((), jnp.int32), inputs.total_steps)
            at = Step(*where, loss=self._traced_loss)
            if self.update is not None:
                optimizer = self.make_optimizer(inputs.learning_rate)
                return self._stepped(state, batch, at, optimizer)[1]
            loss, (_, outputs) = at.loss_of(state.params, state.model_state, batch)
            outputs = {**empty_norms(state), **outputs}
            if (scale := scale_of_loss(state.opt_state)) is not None:
                outputs = {"loss_scale": scale, **outputs}
            return weighted(outputs, batch, loss=loss)

        return self.train_metrics.empty(jax.eval_shape(outputs_of, state, batch))

    # A population: the members share the clock, and so every conditional on it. What they
    # differ in, whether each has stopped, is reduced over their axis, which makes it shared
    # again: the same lines serve one run, a vmap over many and a mesh of them.

    def any_member(self, flag: jax.Array) -> jax.Array:
        """Return whether a flag holds for any member."""
        if self.axis_name is None:
            return flag
        return lax.pmax(flag.astype(jnp.int32), self.axis_name) > 0

    def all_members(self, flag: jax.Array) -> jax.Array:
        """Return whether a flag holds for all members."""
        return ~self.any_member(~flag)

    def keep_where(self, flag: jax.Array, old: Carry, new: Carry) -> Carry:
        """Leave some members as they were; of a single run it is known that it is not one."""
        if self.axis_name is None:
            return new
        kept = jax.tree.map(lambda a, b: jnp.where(flag, a, b), old, new)
        return kept._replace(clock=new.clock, key=new.key)

    def freeze_stopped(self, old: Carry, new: Carry) -> Carry:
        """Leave a stopped member as it was; a single run that stopped is not run at all."""
        return self.keep_where(old.signal.stop != StopReason.NONE, old, new)


def clock_at(step: int, epoch: int) -> Clock:
    """Return a clock of int32 scalars."""
    return Clock(jnp.asarray(step, jnp.int32), jnp.asarray(epoch, jnp.int32))
