"""What a run gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from odyssey_jax._types import StopReason, Task, TrainState
from odyssey_jax.callbacks import AllOf, Best, Chain, History, On
from odyssey_jax.fit._interrupt import Interrupt
from odyssey_jax.fit._samples import sample_table
from odyssey_jax.fit._table import Table, as_rows
from odyssey_jax.train import Carry, Loop, finish_compiled
from odyssey_jax.writers import Row


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Args:
        model: the trained model in the user's own terms: an NNX module, Linen's variables, or
            the parameters.
        state: the train state that the model is made of.
        stop_reason: why the run ended.
        reason: the same as a sentence.
        epochs: epochs done.
        steps: train steps done.
        best: the best epoch: the one that is restored (`restore_best`), else the first that a
            callback tracks, or None.
        best_epoch: its index, which is also its row in the history; None where there is none.
        bests: metric's name to best epoch, of every metric that a callback tracks; its
            `snapshot` are the parameters and model state, where a copy was kept.
        metrics: the last epoch's metrics, arrays of any shape included; empty where none ended.
        history: column to array [epochs]: "epoch", "step" and every scalar metric; prints as
            a table, and `history.to_pandas()` is a data frame.
        samples: the same of the sampled train steps: "step", the train steps done, and each of
            `log_outputs`; empty where no steps are sampled.
        carry: the run as it was saved last, to go on from.
        steps_per_second: train steps a second, without compilation, validation, callbacks and
            saving; NaN for a run that was complete already.
        exit_code: what a program that only trains should end with, by `sys.exit`: 0 for a run
            that is over; 130 after Ctrl-C and 143 after SIGTERM, as a shell has them; 124 where
            `max_time` is spent, as timeout(1) has it.
    """

    model: Any = dataclasses.field(repr=False)
    state: TrainState = dataclasses.field(repr=False)
    stop_reason: StopReason
    reason: str
    epochs: int
    steps: int
    best: Best | None = dataclasses.field(repr=False)
    best_epoch: int | None
    bests: Mapping[str, Best] = dataclasses.field(repr=False)
    metrics: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    history: Table = dataclasses.field(repr=False)
    samples: Table = dataclasses.field(repr=False)
    carry: Carry = dataclasses.field(repr=False)
    steps_per_second: float
    exit_code: int


def make_result(
    task: Task, loop: Loop, carry: Carry, steps_per_second: float, interrupt: Interrupt
) -> FitResult:
    """Lets the callbacks finish, and reads off the carry what a user wants to know."""
    state = finish_compiled(loop, carry).state
    stop, reason = why(carry, interrupt.reason, over=True)
    tracked = [(c, b) for c, b in _tracked(loop.callbacks, carry.callbacks) if bool(b.seen)]
    restored = [b for c, b in tracked if getattr(c, "restore_best", False)]
    best = next(iter(restored + [b for _, b in tracked]), None)
    return FitResult(
        model=task.rebuild(state.params, state.model_state),
        state=state,
        stop_reason=stop,
        reason=reason,
        epochs=int(carry.clock.epoch),
        steps=int(carry.clock.step),
        best=best,
        best_epoch=None if best is None else int(best.epoch),
        bests=_by_metric(tracked),
        metrics=jax.device_get(carry.latest) if int(carry.clock.epoch) else {},
        history=Table(table(history_of(carry))),
        samples=Table(sample_table(carry, loop.sampling)),
        carry=carry,
        steps_per_second=steps_per_second,
        exit_code=interrupt.exit_code,
    )


def why(carry: Carry, interrupted: StopReason, *, over: bool) -> tuple[StopReason, str]:
    """Why a run ended, and the same as a sentence; where it is not over, that it runs."""
    if interrupted:
        return interrupted, interrupted.sentence()
    code = int(carry.signal.stop)
    # A callback of the user's own may give one that we don't know.
    stop = StopReason(code) if code in set(StopReason) else StopReason.REQUESTED
    if over and stop is StopReason.NONE:
        stop = StopReason.COMPLETED
    detail = carry.clock.epoch if stop is StopReason.COMPLETED else carry.signal.detail
    return stop, stop.sentence(int(detail))


def history_of(carry: Carry) -> History:
    """The history that `fit` puts first among the callbacks."""
    return carry.callbacks[0]


def table(history: History, start: int = 0) -> dict[str, np.ndarray]:
    """The filled part of a history as columns, from a given row on."""
    epoch, step, metrics, end = jax.device_get(history)
    columns = {"epoch": epoch, "step": step, **metrics}
    return {name: column[start : int(end)] for name, column in columns.items()}


def rows(history: History) -> list[Row]:
    """The filled part of a history as rows."""
    return as_rows(table(history))


def _tracked(callback: Any, state: Any) -> Iterator[tuple[Any, Best]]:
    """The best epochs in the states of callbacks, each with whose it is."""
    if isinstance(callback, (Chain, AllOf)):
        for one, own in zip(callback.callbacks, state, strict=True):
            yield from _tracked(one, own)
    elif isinstance(callback, On):
        yield from _tracked(callback.callback, state)
    else:
        is_best = lambda x: isinstance(x, Best)
        for found in jax.tree.leaves(state, is_leaf=is_best):
            if is_best(found):
                yield callback, found


def _by_metric(tracked: list[tuple[Any, Best]]) -> dict[str, Best]:
    """The first of each metric, but rather one with a copy of the parameters."""
    bests: dict[str, Best] = {}
    for callback, best in tracked:
        name = getattr(callback, "monitor", None)
        if name is not None and (name not in bests or bests[name].snapshot is None):
            bests[name] = best
    return bests
