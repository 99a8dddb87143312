"""The shell around the compiled loop: it feeds, saves, writes and shows, and decides nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from odyssey_jax._types import Callback, ScheduleFn, Task
from odyssey_jax.callbacks import Chain, Checkpoint, chain, checkpoint, log
from odyssey_jax.data import ArrayDataset
from odyssey_jax.fit._arguments import (
    as_schedule,
    check_config,
    check_kinds,
    check_seed,
    check_sharding,
    in_steps,
    updates_of,
    with_all_digits,
)
from odyssey_jax.fit._as_writers import as_writers
from odyssey_jax.fit._interrupt import Interrupt, MaxTime
from odyssey_jax.fit._result import FitResult, history_of, make_result, rows
from odyssey_jax.fit._resume import (
    Resume,
    check_identity,
    fresh_carry,
    give_up_later,
    identity,
    restore,
    step_to_resume,
)
from odyssey_jax.fit._samples import record, sample_rows, sampling_for
from odyssey_jax.fit._schedule_change import (
    ScheduleChange,
    check_schedule,
    check_schedule_change,
    schedule_record,
)
from odyssey_jax.fit._session import Session
from odyssey_jax.fit._table import capacity_for
from odyssey_jax.parallel._agree import from_first, is_first, together
from odyssey_jax.parallel._replicate import check_alike, replicate
from odyssey_jax.store import Store
from odyssey_jax.train import Averaging, Inputs, check_accumulate_steps, make_loop
from odyssey_jax.transforms import LossScale
from odyssey_jax.writers import JsonLines, ProgressLine, RunInfo, Writer


def fit(
    task: Task,
    optimizer: Any,
    train: ArrayDataset,
    valid: ArrayDataset | None = None,
    *,
    epochs: int,
    learning_rate: ScheduleFn | float | None = None,
    metrics: Mapping[str, Any] | None = None,
    train_metrics: Mapping[str, Any] | None = None,
    callbacks: Callback | None = None,
    steps_per_epoch: int | None = None,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    loss_scale: LossScale | None = None,
    average: Averaging | None = None,
    batch_sharding: jax.sharding.NamedSharding | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    resume: Resume = "latest",
    schedule_change: ScheduleChange = "refuse",
    writers: Sequence[Writer] | None = None,
    config: Mapping[str, Any] | None = None,
    log_every_n_steps: int | None = None,
    log_outputs: Sequence[str] | None = None,
    max_time: MaxTime | None = None,
) -> FitResult:
    """Trains a model: one compiled program, with validation, callbacks and checkpoints.

    An epoch is `steps_per_epoch` train steps, then validation, then the callbacks. With a
    directory, the run is saved there as the `checkpoint` callback says and at its end, and the
    same call again goes on where it was: the finished run is, to the bit, the one that was
    never interrupted.

    Ctrl-C (SIGINT) and SIGTERM end the training, and so does `max_time`, as soon as the loop
    comes up: within about a second once it is compiled, or after ten steps where those take
    longer. The run is saved, the save is waited for, and then:

    - after Ctrl-C or `max_time`, `fit` returns what there is, with `StopReason.INTERRUPTED` or
      `StopReason.TIME_BUDGET`. A script that shall end there too says
      `if result.exit_code: sys.exit(result.exit_code)`;
    - after SIGTERM it raises `SystemExit(143)`, which runs `finally` blocks and ends the program;
    - a handler of your own for the signal is called then, and if it returns, `fit` returns.

    A second signal acts at once, also while the compiled program runs: SIGTERM ends the process,
    and Ctrl-C raises `KeyboardInterrupt` when a save that is being written is committed. A script
    that ends with it still waits, as any that uses JAX, for the call of the compiled program that
    is under way; SIGTERM does not. What was committed stays. Without a directory nothing can be
    saved, and SIGTERM loses the run. The handlers are set while there is something to train, in
    the main thread only, and those before are set again.

    On several processes (`jax.distributed`) all of them call this with the same arguments, the
    whole data included, and a `batch_sharding` over the devices of all; the directory is one
    that they share. Process 0 writes the history, a signal to one ends the training of all at
    the same step, and an error in one is raised in all. The result's arrays are replicated over
    the mesh.

    Args:
        task: what is trained: `nnx_task`, `linen_task`, `pure_task`, or a `Task`.
        optimizer: an Optax transformation, such as `optax.adamw(schedule)`; or a function that
            makes one of a learning rate, such as `optax.adamw`. With the latter the rate is
            data: it is logged, recorded, and another one needs no other program.
        train: the training data.
        valid: the validation data; without it there are no "valid/..." metrics.
        epochs: the epochs after which the run is complete, at least 1.
        learning_rate: a schedule or a number, where `optimizer` is such a function. One that
            is written in epochs or in fractions of the run is resolved for this run; one in
            tokens must be resolved first, with `schedule.resolve(tokens_per_step=...)`.
        metrics: name to metric, computed in validation beside the loss, as "valid/<name>".
        train_metrics: name to metric, computed over the training batches beside the loss, as
            "train/<name>".
        callbacks: one callback; `chain` joins several.
        steps_per_epoch: train steps to an epoch; None is one pass over the data.
        clip_norm: the largest global norm of a gradient; None does not clip.
        accumulate_steps: train steps whose mean gradient makes one update.
        loss_scale: from `loss_scale`, for a task of `mixed_precision` in float16; None scales
            nothing.
        average: `exponential_average(...)` or `equal_average(...)` of the parameters, which is
            then what is validated, tracked as the best, and given back; None keeps none.
        batch_sharding: how a batch is laid out over devices, such as
            `NamedSharding(mesh, P("data"))`; parameters are then replicated over its mesh.
            Needed on several processes, as said above.
        seed: the run's root key is `jax.random.key(seed)`.
        directory: where checkpoints and `metrics.jsonl` go; None keeps nothing.
        resume: what to go on from where the directory holds a run: "latest", "best", a step,
            or False to begin again. Later checkpoints than that one, none of which may be pinned,
            are deleted when the first of this call is committed; until then the run that they
            are of can go on. Where the latest or the best is corrupt, the run goes on from the
            next one that is good, with a `CheckpointSkippedWarning`, and replaces the other when
            it gets there.
        schedule_change: whether a run may go on with another `learning_rate` than it was begun
            with: "refuse" it; "extend" the run, for which the past must agree and the future may
            differ; or "replace" it, whatever differs. Two schedules are compared at every
            update of the run. A plain function is recorded as its values at some 65 of
            those that the run then had; the schedule of an optimizer that is made already can't
            be compared at all.
        writers: where the history goes while it grows; None is a progress line and, with a
            directory, `metrics.jsonl`.
        config: what else to record in the checkpoints' metadata; JSON.
        log_every_n_steps: train steps from one sample of `log_outputs` to the next, for the
            writers and `FitResult.samples`; None samples none. The samples are kept in the carry,
            so they cost no transfer, and none is lost or doubled by a resume.
        log_outputs: the scalar outputs of a train step that are sampled: "loss", those of the
            loss function, "learning_rate", "grad_norm" (before clipping), "update_norm",
            "param_norm", "update_ratio" (the update's norm over the parameters'); None is the
            loss and the gradient's norm. The norms may be averaged over an epoch as well:
            `train_metrics={"norm": ody.Mean("grad_norm")}`.
        max_time: the longest that this call may train, from its beginning and compilation
            included: seconds greater than 0, or a `datetime.timedelta`; the last save comes
            on top. None for as long as it takes.

    Returns:
        The model, why and when the run ended, its history, and its carry.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of its range, does not go with another, or is not the
            one that the run in the directory was begun with (of a learning rate, the message
            says where it first differs and by how much); or the first loss is not finite.
        CheckpointWriteError: a save failed, at the next exit of the loop or at the end (on
            request a warning, see `checkpoint`); what was committed stays.
        CheckpointError: the directory can't be written to, or holds a run of another model,
            optimizer or set of callbacks.
        SystemExit: after SIGTERM, as said above.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd, data, data, epochs=50, learning_rate=0.5,
        ...                  callbacks=ody.early_stopping("valid/loss", patience=3), writers=[])
        >>> result.reason, result.best_epoch, round(float(result.model), 3)
        ('no improvement for 3 epochs', 0, 1.0)
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be an integer of at least 1, got {epochs!r}.")
    interrupt = Interrupt(max_time)
    check_kinds(task=task, train=train, valid=valid, average=average, loss_scale=loss_scale)
    check_seed(seed)
    check_accumulate_steps(accumulate_steps)
    directory = None if directory is None else Path(directory)
    if writers is None:
        writers = [ProgressLine(), *([JsonLines()] if directory is not None else [])]
    writers = as_writers(writers)
    schedule = as_schedule(optimizer, learning_rate)
    check_sharding(batch_sharding, train)
    run_identity = identity(train, seed, steps_per_epoch, accumulate_steps)
    updates = updates_of(epochs, run_identity["steps_per_epoch"], accumulate_steps)
    schedule = in_steps(schedule, run_identity["steps_per_epoch"], epochs, accumulate_steps)
    if valid is None and metrics:
        raise ValueError(f"metrics={list(metrics)} are of the validation data: pass valid=.")
    if directory is None and resume != "latest":
        raise ValueError(f"resume={resume!r} needs a directory to resume from.")
    check_schedule_change(schedule_change)
    if directory is None and schedule_change != "refuse":
        raise ValueError(
            f"schedule_change={schedule_change!r} needs a directory with a run to go on with."
        )
    check_config(config)
    recorded, saving = _with_log_and_checkpoint(callbacks, directory)
    with contextlib.ExitStack() as stack:
        store = saved = None
        if directory is not None and saving is not None:
            how = saving.retention.for_store(run_identity["steps_per_epoch"])
            how["on_failed_save"] = saving.on_failed_save
            store = stack.enter_context(Store(directory / "checkpoints", **how))
        stack.enter_context(together())
        if store is not None:
            store.acquire()  # before anything is read that another run may change
            saved = _find_run(store, resume, run_identity)
        if saved is not None:
            done = saved["step"] // accumulate_steps
            check_schedule(saved, schedule, schedule_change, directory, done, updates)
        sampled = sampling_for(
            log_every_n_steps,
            log_outputs,
            epochs * run_identity["steps_per_epoch"],
            saved,
            directory,
        )
        loop = make_loop(
            task,
            optimizer,
            metrics=metrics,
            train_metrics=train_metrics,
            callbacks=recorded,
            steps_per_epoch=steps_per_epoch,
            clip_norm=clip_norm,
            accumulate_steps=accumulate_steps,
            capacity=max(capacity_for(epochs), saved["capacity"] if saved else 0),
            batch_sharding=batch_sharding,
            sampling=sampled,
            loss_scale=loss_scale,
            average=average,
        )
        inputs = Inputs(train, valid, with_all_digits(schedule))
        carry = fresh_carry(task, loop, inputs, seed)
        check_alike(
            {
                "set of arguments": (run_identity, epochs),
                "training data": train,
                "validation data": valid,
                "learning rate": schedule,
                "model or optimizer": carry,
            }
        )
        carry, inputs = replicate((carry, inputs), batch_sharding)
        if store is not None and saved is not None:
            carry = replicate(restore(store, saved, loop, carry), batch_sharding)
        about = {
            "run": run_identity,
            "epochs": epochs,
            **schedule_record(schedule, updates),
            "samples": record(sampled),
            "config": dict(config or {}),
        }
        seconds = saved.get("seconds", 0.0) if saved else 0.0
        session = Session(loop, inputs, epochs, store, saving, about, seconds, interrupt)
        info = RunInfo(
            directory=directory,
            epochs=epochs,
            rows=rows(history_of(carry)),
            samples=sample_rows(carry, sampled),
            step=int(carry.clock.step),
            config=about["config"],
        )
        writers = writers if is_first() else []
        for writer in writers:
            stack.callback(writer.close)
            writer.open(info)
        carry = session.train(carry, writers)
        steps_per_second = from_first(session.steps_per_second, "fit")
    interrupt.pass_on()
    return make_result(task, loop, carry, steps_per_second, interrupt)


