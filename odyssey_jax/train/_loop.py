"""The compiled loop: a whole training run as one pure function of its carry."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._checks import check_columns, check_kind
from odyssey_jax._opt_state import evaluates_elsewhere
from odyssey_jax._types import (
    Callback,
    MetricLike,
    OptimizerLike,
    Point,
    PyTree,
    Signal,
    StopReason,
    Task,
    Told,
    TrainState,
)
from odyssey_jax.callbacks import History, Retention, When, as_chain
from odyssey_jax.data import Calendar, IndexedSource, transform_of
from odyssey_jax.parallel import OneDevice, Placement
from odyssey_jax.train._carry import Carry, Inputs, Keys, fresh_copy
from odyssey_jax.train._epoch import Epoch, Steps, clock_at
from odyssey_jax.train._evaluation import EvaluationOptions
from odyssey_jax.train._metric_set import MetricSet
from odyssey_jax.train._optimizer import Optimizers, init_optimizers
from odyssey_jax.train._options import StepOptions
from odyssey_jax.train._programs import Programs, compiled
from odyssey_jax.train._transformed import transformed
from odyssey_jax.train._validation import as_sets


class _Call(NamedTuple):
    """What one call of `run` reads throughout.

    The keys are derived once, not where they are used: on a CPU each takes 80 small kernels.
    """

    inputs: Inputs
    calendar: Calendar
    keys: Keys
    limit: jax.Array


class _State(NamedTuple):
    """What the outer loop carries."""

    carry: Carry
    order: Any
    entered: jax.Array  # whether this is the first trip of the call


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Epoch):
    """What `make_loop` makes: the static part of a run, hashable and compared by value.

    `init`, `run` and `finish` are pure functions of arrays, to be jitted, vmapped and donated
    as one likes; `run_compiled` is `run`, jitted with the carry donated.
    """

    @functools.cached_property
    def programs(self) -> Programs:
        """What is compiled of this loop, and of those that are equal to it."""
        return Programs.of(self)

    def init(self, key: jax.Array, params: PyTree, model_state: PyTree, inputs: Inputs) -> Carry:
        """Make the carry of a run that has not begun.

        Args:
            key: Typed PRNG key, the run's root.
            params: The first parameters.
            model_state: The first model state, or None.
            inputs: As for `run`.

        Returns:
            The carry, whose structure, shapes and dtypes are final, in buffers of its own: it may
            be donated.

        Raises:
            TypeError: If the data is read on the host, which `fit` and `feed.make_program` take.
            ValueError: If a callback monitors a metric that does not exist.
        """
        for data in (inputs.train, *as_sets(inputs.valid).values()):
            made_by = "ArrayDataset(arrays, batch_size)"
            check_kind("what a loop runs over", data, IndexedSource, made_by)
        sets = as_sets(inputs.valid)
        if unknown := [name for name, _ in self.evaluations if name not in sets]:
            raise ValueError(
                f"evaluations are of {unknown}, and the sets of the validation data are "
                f"{list(sets)}."
            )
        if not jax.tree.leaves(params):
            raise ValueError("the task has no parameters: there is nothing to train.")
        opt_state = init_optimizers(self.make_optimizer(inputs.learning_rate), params)
        averaging = self.options.averaging
        if averaging is not None and evaluates_elsewhere(opt_state):
            raise ValueError(
                "average= and eval_params= do not go with an optimizer that is evaluated at "
                "parameters of its own, as schedule-free ones, optax.lookahead and "
                "optax.contrib.sam are: leave one of them out."
            )
        average = None if averaging is None else averaging.init(params, model_state, opt_state)
        state = TrainState(params, model_state, opt_state, average)
        batch = form_of_batch(inputs.train)
        carry = Carry(
            clock=clock_at(0, 0),
            state=state,
            key=key,
            callbacks=None,
            metrics=self.empty_training(state, batch, inputs),
            latest={},
            signal=Signal.none(),
            samples=None if self.sampling is None else self.sampling.empty(),
        )
        shapes = jax.eval_shape(self._epoch_metrics, carry, inputs)
        self._check_columns(shapes)
        shapes |= jax.eval_shape(self.given_columns)
        shapes |= jax.eval_shape(self._reported, carry, shapes)
        latest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        ranking = self.empty_ranking(latest)  # names a metric that does not exist
        event = self.event(Point.EPOCH_END, carry, latest)
        history = None if self.capacity is None else History.empty(self.capacity, latest)
        callbacks = self.callbacks.init(event)
        more = {"callbacks": callbacks, "latest": latest, "history": history, "ranking": ranking}
        return self.placed(fresh_copy(carry._replace(**more)))

    def run(self, carry: Carry, inputs: Inputs, limit: Any) -> Carry:
        """Train until the clock reaches the limit or a callback's signal asks for the host.

        The result is the same to the bit however often, and wherever, a run is cut into calls.

        Args:
            carry: From `init`, or from an earlier `run`.
            inputs: The data and the schedule.
            limit: Int32 scalar, the step to stop at. Within an epoch the run stops at the end
                of a block (`Calendar.block`), so at or shortly after the limit.

        Returns:
            The carry. `signal.stop` says whether a callback has ended the run, `signal.save`
            whether one wants this carry saved.

        Raises:
            ValueError: If the loop has columns that the host measures: it would not come to it.
        """
        if self.columns:
            raise ValueError(
                f"{[name for name, _ in self.columns]} are measured by the host at the ends of "
                "epochs, which lie within this call: use feed.make_program, or drive `Epoch`."
            )
        call = _Call(
            inputs=inputs,
            calendar=Calendar.of(inputs.train, self.steps_per_epoch, self.last_step),
            keys=Keys.of(carry.key),
            limit=jnp.asarray(limit, jnp.int32),
        )
        # The save that the last call asked for has been seen by the host; a stop stays.
        carry = carry._replace(signal=carry.signal._replace(save=jnp.zeros_like(carry.signal.save)))

        def trip(state: _State) -> _State:
            order = self._order(state, call)
            new = self.freeze_stopped(state.carry, self._advance(state.carry, order, call))
            return _State(new, order, jnp.zeros((), bool))

        make_order = functools.partial(inputs.train.order, call.keys.shuffle, 0)
        order = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make_order))
        start = _State(carry, order, jnp.ones((), bool))
        end = lax.while_loop(lambda state: self._running(state.carry, call), trip, start)
        return self.placed(end.carry)

    def finish(self, carry: Carry) -> Carry:
        """Let the callbacks act at the end of the training, such as to restore the best.

        What is saved is the carry before this, so that a run can be continued.

        Args:
            carry: From the last `run`.

        Returns:
            The carry whose `state` is the result.
        """
        carry = carry._replace(state=carry.state.for_evaluation)
        return self.notify(Point.TRAIN_END, carry, carry.latest)

    # What follows is `run`, from the outside in.

    def _running(self, carry: Carry, call: _Call) -> jax.Array:
        stopped = self.all_members(carry.signal.stop != StopReason.NONE)
        asked = self.any_member(carry.signal.save)
        return (carry.clock.step < call.limit) & ~stopped & ~asked

    def _order(self, state: _State, call: _Call) -> Any:
        """Return the order of the running pass: made where the pass starts, or is re-entered.

        Made in one place of the program, as a sort takes long to compile.
        """
        train = call.inputs.train
        index, position = jnp.divmod(state.carry.clock.step, call.calendar.data_pass)
        make = lambda _: train.order(call.keys.shuffle, index)
        if state.order is None:
            return make(None)
        return apply_if(state.entered | (position == 0), make, state.order)

    def _advance(self, carry: Carry, order: Any, call: _Call) -> Carry:
        """Train a block, or the pass's last small batch; and end the epoch if it ends there.

        One loop for all blocks of a run: XLA's time grows with the depth of loops within loops
        that carry the train state.
        """

        def train(carry: Carry) -> Carry:
            carry = self._train(carry, order, call)
            at_end = call.calendar.ends_epoch(carry.clock.step)
            return apply_if(at_end, lambda carry: self.end(carry, call.inputs), carry)

        return self.begun(carry, call.calendar.epoch, train)

    def _train(self, carry: Carry, order: Any, call: _Call) -> Carry:
        data, calendar = call.inputs.train, call.calendar
        first = carry.clock.step
        position = first % calendar.data_pass
        rest = (transform_of(data), call.keys.step, call.inputs)

        def block(steps: Steps) -> Steps:
            batch_at = lambda i: data.batch(order, position + i)
            return self.train_block(steps, first, calendar.block, batch_at, *rest)

        def small_batch(steps: Steps) -> Steps:
            return self.train_block(steps, first, 1, lambda _: data.last_batch(order), *rest)

        steps = self.begin_steps(carry)
        if not data.remainder:
            return self.end_steps(carry, block(steps), first + calendar.block)
        at_last = position == calendar.full
        steps = apply_if(~at_last, block, steps)
        steps = apply_if(at_last, small_batch, steps)
        return self.end_steps(carry, steps, first + jnp.where(at_last, 1, calendar.block))

    def end(self, carry: Carry, inputs: Inputs) -> Carry:
        """End an epoch whose steps are done, over data on the device."""
        carry = self.begin_validation(carry, inputs.learning_rate)
        return self.end_epoch(carry, inputs.learning_rate, self._validated(carry, inputs))

    def _validated(self, carry: Carry, inputs: Inputs) -> dict[str, PyTree]:
        sets, state, epoch = as_sets(inputs.valid), carry.state.for_evaluation, carry.clock.epoch
        where = self.where_validated(carry, inputs.total_steps)
        of = lambda name, data: self.validate(state, data, where, name, epoch)
        return {name: of(name, data) for name, data in sets.items()}

    def _epoch_metrics(self, carry: Carry, inputs: Inputs) -> dict[str, Any]:
        trained = self.trained(carry, inputs.learning_rate)
        return trained | self.measured(self._validated(carry, inputs), carry.clock.epoch)

    def given_columns(self, values: Mapping[str, float] | None = None) -> dict[str, jax.Array]:
        """Return what the host has measured as `end_epoch` takes it: NaN where there is nothing."""
        dtype = jax.dtypes.canonicalize_dtype(float)
        known = {name: (values or {}).get(name, math.nan) for name, _ in self.columns}
        return jax.device_put({name: np.asarray(x, dtype) for name, x in known.items()})

    def _check_columns(self, metrics: Mapping[str, Any]) -> None:
        for name, _ in self.columns:
            if taken := sorted(k for k in metrics if k == name or k.startswith(f"{name}/")):
                raise ValueError(
                    f"a hook's column {name!r} has the name of other metrics, {taken}: call it "
                    f"another, such as 'my_{name}'."
                )

    def _reported(self, carry: Carry, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the callbacks add to the metrics: only their states, once made, can say."""
        event = self.event(Point.EPOCH_END, carry, metrics)
        columns = self.callbacks.report(self.callbacks.init(event))
        check_columns("a callback's report", columns)
        if known := sorted(columns.keys() & metrics.keys()):
            raise ValueError(f"a callback adds {known} to the metrics, and there are such already.")
        return columns


