"""The result of `fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic

import jax
import numpy as np

from odyssey_jax._types import Model, StopReason, Task, TrainState
from odyssey_jax.callbacks import Best, Tracked
from odyssey_jax.fit._interrupt import Interrupt
from odyssey_jax.fit._length import Length
from odyssey_jax.fit._resume import Start
from odyssey_jax.fit._table import Table
from odyssey_jax.train import Program, Progress


@dataclasses.dataclass(frozen=True)
class FitResult(Generic[Model]):
    """The result of `fit`.

    Attributes:
        model: The trained model in the user's own terms: an NNX module, Linen's variables, or
            the parameters.
        state: The train state that the model is made of.
        stop_reason: Why the run ended.
        reason: The same as a sentence.
        epochs: Epochs done: passes over the data, or `steps_per_epoch` train steps each.
        steps: Train steps done.
        best: The best epoch: the one that is restored (`restore_best`), else the first that a
            callback tracks, or None.
        best_epoch: Its index, which is also its row in the history; None where there is none.
        bests: Metric's name to best epoch, of every metric that a callback tracks; its
            `snapshot` are the parameters and model state, where a copy was kept.
        metrics: The scalar metrics of the model that is returned, as floats: those of the best
            epoch where it is restored, else of the last one. Without those of an `Evaluation`
            that was not due then; empty where the model was not measured at all, as when a run
            ends within an epoch.
        last_metrics: The last epoch's metrics, arrays of any shape included, as far as they were
            measured; empty where none ended.
        metrics_at_start: Those that were measured before the first train step, of each
            `Evaluation` that is `at_start`.
        history: Column to array [evaluations], of which each epoch has one unless `validate=` says
            otherwise: "epoch", which counts them from 0, "step" and every scalar metric, NaN where
            it was not measured; prints as a table, and `history.to_pandas()` is a data frame.
        samples: The same of the sampled train steps: "step", the train steps done, and each of
            `log_outputs`; empty where no steps are sampled.
        carry: The run as it was saved last, to go on from.
        steps_per_second: Train steps a second, without compilation, validation, callbacks and
            saving; NaN for a run that was complete already.
        exit_code: What a program that only trains should end with, by `sys.exit`: 0 for a run
            that is over; 130 after Ctrl-C and 143 after SIGTERM, as a shell has them; 124 where
            `max_time` is spent, as timeout(1) has it.
    """

    model: Model = dataclasses.field(repr=False)
    state: TrainState = dataclasses.field(repr=False)
    stop_reason: StopReason
    reason: str
    epochs: int
    steps: int
    best: Best | None = dataclasses.field(repr=False)
    best_epoch: int | None
    bests: Mapping[str, Best] = dataclasses.field(repr=False)
    metrics: Mapping[str, float] = dataclasses.field(repr=False)
    last_metrics: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    metrics_at_start: Mapping[str, float] = dataclasses.field(repr=False)
    history: Table = dataclasses.field(repr=False)
    samples: Table = dataclasses.field(repr=False)
    carry: Any = dataclasses.field(repr=False)
    steps_per_second: float
    exit_code: int


@jax.transfer_guard("allow")
def make_result(
    task: Task[Model],
    start: Start,
    length: Length,
    carry: Any,
    steps_per_second: float,
    interrupt: Interrupt,
) -> FitResult[Model]:
    """Let the callbacks finish, and make the result of a run."""
    program = start.program
    progress = program.look(carry).fetch()
    state, found = program.finish(carry)
    stop, reason = why(progress, interrupt.reason, length, over=True)
    tracked = [one for one in found if bool(one.best.seen)]
    restored = [one.best for one in tracked if one.restores]
    best = next(iter(restored + [one.best for one in tracked]), None)
    return FitResult(
        model=task.rebuild(state.params, state.model_state),
        state=state,
        stop_reason=stop,
        reason=reason,
        epochs=progress.epoch if length.rows_are_epochs else length.epochs(progress.step),
        steps=progress.step,
        best=best,
        best_epoch=None if best is None else int(best.epoch),
        bests=_by_metric(tracked),
        metrics=_measured(program, progress, restored),
        last_metrics=progress.measured() if progress.epoch else {},
        metrics_at_start=start.metrics_at_start,
        history=Table(progress.history(), progress.cadences),
        samples=Table(progress.sampled()),
        carry=carry,
        steps_per_second=steps_per_second,
        exit_code=interrupt.exit_code,
    )


def _measured(program: Program, progress: Progress, restored: Sequence[Best]) -> dict[str, float]:
    """Return the metrics of the model that is returned."""
    if restored:
        row = int(restored[0].epoch)
    elif progress.epoch and program.calendar.ends_epoch(progress.step):
        row = progress.epoch - 1
    else:
        return {}
    columns = {k: x for k, x in progress.history().items() if k not in ("epoch", "step")}
    return {k: float(x[row]) for k, x in columns.items() if progress.cadences(k, row)}


def why(
    progress: Progress, interrupted: StopReason, length: Length, *, over: bool
) -> tuple[StopReason, str]:
    """Return why a run ended, and the same as a sentence; where it is not over, that it runs."""
    if interrupted:
        return interrupted, interrupted.sentence()
    # A user's own callback may give a code that is not ours.
    known = progress.stop in set(StopReason)
    stop = StopReason(progress.stop) if known else StopReason.REQUESTED
    if over and stop is StopReason.NONE:
        stop = StopReason.COMPLETED
    if stop is not StopReason.COMPLETED:
        unit = "evaluation" if progress.cadences.leave_out(progress.epoch) else length.unit
        return stop, stop.sentence(progress.detail, unit)
    if length.rows_are_epochs:
        return stop, stop.sentence(progress.epoch)
    return stop, StopReason.MAX_STEPS.sentence(progress.step)


def _by_metric(tracked: Iterable[Tracked]) -> dict[str, Best]:
    """Return the first of each metric; one with a copy of the parameters is preferred."""
    bests: dict[str, Best] = {}
    for name, best, _ in tracked:
        if name is not None and (name not in bests or bests[name].snapshot is None):
            bests[name] = best
    return bests