def _with_log_and_checkpoint(
    callbacks: Callback | None, directory: str | Path | None
) -> tuple[Chain, Checkpoint | None]:
    """Puts the history first, and takes out what says when to save; with a directory there is one.

    The program asks for the best epochs only. When else to save is data of the session, so that
    another cadence needs no other program.
    """
    given = chain(*(() if callbacks is None else (callbacks,))).callbacks
    found = [callback for callback in given if isinstance(callback, Checkpoint)]
    if len(found) > 1:
        raise ValueError(f"there may be one checkpoint callback, got {found}.")
    if found and directory is None:
        raise ValueError(f"{found[0]!r} needs a directory to save to: pass fit(directory=...).")
    if directory is not None and not found:
        found = [checkpoint()]
        given = (*given, *found)
    asking = (c.only_best() if isinstance(c, Checkpoint) else c for c in given)
    return chain(log(), *asking), found[0] if found else None


def _find_run(store: Store, resume: Resume, run_identity: Mapping[str, Any]) -> dict | None:
    """The metadata of the checkpoint to go on from, or None to begin."""
    step = step_to_resume(store, resume)
    saved = None if step is None else store.metadata(step)
    if saved is not None:
        check_identity(store, saved.get("run", {}), run_identity)
    give_up_later(store, step)
    return saved
