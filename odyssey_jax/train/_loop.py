"""The compiled loop: a whole training run as one pure function of its carry."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odyssey_jax import metrics as metrics_lib
from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import (
    Callback,
    Clock,
    Event,
    Point,
    PyTree,
    Signal,
    StopReason,
    Task,
    TrainState,
)
from odyssey_jax.callbacks import Chain, chain
from odyssey_jax.train._average import Averaging
from odyssey_jax.train._blocks import Blocks, plan_blocks
from odyssey_jax.train._carry import Carry, Inputs, Keys, own
from odyssey_jax.train._evaluate import evaluate_pass
from odyssey_jax.train._metric_set import MetricSet
from odyssey_jax.train._sampling import Sampling
from odyssey_jax.train._train_step import (
    OptimizerLike,
    check_accumulate_steps,
    logged_hyperparams,
    make_optimizer,
    norms,
    train_step,
    weighted,
)
from odyssey_jax.transforms import LossScale, scale_of_loss


class _Call(NamedTuple):
    """What one call of `run` reads throughout.

    The keys are derived once, not where they are used: on a CPU each takes 80 small kernels.
    """

    inputs: Inputs
    blocks: Blocks
    keys: Keys
    limit: jax.Array


@dataclasses.dataclass(frozen=True)
class Loop:
    """What `make_loop` makes: the static part of a run, hashable and compared by value.

    `init`, `run` and `finish` are pure functions of arrays, to be jitted, vmapped and donated
    as one likes; `run_compiled` is `run`, jitted with the carry donated.
    """

    loss: Callable[..., Any]
    evaluate: Callable[..., Any]
    optimizer: OptimizerLike
    callbacks: Chain
    metrics: MetricSet
    train_metrics: MetricSet
    steps_per_epoch: int | None
    clip_norm: float | None
    accumulate_steps: int
    capacity: int | None
    batch_sharding: jax.sharding.Sharding | None
    axis_name: str | None
    sampling: Sampling | None = None
    loss_scale: LossScale | None = None
    average: Averaging | None = None

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Once: the compiled program is looked up by it at every call.
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    def init(self, key: jax.Array, params: PyTree, model_state: PyTree, inputs: Inputs) -> Carry:
        """Makes the carry of a run that has not begun.

        Args:
            key: typed PRNG key, the run's root.
            params: the first parameters.
            model_state: the first model state, or None.
            inputs: as for `run`.

        Returns:
            The carry, whose structure, shapes and dtypes are final, in buffers of its own: it may
            be donated.

        Raises:
            ValueError: a callback monitors a metric that does not exist.
        """
        opt_state = self._optimizer(inputs).init(params)
        average = None if self.average is None else self.average.init(params, model_state)
        carry = Carry(
            clock=Clock(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
            state=TrainState(params, model_state, opt_state, average),
            key=key,
            callbacks=None,
            metrics=None,
            latest={},
            signal=Signal.none(),
            samples=None if self.sampling is None else self.sampling.empty(),
        )
        carry = carry._replace(metrics=self._empty_metrics(carry.state, inputs))
        shapes = jax.eval_shape(self._epoch_metrics, carry, inputs)
        shapes |= jax.eval_shape(self._reported, carry, shapes)
        latest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        event = self._event(Point.EPOCH_END, carry, latest)
        return own(carry._replace(callbacks=self.callbacks.init(event), latest=latest))

    def run(self, carry: Carry, inputs: Inputs, limit: Any) -> Carry:
        """Trains until the clock reaches the limit or a callback's signal asks for the host.

        The result is the same to the bit however often, and wherever, a run is cut into calls.

        Args:
            carry: from `init`, or from an earlier `run`.
            inputs: the data and the schedule.
            limit: int32 scalar, the step to stop at. Within an epoch the run stops at the end
                of a block (`plan_blocks`), so at or shortly after the limit.

        Returns:
            The carry. `signal.stop` says whether a callback has ended the run, `signal.save`
            whether one wants this carry saved.
        """
        call = _Call(
            inputs=inputs,
            blocks=plan_blocks(inputs.train, self.steps_per_epoch),
            keys=Keys.of(carry.key),
            limit=jnp.asarray(limit, jnp.int32),
        )
        carry = carry._replace(signal=carry.signal._replace(save=jnp.zeros_like(carry.signal.save)))

        def body(loop_state):
            carry, order, _ = loop_state
            new, order = self._advance(carry, order, call)
            new = self._freeze_stopped(carry, new)
            return new, order, self._running(new, call)

        order = self._order(carry, call, at_start=False)
        loop_state = (carry, order, self._running(carry, call))
        return lax.while_loop(lambda s: s[2], body, loop_state)[0]

    def finish(self, carry: Carry) -> Carry:
        """Lets the callbacks act at the end of the training, such as to restore the best.

        What is saved is the carry before this, so that a run can be continued.

        Args:
            carry: from the last `run`.

        Returns:
            The carry whose `state` is the result.
        """
        carry = carry._replace(state=carry.state.validated)
        return self._notify(Point.TRAIN_END, carry, carry.latest)

    # What follows is `run`, from the outside in.

    def _running(self, carry: Carry, call: _Call) -> jax.Array:
        stopped = carry.signal.stop != StopReason.NONE
        return (carry.clock.step < call.limit) & ~self._all(stopped) & ~self._any(carry.signal.save)

    def _advance(self, carry: Carry, order: Any, call: _Call):
        """From one look at the clock to the next: at most to the end of an epoch or a pass."""
        carry = self._begin(carry, call.blocks)
        order = lax.cond(
            carry.clock.step % call.blocks.data_pass == 0,
            lambda: self._order(carry, call, at_start=True),
            lambda: order,
        )

        def train(carry):
            carry, failed = self._train(carry, order, call)
            carry = self._tell_of(failed, carry)
            at_end = carry.clock.step % call.blocks.epoch == 0
            return apply_if(at_end, lambda carry: self._end_epoch(carry, call.inputs), carry)

        if not {Point.TRAIN_BEGIN, Point.EPOCH_BEGIN} & set(self.callbacks.points):
            return train(carry), order
        go_on = ~self._all(carry.signal.stop != StopReason.NONE)
        trained = apply_if(go_on, train, carry)
        return self._freeze_stopped(carry, trained), order

    def _begin(self, carry: Carry, blocks: Blocks) -> Carry:
        """Tells the callbacks that an epoch begins, and before the first one, the training."""
        step = carry.clock.step
        begins = ((Point.TRAIN_BEGIN, step == 0), (Point.EPOCH_BEGIN, step % blocks.epoch == 0))
        for point, now in begins:
            if point in self.callbacks.points:
                notify = functools.partial(self._notify, point, metrics={})
                carry = apply_if(now, notify, carry)
        return carry

    def _order(self, carry: Carry, call: _Call, at_start: bool) -> Any:
        """The order of the running pass; computed where the pass starts, or is re-entered."""
        train = call.inputs.train
        index, position = jnp.divmod(carry.clock.step, call.blocks.data_pass)
        make = functools.partial(train.order, call.keys.shuffle, index)
        if at_start or not train.shuffle:
            return make()
        shape = jax.eval_shape(make)
        zeros = lambda: jnp.zeros(shape.shape, shape.dtype)
        return lax.cond(position == 0, zeros, make)

    def _train(self, carry: Carry, order: Any, call: _Call) -> tuple[Carry, jax.Array]:
        """Trains on whole batches up to the next boundary, or on the pass's last small one.

        Where a callback wants to know of a loss that is not finite, only up to its block's end.
        The first step that has one is returned too, counted from 1; 0 is none.
        """
        train, blocks = call.inputs.train, call.blocks
        optimizer = self._optimizer(call.inputs)
        first = carry.clock.step
        position = first % blocks.data_pass

        def step(count, inner, batch):
            state, metrics, samples, failed = inner
            key = jax.random.fold_in(call.keys.step, count)
            state, outputs = train_step(self.loss, optimizer, state, batch, key)
            state = self._average(state, count)
            samples = self._sample(samples, count, state, outputs, call.inputs)
            metrics = self.train_metrics.observe(metrics, outputs)
            is_first = (failed == 0) & ~jnp.isfinite(outputs["loss"])
            return state, metrics, samples, jnp.where(is_first, count + 1, failed)

        def whole_batches(inner):
            room = jnp.minimum(call.limit - first, blocks.epoch - first % blocks.epoch)
            room = jnp.minimum(room, blocks.full - position)
            # The very first block by itself: a first loss that is not finite ends the run after
            # it, whatever the limit.
            room = jnp.where(first == 0, jnp.minimum(room, blocks.block), room)
            count = (room + blocks.block - 1) // blocks.block

            def at(offset, inner):
                batch = self._shard(train.batch(order, position + offset))
                return step(first + offset, inner, batch)

            def block(loop_state):
                index, inner = loop_state
                start = index * blocks.block
                inner = lax.fori_loop(0, blocks.block, lambda i, x: at(start + i, x), inner)
                return index + 1, inner

            def goes_on(loop_state):
                index, (*_, failed) = loop_state
                if Point.LOSS_NOT_FINITE not in self.callbacks.points:
                    return index < count
                return (index < count) & ~self._any(_is_news(failed, carry))

            done, inner = lax.while_loop(goes_on, block, (jnp.zeros_like(count), inner))
            return inner, first + done * blocks.block

        def small_batch(inner):
            return step(first, inner, train.last_batch(order)), first + 1

        inner = (carry.state, carry.metrics, carry.samples, jnp.zeros((), jnp.int32))
        if train.remainder:
            at_last = position == blocks.full
            inner, step_count = lax.cond(at_last, small_batch, whole_batches, inner)
        else:
            inner, step_count = whole_batches(inner)
        state, metrics, samples, failed = inner
        # A first loss that is not finite is a mistake in the set-up, not in the training.
        signal = carry.signal.merge(Signal.stop_if(failed == 1, StopReason.FIRST_LOSS_NOT_FINITE))
        clock = carry.clock._replace(step=step_count)
        carry = carry._replace(
            clock=clock, state=state, metrics=metrics, signal=signal, samples=samples
        )
        return carry, failed

    def _tell_of(self, failed: jax.Array, carry: Carry) -> Carry:
        """Tells the callbacks of a loss that is not finite, and when it was."""
        if Point.LOSS_NOT_FINITE not in self.callbacks.points:
            return carry
        news = _is_news(failed, carry)

        def tell(carry):
            then = carry._replace(clock=carry.clock._replace(step=failed))
            loss = jnp.full((), jnp.nan, jnp.float32)
            told = self._notify(Point.LOSS_NOT_FINITE, then, {"train/loss": loss})
            return self._keep_where(~news, carry, told)._replace(clock=carry.clock)

        return apply_if(self._any(news), tell, carry)

    def _average(self, state: TrainState, step: jax.Array) -> TrainState:
        """Takes the parameters into their average, where the step has updated them."""
        if self.average is None:
            return state
        averaging, accumulate = self.average, self.accumulate_steps
        take = lambda average: averaging.update(average, state, step // accumulate)
        if accumulate == 1:
            return state._replace(average=take(state.average))
        is_update = (step + 1) % accumulate == 0
        return state._replace(average=apply_if(is_update, take, state.average))

    def _sample(self, samples, step, state: TrainState, outputs, inputs: Inputs):
        if self.sampling is None:
            return samples
        in_force = logged_hyperparams(inputs.learning_rate, state, step + 1, self.accumulate_steps)
        return self.sampling.put(samples, step, {**in_force, **outputs})

    def _end_epoch(self, carry: Carry, inputs: Inputs) -> Carry:
        """Validates, tells the callbacks, and makes ready for the next epoch."""
        metrics = self._trained_metrics(carry, inputs)
        carry = self._notify(Point.VALIDATION_BEGIN, carry, metrics)
        metrics |= self._valid_metrics(carry, inputs)
        carry = self._notify(Point.VALIDATION_END, carry, metrics)
        metrics |= self.callbacks.report(carry.callbacks)
        carry = self._notify(Point.EPOCH_END, carry, metrics)
        return carry._replace(
            clock=carry.clock._replace(epoch=carry.clock.epoch + 1),
            metrics=self._empty_metrics(carry.state, inputs),
            latest=metrics,
        )

    def _notify(self, point: Point, carry: Carry, metrics: Mapping[str, Any]) -> Carry:
        if point not in self.callbacks.points:
            return carry
        event = self._event(point, carry, metrics)
        states, asked = self.callbacks.update(carry.callbacks, event)
        signal = carry.signal.merge(asked)
        state = carry.state if signal.state is None else signal.state
        return carry._replace(state=state, callbacks=states, signal=signal._replace(state=None))

    def _event(self, point: Point, carry: Carry, metrics: Mapping[str, Any]) -> Event:
        return Event(metrics, carry.clock, carry.state, point, self.capacity)

    def _trained_metrics(self, carry: Carry, inputs: Inputs) -> dict[str, Any]:
        values = metrics_lib.compute(carry.metrics)
        in_force = logged_hyperparams(
            inputs.learning_rate, carry.state, carry.clock.step, self.accumulate_steps
        )
        return _under("train", values) | in_force

    def _valid_metrics(self, carry: Carry, inputs: Inputs) -> dict[str, Any]:
        if inputs.valid is None:
            return {}
        values = evaluate_pass(self.evaluate, self.metrics, carry.state.validated, inputs.valid)
        return _under("valid", values)

    def _epoch_metrics(self, carry: Carry, inputs: Inputs) -> dict[str, Any]:
        return {**self._trained_metrics(carry, inputs), **self._valid_metrics(carry, inputs)}

    def _empty_metrics(self, state: TrainState, inputs: Inputs) -> PyTree:
        def outputs(state):
            batch = inputs.train.batch(inputs.train.order(jax.random.key(0), 0), 0)
            args = (state.params, state.model_state, batch, jax.random.key(0))
            loss, (_, outputs) = self.loss(*args)
            outputs = {**norms(state.params, state.params, state.params), **outputs}
            if (scale := scale_of_loss(state.opt_state)) is not None:
                outputs = {"loss_scale": scale, **outputs}
            return weighted(outputs, batch, loss=loss)

        return self.train_metrics.empty(jax.eval_shape(outputs, state))

    def _reported(self, carry: Carry, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What the callbacks add to the metrics: only their states, once made, can say."""
        event = self._event(Point.EPOCH_END, carry, metrics)
        columns = self.callbacks.report(self.callbacks.init(event))
        if known := sorted(columns.keys() & metrics.keys()):
            raise ValueError(f"a callback adds {known} to the metrics, and there are such already.")
        return columns

    def _optimizer(self, inputs: Inputs):
        return make_optimizer(
            self.optimizer,
            inputs.learning_rate,
            self.clip_norm,
            self.accumulate_steps,
            self.loss_scale,
        )

    def _shard(self, batch: PyTree) -> PyTree:
        if self.batch_sharding is None:
            return batch
        return lax.with_sharding_constraint(batch, self.batch_sharding)

    # A population: the members share the clock, and so every conditional on it. What they
    # differ in, whether each has stopped, is reduced over their axis, which makes it shared
    # again: the same lines serve one run, a vmap over many and a mesh of them.

    def _any(self, flag: jax.Array) -> jax.Array:
        if self.axis_name is None:
            return flag
        return lax.pmax(flag.astype(jnp.int32), self.axis_name) > 0

    def _all(self, flag: jax.Array) -> jax.Array:
        return ~self._any(~flag)

    def _freeze_stopped(self, old: Carry, new: Carry) -> Carry:
        """Leaves a stopped member as it was; a single run that stopped is not run at all."""
        return self._keep_where(old.signal.stop != StopReason.NONE, old, new)

    def _keep_where(self, flag: jax.Array, old: Carry, new: Carry) -> Carry:
        """Leaves some members as they were; of a single run it is known that it is not one."""
        if self.axis_name is None:
            return new
        kept = jax.tree.map(lambda a, b: jnp.where(flag, a, b), old, new)
        return kept._replace(clock=new.clock, key=new.key)


