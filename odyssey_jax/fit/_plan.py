"""The plan of a run: `fit`'s arguments, checked before anything on the disk is touched."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from odyssey_jax._checks import check_count, check_kind, check_words
from odyssey_jax._direction import better
from odyssey_jax._types import Callback, ScheduleFn, Task
from odyssey_jax.callbacks import (
    Chain,
    Checkpoint,
    Retention,
    as_chain,
    asks_to_save,
    chain,
    checkpoint,
    monitors_of,
)
from odyssey_jax.data import Calendar, Source
from odyssey_jax.feed import make_program
from odyssey_jax.fit._hooks import Hook, columns_of
from odyssey_jax.fit._interrupt import MaxTime, in_seconds
from odyssey_jax.fit._length import Length, length_of
from odyssey_jax.fit._sources import as_sources, check_measured, check_valid_steps, placed
from odyssey_jax.metrics import metric_modes
from odyssey_jax.parallel import Placement
from odyssey_jax.schedules import Schedule, check_learning_rate, constant
from odyssey_jax.store import BucketPath, as_directory
from odyssey_jax.train import (
    Evaluation,
    EvaluationOptions,
    Program,
    StepOptions,
    as_sets,
    is_transformation,
    prefix_of,
)
from odyssey_jax.writers import JsonLines, ProgressLine, Writer

Resume = Literal["latest", "best", False] | int
ScheduleChange = Literal["refuse", "extend", "replace"]
RunChange = Literal["refuse", "accept"]
OnFailedWrite = Literal["raise", "warn"]
OnInterrupt = Literal["raise", "return"]

# Room for rows comes in a few sizes, so that a run that is made longer keeps its program. No run
# begins with more than the last of them, 256 KiB a column: `epochs` may be a bound that is never
# reached. Few runs come to that many rows, and the program doubles the room of those that do.
_LEAST_CAPACITY = 128
_FIRST_ROOM = 2**16


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that `fit` was asked for, checked and immutable.

    Attributes:
        task: What is trained.
        optimizer: An Optax transformation, or a function that makes one of a rate.
        train: The training data.
        valid: The validation data, several sets of it by name, or None.
        evaluations: What is said of sets that are measured in their own way, by their names.
        valid_steps: Batches to validate with, of data that is read; None is a pass.
        prefetch_bytes: What the batches that are read ahead may take.
        length: How long the run is, and an epoch of it.
        calendar: How the run is cut: its epochs are rows of the history.
        schedule: The learning rate in steps, one for each optimizer where there are several, or
            None where the optimizer has its own.
        callbacks: Those of the program: all but the `checkpoint`.
        saving: When to save, and what is kept; None without a directory.
        metrics: Of the validation data.
        train_metrics: Of the training batches.
        options: Of the train step.
        placement: Where batches and carry lie.
        seed: Of the run's root key.
        directory: The run's, or None.
        resume: What to go on from.
        schedule_change: What may differ of the schedule on a resume.
        run_change: Whether the run may go on made of something else.
        writers: Where the history goes.
        on_failed_write: What happens where a writer raises.
        config: What is recorded beside.
        max_seconds: How long the call may take, or None.
        on_interrupt: What Ctrl-C comes to.
        hooks: Host code at marks of the run.
    """

    task: Task
    optimizer: Any
    train: Source
    valid: Source | Mapping[str, Source] | None
    evaluations: Mapping[str, Evaluation]
    valid_steps: int | None
    prefetch_bytes: int
    length: Length
    calendar: Calendar
    schedule: ScheduleFn | Mapping[str, ScheduleFn] | None
    callbacks: Chain
    saving: Checkpoint | None
    metrics: Mapping[str, Any] | None
    train_metrics: Mapping[str, Any] | None
    options: StepOptions
    placement: Placement
    seed: int
    directory: Path | BucketPath | None
    resume: Resume
    schedule_change: ScheduleChange
    run_change: RunChange
    writers: Sequence[Writer]
    on_failed_write: OnFailedWrite
    config: Mapping[str, Any]
    max_seconds: float | None
    on_interrupt: OnInterrupt
    hooks: Sequence[Hook]

    @property
    def last_step(self) -> int:
        """The step at which the run is complete."""
        return self.length.steps

    @property
    def updates(self) -> int:
        """The optimizer's updates of the whole run."""
        return self.last_step // self.options.accumulate_steps

    @property
    def keeps_best(self) -> Retention | None:
        """What the program asks for saves by: the best epochs, and nothing of the cadence.

        When else to save is data of the shell, so that another cadence needs no other program.
        """
        kept = None if self.saving is None else self.saving.retention
        if kept is None or not kept.keep_best or kept.monitor is None:
            return None
        return Retention(keep_best=kept.keep_best, monitor=kept.monitor, mode=kept.mode)

    @property
    def holds_pending_best(self) -> bool:
        """Whether the newest best may take the place of one that waits to be saved.

        Only where a single best is kept, and no callback may ask for a save of another carry.
        """
        one = self.saving is not None and self.saving.retention.keep_best == 1
        return one and not asks_to_save(self.callbacks)

    def program(self, saved: Mapping[str, Any] | None) -> Program:
        """Make the program, with at least as much room as a checkpoint's has.

        Args:
            saved: The metadata of the checkpoint to go on from, or None.
        """
        then = (saved or {}).get("program", {})
        every = self.options.log_every_n_steps
        samples = 0
        if every is not None:
            samples = _capacity(self.last_step // every + 1)  # the last one may not be complete
        return make_program(
            self.task,
            self.optimizer,
            self.train,
            self.valid,
            _each(lambda x: x.precise() if isinstance(x, Schedule) else x, self.schedule),
            metrics=self.metrics,
            train_metrics=self.train_metrics,
            # Of all sets: a metric of each knows by its name there which way is better.
            evaluations={
                name: self.evaluations[name].options
                if name in self.evaluations
                else EvaluationOptions()
                for name in as_sets(self.valid)
            },
            callbacks=self.callbacks,
            steps_per_epoch=self.calendar.epoch,
            last_step=self.calendar.last,
            total_steps=self.last_step,
            valid_steps=self.valid_steps,
            prefetch_bytes=self.prefetch_bytes,
            options=self.options,
            capacity=max(_capacity(self.length.rows), then.get("capacity", 0)),
            sample_capacity=max(samples, then.get("sample_capacity", 0)),
            keep_best=self.keeps_best,
            placement=self.placement,
            columns=columns_of(self.hooks),
        )


def _capacity(rows: int) -> int:
    """Return the rows to make room for at first: the next power of 2."""
    return min(max(_LEAST_CAPACITY, 1 << (rows - 1).bit_length()), _FIRST_ROOM)


# What is moved to the device before and after the training is meant to be. During it the shell
# moves explicitly (`device_put`, `device_get`), so that a `jax.transfer_guard` can watch.
@jax.transfer_guard("allow")
def make_plan(
    task: Any,
    optimizer: Any,
    train: Any,
    valid: Any,
    *,
    epochs: Any,
    steps: Any,
    validate: Any,
    learning_rate: Any,
    metrics: Mapping[str, Any] | None,
    train_metrics: Mapping[str, Any] | None,
    callbacks: Callback | Sequence[Callback] | None,
    steps_per_epoch: Any,
    batch_size: Any,
    valid_steps: Any,
    prefetch_bytes: Any,
    options: StepOptions,
    placement: Any,
    seed: Any,
    directory: Any,
    resume: Any,
    schedule_change: Any,
    run_change: Any,
    writers: Any,
    on_failed_write: Any,
    config: Any,
    max_time: MaxTime | None,
    on_interrupt: Any,
    hooks: Any,
) -> Plan:
    """Check the arguments of `fit`, and bring them into the form that the run takes.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of its range or does not go with another.
    """
    max_seconds = None if max_time is None else in_seconds(max_time)
    check_kind("task", task, Task, "nnx_task, linen_task or pure_task")
    train, valid, evaluations = as_sources(train, valid, batch_size)
    length = length_of(train, epochs, steps, steps_per_epoch, validate)
    evaluations = length.with_evaluations(evaluations)
    valid_steps = None if valid_steps is None else check_count("valid_steps", valid_steps, 1)
    check_valid_steps(valid, valid_steps, evaluations)
    prefetch_bytes = check_count("prefetch_bytes", prefetch_bytes, 1, most=math.inf)
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"seed must be an integer, got {seed!r}.")
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be an integer of 64 bits, got {seed!r}.")
    directory = None if directory is None else as_directory(directory)
    if writers is None:
        writers = [ProgressLine(), *([JsonLines()] if directory is not None else [])]
    writers = as_writers(writers)
    schedule = _as_schedule(optimizer, learning_rate)
    placement = placed(placement, train, valid)
    calendar = Calendar.of(train, length.interval, length.steps)
    accumulate = options.accumulate_steps
    if length.steps < accumulate:
        raise ValueError(
            f"accumulate_steps={accumulate} is more than the {length.steps} train steps of the "
            "run, which would end before the first update: choose fewer, or a longer run."
        )
    updates = None if length.epoch is None else length.epoch / accumulate
    total = max(round(length.steps / accumulate), 1)

    def resolved(schedule: ScheduleFn) -> ScheduleFn:
        if isinstance(schedule, Schedule):
            schedule = schedule.resolve(steps_per_epoch=updates, total_steps=total)
        check_learning_rate(schedule, max(length.steps // accumulate, 1))
        return schedule

    schedule = _each(resolved, schedule)
    if valid is None and metrics:
        raise ValueError(f"metrics={list(metrics)} are of the validation data: pass valid=.")
    own = [x for x in evaluations.values() if x.metrics is not None]
    if metrics and own and len(own) == len(as_sets(valid)):
        raise ValueError(
            f"metrics={list(metrics)} has no effect, since every set of the validation data has "
            "metrics= of its own: leave one of them out."
        )
    _check_resume(resume)
    if directory is None and resume != "latest":
        raise ValueError(f"resume={resume!r} needs a directory to resume from.")
    check_words("schedule_change", schedule_change, get_args(ScheduleChange))
    check_words("on_failed_write", on_failed_write, get_args(OnFailedWrite))
    check_words("on_interrupt", on_interrupt, get_args(OnInterrupt))
    check_words("run_change", run_change, get_args(RunChange))
    for name, change in (("schedule_change", schedule_change), ("run_change", run_change)):
        if directory is None and change != "refuse":
            raise ValueError(f"{name}={change!r} needs a directory with a run to go on with.")
    if not isinstance(config or {}, Mapping):
        raise TypeError(f"config must be a mapping such as {{'width': 128}}, got {config!r}.")
    try:
        json.dumps(dict(config or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config must be JSON, got {config!r}: {error}.") from error
    callbacks, saving = _without_checkpoint(callbacks, directory)
    if saving is not None:
        sets = {"train": train_metrics, "valid": metrics}
        for name in as_sets(valid):
            own = evaluations[name].metrics if name in evaluations else None
            sets[prefix_of(name)] = metrics if own is None else own
        modes = dict(metric_modes(sets))
        retention = saving.retention.with_mode(lambda name: better(name, modes))
        saving = dataclasses.replace(saving, retention=retention)
    monitors = [*monitors_of(callbacks), *([] if saving is None else [saving.retention.monitor])]
    hooks = length.with_hooks(_as_hooks(hooks))
    check_measured(evaluations, columns_of(hooks), monitors, length.rows)
    plan = Plan(
        task=task,
        optimizer=optimizer,
        train=train,
        valid=valid,
        evaluations=evaluations,
        valid_steps=valid_steps,
        prefetch_bytes=prefetch_bytes,
        length=length,
        calendar=calendar,
        schedule=schedule,
        callbacks=callbacks,
        saving=saving,
        metrics=metrics,
        train_metrics=train_metrics,
        options=options,
        placement=placement,
        seed=seed,
        directory=directory,
        resume=resume,
        schedule_change=schedule_change,
        run_change=run_change,
        writers=writers,
        on_failed_write=on_failed_write,
        config=dict(config or {}),
        max_seconds=max_seconds,
        on_interrupt=on_interrupt,
        hooks=hooks,
    )
    return dataclasses.replace(plan, hooks=tuple(x.bound(plan) for x in hooks))


def _check_resume(resume: Any) -> None:
    number = isinstance(resume, (int, np.integer)) and not isinstance(resume, bool)
    if not (number or resume is False or resume in ("latest", "best")):
        raise ValueError(f"resume must be 'latest', 'best', a step or False, got {resume!r}.")


def _without_checkpoint(
    callbacks: Callback | Sequence[Callback] | None, directory: Path | None
) -> tuple[Chain, Checkpoint | None]:
    """Take out what says when to save; with a directory there is one."""
    given = as_chain(callbacks).callbacks
    found = [callback for callback in given if isinstance(callback, Checkpoint)]
    if len(found) > 1:
        raise ValueError(f"there may be one checkpoint callback, got {found}.")
    if found and directory is None:
        raise ValueError(f"{found[0]!r} needs a directory to save to: pass fit(directory=...).")
    if directory is not None and not found:
        found = [checkpoint()]
    others = (callback for callback in given if not isinstance(callback, Checkpoint))
    return chain(*others), found[0] if found else None


def _as_hooks(hooks: Any) -> tuple[Hook, ...]:
    found = tuple(hooks) if isinstance(hooks, Iterable) else (hooks,)
    for one in found:
        if not isinstance(one, Hook):
            raise TypeError(
                f"hooks must be a list of what hook(function, when) makes, got {one!r}."
            )
    return found


def as_writers(writers: Any) -> list[Writer]:
    """Return the writers as a list.

    Raises:
        TypeError: If they are not a list, or one is not a writer.
        ValueError: If one is there twice.

    Example:
        >>> as_writers("metrics.csv")
        Traceback (most recent call last):
        TypeError: writers must be a list of writers, got 'metrics.csv'.
    """
    if isinstance(writers, str) or not isinstance(writers, Iterable):
        raise TypeError(f"writers must be a list of writers, got {writers!r}.")
    found = list(writers)
    for i, writer in enumerate(found):
        if inspect.isclass(writer):
            name = writer.__name__
            raise TypeError(f"writers: {name} is a class: pass a writer, such as {name}(...).")
        needed = ("open", "write", "close")
        if missing := [name for name in needed if not callable(getattr(writer, name, None))]:
            raise TypeError(
                f"writers: {writer!r} has no {', '.join(missing)}: a writer has open(run), "
                "write(rows, live) and close()."
            )
        if any(writer is other for other in found[:i]):
            raise ValueError(f"writers: {writer!r} is there twice, and would write each row twice.")
    return found


def _each(function: Callable[[ScheduleFn], Any], schedule: Any) -> Any:
    """Return a function of a schedule, or of each of several; None of None."""
    if isinstance(schedule, Mapping):
        return {name: function(x) for name, x in schedule.items()}
    return None if schedule is None else function(schedule)


def _as_schedules(optimizer: Mapping[str, Any], learning_rate: Any) -> dict[str, ScheduleFn] | None:
    """Return the rates of the optimizers that are functions of one, by name."""
    if not optimizer or not all(isinstance(name, str) for name in optimizer):
        raise ValueError(
            "optimizer must be a mapping from the names of the parameters' parts, at least one, "
            f"got {list(optimizer)}."
        )
    if not isinstance(learning_rate, Mapping | None):
        raise ValueError(
            f"learning_rate={learning_rate!r} must be a mapping as the optimizers are, with a rate "
            f"for each that is a function of one: {sorted(optimizer)}."
        )
    rates = learning_rate or {}
    if unknown := sorted(rates.keys() - optimizer.keys()):
        raise ValueError(
            f"learning_rate has {unknown}, and the optimizers are {sorted(optimizer)}."
        )
    found = {}
    for name, one in optimizer.items():
        try:
            found[name] = _as_schedule(one, rates.get(name))
        except (TypeError, ValueError) as error:
            raise type(error)(f"of {name!r}: {error}") from error
    return {name: x for name, x in found.items() if x is not None} or None


def _as_schedule(optimizer: Any, learning_rate: Any) -> Any:
    """Return the learning rate as a pytree to call; None if the optimizer has its own."""
    if isinstance(optimizer, Mapping):
        return _as_schedules(optimizer, learning_rate)
    if isinstance(learning_rate, Mapping):
        raise ValueError(
            f"learning_rate={learning_rate!r} is a mapping, and the optimizer is not: give a "
            "mapping of both, one for each top-level part of the parameters."
        )
    if is_transformation(optimizer):
        if learning_rate is not None:
            raise ValueError(
                f"learning_rate={learning_rate!r} has no effect on an optimizer that is made "
                "already: pass a function of the learning rate, such as optax.adamw or "
                "`lambda lr: optax.chain(..., optax.sgd(lr))`."
            )
        return None
    if not callable(optimizer):
        raise TypeError(
            "optimizer must be an optax.GradientTransformation or a function that makes one of "
            f"a learning rate, got {type(optimizer).__name__}."
        )
    if learning_rate is None:
        raise ValueError(
            f"optimizer={optimizer!r} is a function of a learning rate: pass learning_rate=, a "
            "schedule or a number."
        )
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if callable(learning_rate):
        return jax.tree_util.Partial(learning_rate)  # a bare function is not a pytree
    number = hasattr(learning_rate, "__float__") and np.ndim(learning_rate) == 0
    if isinstance(learning_rate, bool) or not number:
        raise ValueError(
            f"learning_rate must be a number or a schedule, got {learning_rate!r}. A rate for each "
            "group of parameters goes to its group, by optax.partition; a rule that follows a "
            "metric is a callback, adapt_rate."
        )
    try:
        rate = float(learning_rate)
    except OverflowError:
        rate = math.inf
    if not 0 <= rate < math.inf:
        raise ValueError(f"learning_rate must be finite and at least 0, got {learning_rate!r}.")
    return constant(rate)  # any kind of number is one program
