"""The shared vocabulary: what a callback, a task, an event and their pytrees are."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._direction import Mode as Mode
from odyssey_jax._direction import better
from odyssey_jax._opt_state import at_evaluation, evaluates_elsewhere
from odyssey_jax._pytree import node

PyTree = Any
Batch = PyTree
Transform = Callable[[Batch, Any], Batch]
Outputs = Mapping[str, Any]
ScheduleFn = Callable[[Any], Any]
# What a user's loss returns, and the model that it is given.
Loss = ArrayLike | tuple[ArrayLike, Outputs]
Model = TypeVar("Model")
# With more by name; the second, for lambdas, whose types mypy infers from no other.
LossFn = Callable[Concatenate[Model, Batch, ...], Loss] | Callable[[Model, Batch], Loss]


class Transformation(Protocol):
    """What Optax calls a gradient transformation, `optax.MultiSteps` included."""

    @property
    def init(self) -> Callable[..., Any]:
        """Parameters to the first state."""
        ...

    @property
    def update(self) -> Callable[..., Any]:
        """Gradients and state to updates and the next state."""
        ...


class HasTransformation(Protocol):
    """An `nnx.Optimizer`."""

    @property
    def tx(self) -> Any:
        """Its transformation."""
        ...


class MetricLike(Protocol):
    """What is taken as a metric: a `Metric`, one of `nnx.metrics`, a class of clu or metrax."""

    @property
    def compute(self) -> Callable[..., Any]:
        """Return the value of the metric."""
        ...


Optimizer = Transformation | HasTransformation | Callable[[Any], Transformation]
OptimizerLike = Optimizer | Mapping[str, Optimizer]
Update = Callable[..., tuple["TrainState", Outputs]]

# What NaN counts as.
NanPolicy = Literal["bad", "ignore"]


class Clock(NamedTuple):
    """Where a run is: the one part of the carry that a population shares.

    Attributes:
        step: Int32 scalar, the number of train steps done; also the index of the next one.
        epoch: Int32 scalar, the number of epochs done; also the index of the running one. Where
            `fit(validate=...)` is given, it counts evaluations.
    """

    step: Any
    epoch: Any


def cadences_of(name: str, known: Iterable[str]) -> list[str]:
    """Return the names among the known that say when a metric is measured: its own, or prefixes.

    Example:
        >>> cadences_of("valid/ood/loss", ["valid", "valid/ood", "bleu"])
        ['valid', 'valid/ood']
        >>> cadences_of("valid/bleu", ["valid", "valid/bleu"])
        ['valid/bleu']
    """
    known = list(known)
    return [name] if name in known else [x for x in known if name.startswith(f"{x}/")]


class ModelState(NamedTuple):
    """The model state of a task that trains a part of its parameters, by `trainable=`.

    Attributes:
        updated: What the model itself updates, as without `trainable=`.
        untrained: The other parameters, and in NNX all other variables. No average is taken of
            them; what the loss assigns to one is carried.
    """

    updated: PyTree
    untrained: PyTree


class TrainState(NamedTuple):
    """What a train step transforms.

    Attributes:
        params: Pytree of arrays, what the optimizer updates.
        model_state: Pytree of arrays that the model itself updates (batch statistics); a
            `ModelState` where the task trains a part of its parameters.
        opt_state: The optimizer's state.
        average: An average of the parameters and the model state, where `fit(average=...)` or
            `make_loop` is told to keep one, with `params` and `model_state` of its own.
    """

    params: PyTree
    model_state: PyTree = None
    opt_state: PyTree = None
    average: Any = None

    @property
    def for_evaluation(self) -> TrainState:
        """The state whose parameters are validated and returned: the average's, if any.

        They have the dtypes of those that are trained, which the average may exceed. Those of a
        schedule-free optimizer are what `optax.contrib.schedule_free_eval_params` gives, those of
        `optax.lookahead` the slow ones, and those of `optax.contrib.sam` are not perturbed.
        """
        if self.average is None:
            if not evaluates_elsewhere(self.opt_state):
                return self
            params, opt_state = at_evaluation(self.params, self.opt_state)
            return self._replace(params=params, opt_state=opt_state)
        as_one = lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype)
        like = lambda means, trained: jax.tree.map(as_one, means, trained)
        means = like(self.average.model_state, averaged_part(self.model_state))
        if isinstance(means, ModelState):
            means = means._replace(untrained=self.model_state.untrained)
        return self._replace(params=like(self.average.params, self.params), model_state=means)


def averaged_part(model_state: PyTree) -> PyTree:
    """Return a model state without what is untrained, of which no average is taken."""
    is_one = isinstance(model_state, ModelState)
    return model_state._replace(untrained=None) if is_one else model_state


def real_dtype(x: Any) -> Any:
    """Return what a metric is kept in: float64 where it is that (JAX's x64), else float32."""
    return jnp.float64 if jnp.result_type(x) == jnp.float64 else jnp.float32


class Point(enum.Enum):
    """A point in a run's life at which a callback can act.

    `LOSS_NOT_FINITE` is a train step whose loss is NaN or infinite: see `Event`. It is told at
    the end of the block of at most 10 steps that it lies in; if there are several in a block, the
    first one is told.
    """

    TRAIN_BEGIN = "train_begin"
    EPOCH_BEGIN = "epoch_begin"
    LOSS_NOT_FINITE = "loss_not_finite"
    VALIDATION_BEGIN = "validation_begin"
    VALIDATION_END = "validation_end"
    EPOCH_END = "epoch_end"
    TRAIN_END = "train_end"


class StopReason(enum.IntEnum):
    """Why a run ended: an integer in the carry, a sentence for people.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.StopReason.NO_IMPROVEMENT.sentence(10)
        'no improvement for 10 epochs'
    """

    NONE = 0
    COMPLETED = 1
    NO_IMPROVEMENT = 2
    NOT_FINITE = 3
    FIRST_LOSS_NOT_FINITE = 4
    REQUESTED = 5
    INTERRUPTED = 6
    TIME_BUDGET = 7
    THRESHOLD = 8
    DIVERGED = 9
    MAX_STEPS = 10

    def sentence(self, detail: int = 0, unit: str = "epoch") -> str:
        """Return the reason in words.

        Args:
            detail: The number that belongs to the reason (`Signal.detail`).
            unit: What a row of the history is called, of which some reasons count.

        Returns:
            A phrase without a capital or a full stop.
        """
        return _SENTENCES[self].format(detail, "" if detail == 1 else "s", unit)


_SENTENCES = {
    StopReason.NONE: "still running",
    StopReason.COMPLETED: "completed all {0} {2}{1}",
    StopReason.NO_IMPROVEMENT: "no improvement for {0} {2}{1}",
    StopReason.NOT_FINITE: "a metric or a parameter is not finite at step {}",
    StopReason.FIRST_LOSS_NOT_FINITE: "the loss of the first train step is not finite",
    StopReason.REQUESTED: "a callback asked to stop",
    StopReason.INTERRUPTED: "interrupted by a signal",
    StopReason.TIME_BUDGET: "the time budget is spent",
    StopReason.THRESHOLD: "reached the stopping threshold after {0} {2}{1}",
    StopReason.DIVERGED: "diverged at step {}",
    StopReason.MAX_STEPS: "completed all {} step{}",
}


class Signal(NamedTuple):
    """What a callback asks of the loop.

    Attributes:
        stop: Int32 scalar, a `StopReason`; `StopReason.NONE` to go on.
        detail: Int32 scalar, the number in the reason's sentence.
        save: Bool scalar, whether the shell is to save the carry.
        state: The train state to go on with, or None to leave it as it is. This is the one
            door through which a callback changes the training.
    """

    stop: jax.Array
    detail: jax.Array
    save: jax.Array
    state: TrainState | None = None

    @classmethod
    def none(cls) -> Signal:
        """Ask for nothing.

        Returns:
            The neutral element of `merge`.
        """
        return cls(
            jnp.asarray(StopReason.NONE, jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
        )

    @classmethod
    def stop_if(
        cls, condition: ArrayLike, reason: ArrayLike = StopReason.REQUESTED, detail: ArrayLike = 0
    ) -> Signal:
        """Ask to stop where a condition holds.

        Args:
            condition: Bool scalar.
            reason: Int32 scalar, a `StopReason`.
            detail: Int32 scalar, the number in the reason's sentence.

        Returns:
            The signal, which otherwise asks for nothing.
        """
        stop, detail = jnp.asarray(reason, jnp.int32), jnp.asarray(detail, jnp.int32)
        return cls(
            jnp.where(condition, stop, jnp.int32(StopReason.NONE)),
            jnp.where(condition, detail, jnp.int32(0)),
            jnp.zeros((), bool),
        )

    def merge(self, later: Signal) -> Signal:
        """Merge two signals: the first reason to stop wins, saves are or-ed.

        Args:
            later: The signal given after this one.

        Returns:
            One signal for both; the later train state, if there is one, replaces the earlier.
        """
        first = self.stop != StopReason.NONE
        return Signal(
            stop=jnp.where(first, self.stop, later.stop),
            detail=jnp.where(first, self.detail, later.detail),
            save=self.save | later.save,
            state=self.state if later.state is None else later.state,
        )


@node
@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback sees at a point of a run.

    Attributes:
        metrics: Name to value (scalars, or arrays such as a confusion matrix); what is known
            at this point. At `Point.LOSS_NOT_FINITE` that is "train/loss", NaN whatever the
            step's own was.
        clock: The step and epoch. At `Point.EPOCH_END` the epoch is the index of the one that
            ends, and the step the number of steps done; at `Point.LOSS_NOT_FINITE` it is that
            number at the end of the step in question.
        state: A view of the train state, to take a snapshot from.
        point: Which point of the run this is (static).
        capacity: The most epochs a callback needs room for (static), or None if unknown.
        modes: Pairs of a metric's name and whether "min" or "max" of it is better (static), of
            the metrics that say so themselves.
        measured: Whether validation data with a cadence of its own (`Evaluation`) was measured,
            bool scalars by prefix, such as "valid/ood", and whether each column of a hook was, by
            its name: see `where_measured`.
    """

    metrics: Mapping[str, Any]
    clock: Clock = Clock(0, 0)
    state: TrainState = TrainState(None)
    point: Point = dataclasses.field(default=Point.EPOCH_END, metadata={"static": True})
    capacity: int | None = dataclasses.field(default=None, metadata={"static": True})
    modes: tuple[tuple[str, Mode], ...] = dataclasses.field(default=(), metadata={"static": True})
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def metric(self, name: str) -> jax.Array:
        """Look up a scalar metric by name.

        Args:
            name: Such as "valid/loss".

        Returns:
            float32 scalar; float64 of a metric that is, where JAX's x64 is enabled.

        Raises:
            ValueError: If there is no such metric, or it is not a scalar. The message names those
                that exist.
        """
        scalars = {k: v for k, v in self.metrics.items() if jnp.ndim(v) == 0}
        if name not in scalars:
            shape = f" of shape {jnp.shape(self.metrics[name])}" if name in self.metrics else ""
            what = f"metric {name!r}{shape} can't be monitored" if shape else f"no metric {name!r}"
            raise ValueError(f"{what}; the scalar metrics are: {', '.join(sorted(scalars))}")
        return jnp.asarray(scalars[name], real_dtype(scalars[name]))

    def where_measured(self, name: str, new: PyTree, old: PyTree) -> PyTree:
        """Choose what follows from a metric, where it was measured in this epoch.

        A metric of an `Evaluation`, or of a hook, that was not measured is NaN, and so is one that
        came to it: a callback that monitors one skips the epoch in the first case only.

        Args:
            name: The metric's name, such as "valid/ood/loss".
            new: Pytree, where it was measured.
            old: The same, or values that broadcast, where it was not.

        Returns:
            `new` as it is, for a metric that is measured in every epoch; else of each leaf the one
            or the other.

        Example:
            >>> import odyssey_jax as ody
            >>> event = ody.Event({"valid/ood/loss": float("nan")}, measured={"valid/ood": False})
            >>> int(event.where_measured("valid/ood/loss", 4, 3))
            3
            >>> event.where_measured("valid/loss", 4, 3)
            4
        """
        for which in cadences_of(name, self.measured):
            choose = lambda a, b, now=self.measured[which]: jnp.where(now, a, b)
            new = jax.tree.map(choose, new, old)
        return new

    def mode(self, name: str) -> Mode:
        """Return whether "min" or "max" of a metric is better: as it says itself, or its name.

        Args:
            name: such as "valid/loss".

        Returns:
            The mode.

        Raises:
            ValueError: it is not known.

        Example:
            >>> import odyssey_jax as ody
            >>> ody.Event({}).mode("valid/accuracy")
            'max'
        """
        return better(name, dict(self.modes))


@runtime_checkable
class Callback(Protocol):
    """A pair of pure functions over pytree state: to a loop what optax's are to an optimizer.

    Hyper-parameters live in the callback, which is hashable and compared by value; arrays live
    in its state, whose structure, shapes and dtypes `init` gives once and for all.

    A callback may say more about itself by members that it can leave out. Whoever wraps another
    callback delegates them by the functions of `odyssey_jax.callbacks` that read them:

    - `asks_to_save: bool`, whether `update` may ever set `Signal.save` (`asks_to_save(callback)`,
      by default True). Where nothing but `checkpoint` does, `fit` can hold back the newest best
      while the save before is still being written.
    - `asks_to_stop: bool`, whether `update` may ever stop the run (`asks_to_stop(callback)`, by
      default True). Those that never do may change on resume, and a run that had stopped stays so.
    - `restore_best: bool`, whether it puts the best parameters into the result at
      `Point.TRAIN_END` (`restores_best(callback)`, by default False). One of a run may.
    - `bests(state) -> Sequence[Tracked]`, the best epochs that it holds (`bests_of(callback,
      state)`, by default each `Best` in its state), for `FitResult.bests`.
    - `signature() -> Any`, a JSON value of its name and hyper-parameters, the same in every
      process (`callback_signature(callback)`, by default its class's name and its fields).
    """

    @property
    def points(self) -> Sequence[Point]:
        """The points at which `update` wants to be called."""
        ...

    def init(self, event: Event, /) -> PyTree:
        """Make the first state; of the event only the train state means something."""
        ...

    def update(self, state: PyTree, event: Event, /) -> tuple[PyTree, Signal]:
        """Take the state past an event; also return what is asked of the loop."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A callback that adds columns to the history: what it knows, from one epoch to the next."""

    def report(self, state: PyTree, /) -> Mapping[str, Any]:
        """Return name to scalar, always under the same names; asked before an epoch's `update`."""
        ...


class Task(NamedTuple, Generic[Model]):
    """What is trained: three pure functions, and the way back to the user's own model.

    `nnx_task`, `linen_task` and `pure_task` make one from a model and a loss.

    Attributes:
        init: `key -> (params, model_state)`.
        loss: `(params, model_state, batch, key) -> (loss, (model_state, outputs))`, in training
            mode; the loss is the scalar mean over the batch, `outputs` a dict for the metrics.
            It may have further parameters `step` and `progress`, as `Told` has them.
        evaluate: `(params, model_state, batch) -> outputs` with at least "loss", in
            evaluation mode. It may have further parameters `key`, `step` and `progress`.
        rebuild: `(params, model_state) -> model` in the user's own terms.
        update: `(state, batch, step, optimizer) -> (state, outputs)`, a train step of one's own;
            None is `ody.train.train_step`, which is of the same form. It is given the
            `TrainState`, an `ody.train.Step`, which has the loss and its gradient, and the Optax
            transformation, or a mapping of them, which `fit` was given, each with the clipping and
            the accumulation. Of a mapping `state.opt_state` is one too (`Parts`). The state that
            it returns must be of the same form; the outputs must have "loss".
        axis_names: Returns what the axes of the parameters are annotated with, by their paths: for
            a placement by annotations (`ody.sharded`).
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, Outputs]]]
    evaluate: Callable[..., Outputs]
    rebuild: Callable[[PyTree, PyTree], Model] = lambda params, model_state: params
    update: Update | None = None
    axis_names: Callable[[], Mapping[str, Sequence[str | None]]] = dict

    def __repr__(self) -> str:
        named = (f"{name}={_name_of(part)}" for name, part in self._asdict().items())
        return f"Task({', '.join(named)})"


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


@node
@dataclasses.dataclass(frozen=True)
class Told:
    """Where a run is, as a task's functions are told by the names of their parameters.

    Attributes:
        key: Typed PRNG key: of the train step; in validation one that is made of the run's and
            the batch's index, so that each batch draws its own, and the same in every epoch.
        step: Int32 scalar, the index of the train step; in validation the steps done. None where
            it is not known, as in `evaluate` by default.
        total_steps: Int32 scalar, the steps of the whole run; None where it is not known.
    """

    key: jax.Array
    step: Any = None
    total_steps: Any = None

    @property
    def progress(self) -> jax.Array | None:
        """The share of the run's train steps that are done, a float32 in [0, 1)."""
        if self.step is None or self.total_steps is None:
            return None
        share = jnp.asarray(self.step, jnp.float32) / jnp.asarray(self.total_steps, jnp.float32)
        return jnp.minimum(share, 1 - 2.0**-24)


def asks_for(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return what of a `Told` a task's function asks for, by the names of its parameters.

    One that hands it on to another says so itself, in an attribute `asks_for`.
    """
    own = getattr(function, "asks_for", None)
    if own is not None:
        return own
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a built-in
        return ()
    return tuple(name for name in ("key", "step", "progress") if name in parameters)


def told(
    function: Callable[..., Any], where: Told, names: Sequence[str] = ("key", "step", "progress")
) -> dict[str, Any]:
    """Return what a task's function asks for by name, of these.

    Raises:
        ValueError: If it asks for what is not known.
    """
    asked = (name for name in asks_for(function) if name in names)
    return {name: known(name, getattr(where, name)) for name in asked}


def known(name: str, value: Any) -> Any:
    """Return what a loss is told; raise ValueError if it is not known."""
    if value is None:
        raise ValueError(
            f"the loss asks for {name!r}, which is not known here. `fit` knows it; tell a loop of "
            "your own by ody.train.Inputs(total_steps=...), and ody.evaluate by step= and "
            "total_steps=."
        )
    return value