def _is_news(failed: jax.Array, carry: Carry) -> jax.Array:
    """Whether there is a failure to be told of: that of a run that has stopped is none."""
    return (failed > 0) & (carry.signal.stop == StopReason.NONE)


def _under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Names with a prefix; a metric whose value is itself a mapping becomes several."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        named |= _under(f"{prefix}/{name}", value) if nested else {f"{prefix}/{name}": value}
    return named


def make_loop(
    task: Task,
    optimizer: OptimizerLike,
    *,
    metrics: Mapping[str, Any] | None = None,
    train_metrics: Mapping[str, Any] | None = None,
    callbacks: Callback | None = None,
    steps_per_epoch: int | None = None,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    capacity: int | None = None,
    batch_sharding: jax.sharding.Sharding | None = None,
    axis_name: str | None = None,
    sampling: Sampling | None = None,
    loss_scale: LossScale | None = None,
    average: Averaging | None = None,
) -> Loop:
    """Makes the compiled core of `fit`, for people who drive it themselves.

    Args:
        task: what is trained.
        optimizer: an Optax transformation, or a function that makes one of the inputs'
            learning rate.
        metrics: name to metric, computed in validation beside the loss.
        train_metrics: name to metric, computed over the training batches beside the loss.
        callbacks: one callback; `chain` joins several.
        steps_per_epoch: train steps to an epoch; None is one pass over the data.
        clip_norm: the largest global norm of a gradient; None does not clip.
        accumulate_steps: train steps whose mean gradient makes one update.
        capacity: the most epochs that callbacks need room for (`log`).
        batch_sharding: how a batch is laid out over devices; None leaves it to JAX.
        axis_name: the name of the population's axis where the loop runs under
            `jax.vmap(..., axis_name=...)` or `jax.shard_map`; None is a single run.
        sampling: which outputs of single train steps are kept, from `sampling`; None keeps none.
        loss_scale: from `loss_scale`, for float16; None scales nothing.
        average: from `exponential_average` or `equal_average`; None keeps none.

    Returns:
        The loop. Loops made with equal arguments are equal, and share one compiled program.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import jax, jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> loop = ody.train.make_loop(task, optax.sgd(0.1))
        >>> inputs = ody.train.Inputs(ody.ArrayDataset(jnp.ones(8), batch_size=4))
        >>> carry = loop.init(jax.random.key(0), *task.init(jax.random.key(0)), inputs)
        >>> carry = jax.jit(loop.run)(carry, inputs, 20)
        >>> int(carry.clock.epoch), round(float(carry.state.params), 3)
        (10, 0.988)
    """
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be greater than 0 or None, got {clip_norm!r}.")
    check_accumulate_steps(accumulate_steps)
    callbacks = chain() if callbacks is None else callbacks
    loop = Loop(
        loss=task.loss,
        evaluate=task.evaluate,
        optimizer=optimizer,
        callbacks=callbacks if isinstance(callbacks, Chain) else chain(callbacks),
        metrics=MetricSet.with_loss(metrics),
        train_metrics=MetricSet.with_loss(train_metrics),
        steps_per_epoch=steps_per_epoch,
        clip_norm=clip_norm,
        accumulate_steps=accumulate_steps,
        capacity=capacity,
        batch_sharding=batch_sharding,
        axis_name=axis_name,
        sampling=sampling,
        loss_scale=loss_scale,
        average=average,
    )
    _check_hashable(loop)
    return loop


