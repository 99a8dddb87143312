"""`fit`: plan, resume, run, result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any

from odyssey_jax._types import (
    Callback,
    MetricLike,
    Model,
    OptimizerLike,
    PyTree,
    ScheduleFn,
    StopReason,
    Task,
)
from odyssey_jax.callbacks import When
from odyssey_jax.feed import PREFETCH_BYTES
from odyssey_jax.fit._copied_logs import with_logs
from odyssey_jax.fit._hooks import Hook
from odyssey_jax.fit._interrupt import Interrupt, MaxTime
from odyssey_jax.fit._plan import (
    OnFailedWrite,
    OnInterrupt,
    Plan,
    Resume,
    RunChange,
    ScheduleChange,
    make_plan,
)
from odyssey_jax.fit._reports import Reports, close_writer
from odyssey_jax.fit._result import FitResult, make_result
from odyssey_jax.fit._resume import Start, start
from odyssey_jax.fit._shell import Shell
from odyssey_jax.fit._table import as_rows
from odyssey_jax.parallel import Placement, from_first, is_first, together
from odyssey_jax.store import Store
from odyssey_jax.train import Averaging, StepOptions
from odyssey_jax.transforms import LossScale
from odyssey_jax.writers import RunInfo, Writer


def fit(
    task: Task[Model],
    optimizer: OptimizerLike,
    train: Any,
    valid: Any = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    validate: When | None = None,
    learning_rate: ScheduleFn | float | Mapping[str, ScheduleFn | float] | None = None,
    metrics: Mapping[str, MetricLike] | None = None,
    train_metrics: Mapping[str, MetricLike] | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    valid_steps: int | None = None,
    prefetch_bytes: int = PREFETCH_BYTES,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    loss_scale: LossScale | None = None,
    average: Averaging | None = None,
    eval_params: Callable[[PyTree, PyTree], PyTree] | None = None,
    placement: Placement | None = None,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    resume: Resume = "latest",
    schedule_change: ScheduleChange = "refuse",
    run_change: RunChange = "refuse",
    writers: Sequence[Writer] | None = None,
    on_failed_write: OnFailedWrite = "raise",
    config: Mapping[str, Any] | None = None,
    log_every_n_steps: int | None = None,
    log_outputs: Sequence[str] | None = None,
    max_time: MaxTime | None = None,
    on_interrupt: OnInterrupt = "raise",
    hooks: Sequence[Hook] = (),
) -> FitResult[Model]:
    """Train a model: one compiled program, with validation, callbacks and checkpoints.

    An epoch is a pass over the data, or `steps_per_epoch` train steps. At its end, or where
    `validate` says, the model is validated, the callbacks act, and the history has a row. With a
    directory, the run is saved there as the `checkpoint` callback says and at its end, and the
    same call again goes on where it was: the finished run is, to the bit, the one that was
    never interrupted.

    Ctrl-C (SIGINT) and SIGTERM end the training, and so does `max_time`, as soon as the loop
    comes up: within about 1 s once it is compiled, or after 10 steps (`MAX_BLOCK`) where those
    take longer. The run is saved, the save is waited for, and then:

    - after Ctrl-C it raises `KeyboardInterrupt`, so that a sweep does not go on to its next run;
      what there is is its `result`. With `on_interrupt="return"` it is returned instead, with
      `StopReason.INTERRUPTED`;
    - after `max_time` it returns what there is, with `StopReason.TIME_BUDGET`. A script that is to
      end there too says `if result.exit_code: sys.exit(result.exit_code)`;
    - after SIGTERM it raises `SystemExit(143)`, after SIGHUP `SystemExit(129)`, which runs
      `finally` blocks and ends the program;
    - a handler of your own for the signal is called then, and if it returns, `fit` returns.

    A second signal acts at once, also while the compiled program runs: SIGTERM ends the process,
    and Ctrl-C raises `KeyboardInterrupt` when a save that is being written is committed. A script
    that ends with it still waits, as any that uses JAX, for the call of the compiled program that
    is under way; SIGTERM does not. What was committed stays. Without a directory nothing can be
    saved, and SIGTERM loses the run. The handlers are set in the main thread only, until the
    run is over, and those before are set again. A signal is acknowledged on stderr at once, also
    while XLA compiles.

    On several processes (`jax.distributed`) all of them call this with the same arguments and a
    `placement` over the devices of all, which is the default: each with the whole of what lies on
    the device, and with its share of what is read on the host. The directory is one that they
    share, on a file system or in a bucket. Process 0 writes the history, a signal to one ends the
    training of all at the same step, and an error in one is raised in all. The result's arrays lie
    over the mesh as in training.

    Args:
        task: What is trained: `nnx_task`, `linen_task`, `pure_task`, or a `Task`.
        optimizer: An Optax transformation, such as `optax.adamw(schedule)`; or a function that
            makes one of a learning rate, such as `optax.adamw`. With the latter the rate is
            data: it is logged, recorded, and another one needs no other program. Or a mapping of
            these, such as `{"encoder": optax.sgd, "head": optax.adam}`: one for each top-level
            part of the parameters (of an NNX model each attribute), or what a step of your own
            (`Task.update`) is given by name.
        train: The training data: an `ArrayDataset` (on the device), a `HostDataset` (on the host,
            or on a disk), a loader of another library, or anything that `as_source` takes.
            Several processes read a share of every batch each.
        valid: The validation data, of the same kinds; without it there are no "valid/..." metrics.
            Several sets by name, as in `{"clean": a, "noisy": b}`, have metrics
            "valid/clean/loss" and so on. An `Evaluation` of one has a cadence, a size and metrics
            of its own.
        epochs: The length of the run in epochs, at least 1; or else `steps`.
        steps: The length of the run in train steps, at least 1. Where it is no multiple of what
            lies between two evaluations, the last one comes early, at the run's end, from where
            the run can't be made longer; and it runs in blocks of fewer steps.
        validate: How often the model is validated and the history has a row: `every(steps=1000)`
            or `every(epochs=2)`; None is each epoch's end. With it an epoch stays what it is, for
            schedules in epochs, for `checkpoint` and hooks; what callbacks count (patience,
            cooldown, `min_epochs`, `Event.clock.epoch`), and the history's column "epoch", are
            evaluations.
        learning_rate: A schedule or a number, where `optimizer` is such a function. One that
            is written in epochs or in fractions of the run is resolved for this run; one in
            tokens must be resolved first, with `schedule.resolve(tokens_per_step=...)`. For a
            mapping of optimizers a mapping of rates; each is logged as "learning_rate/<name>".
        metrics: Name to metric, computed in validation beside the loss, as "valid/<name>".
        train_metrics: Name to metric, computed over the training batches beside the loss, as
            "train/<name>".
        callbacks: One callback, or a list of several: see `chain`.
        steps_per_epoch: Train steps to an epoch; None is one pass over the data, whose length
            must then be known.
        batch_size: Examples in a batch, where the data are plain arrays; in training they are
            shuffled then.
        valid_steps: Batches to validate with, of data that is read on the host; None is a pass.
            `Evaluation(batches=)` says it of one set, wherever it lies.
        prefetch_bytes: What the batches that are read ahead, on the host, may take there and on
            the devices, where a few are stacked and trained on in one call.
        clip_norm: As in `StepOptions`, which says what each option of the train step does.
        accumulate_steps: As in `StepOptions`.
        loss_scale: As in `StepOptions`.
        average: As in `StepOptions`.
        eval_params: As in `StepOptions`.
        placement: Where batches and the train state lie on several devices: `data_parallel`,
            `fully_sharded`, `sharded` (by rules, or as the model is annotated), `as_given` or
            `one_device`. None cuts each batch over all devices there are, with the whole train
            state on each, or says in one line that the batches can't be cut so; where
            `jax_default_device` is set, it is that one alone.
        seed: The run's root key is `jax.random.key(seed)`.
        directory: Where checkpoints and `metrics.jsonl` go, a path or the URL of a
            bucket (`gs://`, `s3://`); None keeps nothing.
        resume: What to go on from where the directory holds a run: "latest", "best", a step,
            or False to begin again. Later checkpoints than that one, none of which may be pinned,
            are deleted when the first of this call is committed; until then the run that they
            are of can go on. Where the latest or the best is corrupt, the run goes on from the
            next one that is good, with a `CheckpointSkippedWarning`, and replaces the other when
            it gets there.
        schedule_change: Whether a run may go on with another `learning_rate` than it was begun
            with: "refuse" it; "extend" the run, for which the past must agree and the future may
            differ; or "replace" it, whatever differs. Two schedules are compared at every
            update of the run. A plain function is recorded as its values at some 65 of
            those that the run then had; the schedule of an optimizer that is made already can't
            be compared at all.
        run_change: Whether a run may go on with another loss function, optimizer, data, cadence
            or size of an `Evaluation`, `config` or kind of random numbers than it was begun with:
            "refuse" it, naming what differs, or "accept" it. Functions are compared by the
            operations that JAX traces of them, data by a checksum (of rows spread over it where it
            is larger than 64 MiB).
        writers: Where the history goes while it grows; None is a progress line and, with a
            directory, `metrics.jsonl`.
        on_failed_write: What happens where a writer raises: "raise" it, when the run so far is
            saved, with what there is as the exception's `result`; or "warn" and go on without
            that writer.
        config: What else to record in the checkpoints' metadata; JSON.
        log_every_n_steps: As in `StepOptions`; the samples go to the writers and
            `FitResult.samples`.
        log_outputs: As in `StepOptions`.
        max_time: The longest that this call may train, from its beginning and compilation
            included: seconds greater than 0, or a `datetime.timedelta`; the last save comes
            on top. None for as long as it takes.
        on_interrupt: Whether `fit` shall "raise" `KeyboardInterrupt` after Ctrl-C, when the run is
            saved, or "return" what there is.
        hooks: Host code at marks of the run, from `hook`; on several processes each calls them.

    Returns:
        The model, why and when the run ended, its history, and its carry.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of its range, does not go with another, or is not the
            one that the run in the directory was begun with (of a learning rate, the message
            says where it first differs and by how much); or the first loss is not finite.
        CheckpointWriteError: If a save failed, at the next exit of the loop or at the end (on
            request a warning, see `checkpoint`); what was committed stays.
        CheckpointError: If the directory can't be written to, or holds a run of another model,
            optimizer or set of callbacks.
        SystemExit: After SIGTERM, as said above.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd, data, data, epochs=50, learning_rate=0.5,
        ...                  callbacks=ody.early_stopping("valid/loss", patience=3), writers=[])
        >>> result.reason, result.best_epoch, round(float(result.model), 3)
        ('no improvement for 3 epochs', 0, 1.0)
    """
    options = StepOptions(
        clip_norm,
        accumulate_steps,
        loss_scale,
        average,
        eval_params,
        log_every_n_steps,
        log_outputs,
    )
    plan = make_plan(
        task,
        optimizer,
        train,
        valid,
        epochs=epochs,
        steps=steps,
        validate=validate,
        learning_rate=learning_rate,
        metrics=metrics,
        train_metrics=train_metrics,
        callbacks=callbacks,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        valid_steps=valid_steps,
        prefetch_bytes=prefetch_bytes,
        options=options,
        placement=placement,
        seed=seed,
        directory=directory,
        resume=resume,
        schedule_change=schedule_change,
        run_change=run_change,
        writers=writers,
        on_failed_write=on_failed_write,
        config=config,
        max_time=max_time,
        on_interrupt=on_interrupt,
        hooks=hooks,
    )
    interrupt = Interrupt(plan.max_seconds)
    with contextlib.ExitStack() as stack:
        store = _open_store(plan, stack)
        stack.enter_context(together())
        stack.enter_context(interrupt)
        if store is not None:
            store.acquire()  # before anything is read that another run may change
        begun = start(plan, store, lambda: interrupt.is_asked_for)
        shell = Shell.of(plan, begun, store, interrupt)
        stack.callback(begun.program.close)
        for hook in plan.hooks:
            stack.callback(hook.close)
        reports = _open_writers(plan, begun, stack)
        try:
            carry = shell.train(begun.carry, begun.progress, reports)
        except Exception as error:
            so_far = lambda: make_result(task, begun, plan.length, shell.carry, nan, interrupt)
            _add_result(error, so_far)
            raise
        steps_per_second = from_first(shell.steps_per_second, "fit")
    interrupt.pass_on()
    result = make_result(task, begun, plan.length, carry, steps_per_second, interrupt)
    if interrupt.by_ctrl_c and plan.on_interrupt == "raise":
        saved = store is not None and result.steps
        where = f"saved in {plan.directory}" if saved else "not saved"
        error = KeyboardInterrupt(f"the run is {where}, at step {result.steps:,}")
        error.result = result  # pyright: ignore[reportAttributeAccessIssue]
        raise error
    return result


def _open_store(plan: Plan, stack: contextlib.ExitStack) -> Store | None:
    if plan.directory is None or plan.saving is None:
        return None
    how = plan.saving.retention.for_store(plan.length.epoch or plan.length.interval)
    how["on_failed_save"] = plan.saving.on_failed_save
    return stack.enter_context(Store(plan.directory / "checkpoints", **how))


def _add_result(error: Exception, make: Callable[[], FitResult]) -> None:
    """Put what the run came to on an exception, so that a failing writer costs no model."""
    with contextlib.suppress(Exception):
        result = make()
        if result.steps and result.stop_reason is not StopReason.FIRST_LOSS_NOT_FINITE:
            error.result = result  # pyright: ignore[reportAttributeAccessIssue]
            error.add_note(
                f"what the run came to in {result.steps:,} steps is this error's `result`"
            )


def _open_writers(plan: Plan, begun: Start, stack: contextlib.ExitStack) -> Reports:
    """Tell the writers where the run begins; on several processes the first one writes."""
    folder, writers = with_logs(plan.directory, plan.writers if is_first() else [])
    progress = begun.progress
    length, each = plan.length, plan.length.epoch or plan.length.interval
    info = RunInfo(
        directory=folder,
        epochs=-(-length.steps // each),
        rows=as_rows(progress.history()),
        samples=as_rows(progress.sampled()),
        step=progress.step,
        config=plan.config,
        steps_per_epoch=each,
        total_steps=length.steps,
        steps_per_row=length.interval,
        monitor=_monitor(plan),
        is_measured=progress.cadences,
        metrics_at_start=begun.metrics_at_start,
    )
    for writer in writers:
        stack.push(lambda kind, error, trace, writer=writer: close_writer(writer, error))
        writer.open(info)
    return Reports(writers, begun.program, progress, plan.on_failed_write)


def _monitor(plan: Plan) -> str | None:
    """Return the metric that says which epoch is best: the callbacks', or the checkpoints'."""
    tracked = (getattr(callback, "monitor", None) for callback in plan.callbacks.callbacks)
    found = next((name for name in tracked if isinstance(name, str)), None)
    kept = None if plan.saving is None else plan.saving.retention.monitor
    return found or kept or ("train/loss" if plan.valid is None else "valid/loss")