def form_of_batch(data: Any) -> Any:
    """Return the shapes of a batch of a source, as a step gets it."""

    # JAX remembers what it was asked of a function for as long as that lives: so, of this one.
    def first(data: Any) -> Any:
        key = jax.random.key(0)
        return transformed(transform_of(data), data.batch(data.order(key, 0), 0), key)

    return jax.eval_shape(first, data)


def make_loop(
    task: Task,
    optimizer: OptimizerLike,
    *,
    metrics: Mapping[str, MetricLike] | None = None,
    train_metrics: Mapping[str, MetricLike] | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    steps_per_epoch: int | None = None,
    last_step: int | None = None,
    options: StepOptions | None = None,
    capacity: int | None = None,
    sample_capacity: int = 0,
    keep_best: Retention | None = None,
    placement: Placement | None = None,
    axis_name: str | None = None,
    evaluations: Mapping[str, EvaluationOptions] | None = None,
    columns: Mapping[str, When] | None = None,
) -> Loop:
    """Make the compiled core of `fit`, for people who drive it themselves.

    Args:
        task: What is trained.
        optimizer: An Optax transformation, or a function that makes one of the inputs'
            learning rate; or a mapping of these, one for each top-level part of the parameters.
        metrics: Name to metric, computed in validation beside the loss.
        train_metrics: Name to metric, computed over the training batches beside the loss.
        callbacks: One callback, or a list of several: see `chain`.
        steps_per_epoch: Train steps to an epoch; None is one pass over the data.
        last_step: The step that ends the run, and with it a last epoch that may be shorter; None
            is the end of any epoch.
        options: Clipping, accumulation, loss scale, average and sampling of the train step.
        capacity: Epochs that there is room for: in `Carry.history`, and in callbacks that need
            room (`Event.capacity`). None keeps no history.
        sample_capacity: Samples that there is room for, where `options` samples train steps.
        keep_best: Asks for a save of each epoch that is among the best by this `Retention`; None
            asks for none.
        placement: Where batches and the train state lie on several devices, such as
            `ody.data_parallel()`; None leaves it to JAX.
        axis_name: The name of the population's axis where the loop runs under
            `jax.vmap(..., axis_name=...)` or `jax.shard_map`; None is a single run.
        evaluations: How sets of the validation data are measured that are not so at the end of
            every epoch, as a whole and by these metrics: by their names in `Inputs.valid`, that of
            a single one being "". `Evaluation.options` makes one.
        columns: Names of numbers that the host measures at the ends of epochs, and at which of
            them: metrics as the others are, for drivers that give `end_epoch` their values.

    Returns:
        The loop. Loops made with equal arguments are equal, and share one compiled program.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is not hashable.

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
    options = StepOptions() if options is None else options
    if options.log_every_n_steps is not None and sample_capacity < 1:
        raise ValueError(
            f"sample_capacity must be at least 1 where train steps are sampled every "
            f"{options.log_every_n_steps}, got {sample_capacity!r}."
        )
    if task.update is not None and options.loss_scale is not None:
        raise ValueError(
            "loss_scale= does not go with a step of your own (Task.update), which takes the "
            "gradients itself: scale the loss there, or leave it out."
        )
    started = lambda: task.init(jax.random.key(0))
    loop = Loop(
        loss=task.loss,
        evaluate=task.evaluate,
        update=task.update,
        optimizer=Optimizers.of(optimizer),
        callbacks=as_chain(callbacks),
        metrics=MetricSet.with_loss(metrics),
        train_metrics=MetricSet.with_loss(train_metrics),
        steps_per_epoch=steps_per_epoch,
        last_step=last_step,
        options=options,
        capacity=capacity,
        sample_capacity=sample_capacity,
        keep_best=keep_best,
        placement=(placement or OneDevice()).of(task.axis_names, started),
        axis_name=axis_name,
        evaluations=tuple((evaluations or {}).items()),
        columns=tuple((columns or {}).items()),
    )
    _check_hashable(loop)
    return loop


def _check_hashable(loop: Loop) -> None:
    """Raise TypeError unless a compiled program can be looked up by the loop.

    A model, a loss and an optimizer that can't be hashed are themselves (`ByValue`), as the next
    call is given them again; callbacks and options are made anew for each.
    """
    for field in dataclasses.fields(loop):
        if field.name in ("loss", "evaluate", "update", "optimizer"):
            continue
        try:
            hash(getattr(loop, field.name))
        except TypeError as error:
            raise TypeError(
                f"{field.name} must be hashable, so that its compiled program can be found again: "
                f"{error}. Arrays and dicts don't belong among a callback's attributes."
            ) from error


@compiled(static_argnums=0)
def init_compiled(loop: Loop, key, params, model_state, inputs: Inputs) -> Carry:
    """Call `Loop.init`, jitted."""
    return loop.init(key, params, model_state, inputs)


@compiled(static_argnums=0, donate_argnums=1)
def _run_jitted(loop: Loop, carry: Carry, inputs: Inputs, limit: Any) -> Carry:
    """Call `Loop.run`, jitted with the carry donated."""
    return loop.run(carry, inputs, limit)


def run_compiled(loop: Loop, carry: Carry, inputs: Inputs, limit: int) -> Carry:
    """Call `Loop.run`, compiled: equal loops share one program, whatever the limit.

    Args:
        loop: From `make_loop`.
        carry: From `Loop.init` or an earlier call; donated, so it can't be used again.
        inputs: The data and the schedule.
        limit: The step to stop at.

    Returns:
        The carry after.
    """
    return _run_jitted(loop, carry, inputs, jax.device_put(np.int32(limit)))


def run_jaxpr(loop: Loop, carry: Carry, inputs: Inputs) -> Any:
    """Return what `run_compiled` has traced `Loop.run` to."""
    return _run_jitted.jaxpr(loop, carry, inputs, jax.device_put(np.int32(0)))


@compiled(static_argnums=0)
def measure_compiled(
    loop: Loop, carry: Carry, sets: Mapping[str, IndexedSource], given: Inputs
) -> dict[str, Any]:
    """Measure sets of validation data with a carry as it is, jitted; the carry lives on."""
    state = loop.begin_validation(carry, given.learning_rate).state.for_evaluation
    where = loop.where_validated(carry, given.total_steps)
    of = lambda name, data: loop.validate_pass(state, data, where, name)
    return loop.measured({name: of(name, data) for name, data in sets.items()})


def to_validate(loop: Loop, carry: Carry, given: Inputs) -> tuple[TrainState, Told]:
    """Return the state that is validated with a carry as it is, and what it is told.

    It is the carry's own where nothing changes it, and no second one on the device.
    """
    same = carry.state.for_evaluation is carry.state
    if same and Point.VALIDATION_BEGIN not in loop.callbacks.points:
        return carry.state, _where_validated(loop, carry, given)
    return changed_to_validate(loop, carry, given)


@compiled(static_argnums=0)
def _where_validated(loop: Loop, carry: Carry, given: Inputs) -> Told:
    return loop.where_validated(carry, given.total_steps)


@compiled(static_argnums=0)
def changed_to_validate(loop: Loop, carry: Carry, given: Inputs) -> tuple[TrainState, Told]:
    """Return a copy of the state that is validated, and what it is told, jitted."""
    state = loop.begin_validation(carry, given.learning_rate).state.for_evaluation
    return state, loop.where_validated(carry, given.total_steps)


@compiled(static_argnums=0)
def end_compiled(loop: Loop, carry: Carry, inputs: Inputs) -> Carry:
    """Call `Loop.end`, jitted."""
    return loop.placed(loop.end(carry, inputs))


@compiled(static_argnums=0)
def finish_compiled(loop: Loop, carry: Carry) -> Carry:
    """Call `Loop.finish`, jitted; the carry lives on."""
    return loop.placed(loop.finish(carry))