def _check_hashable(loop: Loop) -> None:
    """A compiled program is looked up by the loop that it was made for."""
    for field in dataclasses.fields(loop):
        try:
            hash(getattr(loop, field.name))
        except TypeError as error:
            raise TypeError(
                f"{field.name} must be hashable, so that its compiled program can be found again: "
                f"{error}. Arrays and dicts don't belong among a model's or callback's attributes."
            ) from error


@functools.partial(jax.jit, static_argnames="loop")
def init_compiled(loop: Loop, key, params, model_state, inputs: Inputs) -> Carry:
    """`Loop.init`, jitted."""
    return loop.init(key, params, model_state, inputs)


@functools.partial(jax.jit, static_argnames="loop", donate_argnames="carry")
def run_jitted(loop: Loop, carry: Carry, inputs: Inputs, limit) -> Carry:
    """`Loop.run`, jitted with the carry donated."""
    return loop.run(carry, inputs, limit)


def run_compiled(loop: Loop, carry: Carry, inputs: Inputs, limit: int) -> Carry:
    """`Loop.run`, compiled: equal loops share one program, whatever the limit.

    Args:
        loop: from `make_loop`.
        carry: from `Loop.init` or an earlier call; donated, so it can't be used again.
        inputs: the data and the schedule.
        limit: the step to stop at.

    Returns:
        The carry after.
    """
    return run_jitted(loop, carry, inputs, np.int32(limit))


@functools.partial(jax.jit, static_argnames="loop")
def finish_compiled(loop: Loop, carry: Carry) -> Carry:
    """`Loop.finish`, jitted; the carry lives on."""
    return loop.finish(carry)
