"""When a carry is saved: the one place that decides it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from odyssey_jax._types import StopReason
from odyssey_jax.callbacks import NEVER, Checkpoint, Moment, When
from odyssey_jax.data import Calendar
from odyssey_jax.fit._length import Length
from odyssey_jax.fit._result import why
from odyssey_jax.parallel import Meeting, greatest
from odyssey_jax.store import Store
from odyssey_jax.train import Program, Progress, fresh_copy


class SaveBudget:
    """The time that saving may take: about every 30 s, and at most 5 % of the run.

    Args:
        now: Seconds, when the run begins.
        seconds: The least time from one save to the next at the ends of epochs; within an epoch
            twice that, since the end may come in time.
        share: The most that saving may take of the time, from the copy to the commit.
        least: The least seconds that a save is assumed to take: the first one's are not known.
    """

    def __init__(self, now: float, seconds: float = 30.0, share: float = 0.05, least: float = 0.05):
        self._last, self._seconds, self._share, self._least = now, seconds, share, least

    def suffices(self, now: float, at_end: bool, took: float | None) -> bool:
        """Return whether there may be a save now.

        Args:
            now: Seconds.
            at_end: Whether an epoch has just ended.
            took: Seconds that the save before took; None while it goes on.
        """
        pause = self._seconds if at_end else 2 * self._seconds
        return took is not None and now - self._last >= pause and self.is_free(now, took)

    def is_free(self, now: float, took: float) -> bool:
        """Return whether another save would stay within the share, after one that took so long."""
        return now - self._last >= max(took, self._least) / self._share

    def spend(self, now: float) -> None:
        """Take note that a save begins."""
        self._last = now


class Cadence:
    """When a save is due, asked at each exit of the loop.

    Args:
        saving: What was asked for, or the condition of a hook; None is nothing.
        calendar: How the run is cut.
        step: Train steps done when the run is begun or gone on with.
        epoch_steps: Train steps to an epoch; None is as the calendar has it.
        clock: Seconds, from any origin.
    """

    def __init__(
        self,
        saving: Checkpoint | When | None,
        calendar: Calendar,
        step: int,
        epoch_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        asked = saving.condition if isinstance(saving, Checkpoint) else saving
        self._when = NEVER if asked is None else asked
        self._calendar, self._clock = calendar, clock
        self._epoch_steps = epoch_steps or calendar.epoch
        self._begun = clock()
        by_time = isinstance(saving, Checkpoint) and saving.when is None
        self._budget = SaveBudget(self._begun) if by_time else None
        self._before = self._moment(step)

    def limit(self, step: int, steps: int) -> int:
        """Choose the step to run to, so that no mark is passed unseen.

        Args:
            step: Train steps done.
            steps: How many more there may be.

        Returns:
            A later step. Where the run passes the end of an epoch, it is one: there the metrics
            are new, and there is most to show and to save.
        """
        end, calendar = step + steps, self._calendar
        if calendar.epochs(end) > calendar.epochs(step) and not calendar.ends_epoch(end):
            end -= end % calendar.epoch
        now = self._moment(step)
        epochs = self._when.next_mark("epochs", now.epochs)
        examples = self._when.next_mark("examples", now.examples)
        marks = (
            self._when.next_mark("steps", step),
            None if epochs is None else epochs * self._epoch_steps,
            None if examples is None else calendar.steps_for(examples),
        )
        return min([end, *(mark for mark in marks if mark is not None)])

    def due(self, step: int, took: float | None) -> bool:
        """Return whether a save has become due since the last call.

        Args:
            step: Train steps done.
            took: Seconds that the save before took; None while it goes on.
        """
        before, now = self._before, self._moment(step)
        self._before = now
        due = bool(self._when.holds(before, now))
        if self._budget is None:
            return due
        at_end = self._calendar.ends_epoch(step)
        return due or self._budget.suffices(self._clock(), at_end, took)

    def is_free(self, took: float | None) -> bool:
        """Return whether a save that may wait can begin now.

        Args:
            took: Seconds that the save before took; None while it goes on.
        """
        if took is None or self._budget is None:
            return took is not None
        return self._budget.is_free(self._clock(), took)

    def saved(self) -> None:
        """Take note that a save has begun, whoever asked for it."""
        if self._budget is not None:
            self._budget.spend(self._clock())

    def _moment(self, step: int) -> Moment:
        return Moment(
            epochs=step // self._epoch_steps,
            steps=step,
            examples=self._calendar.examples(step),
            seconds=self._clock() - self._begun,
        )


class PendingBest:
    """A buffer for one carry while a save is under way: the newest best replaces the older one.

    Each that comes is better than the one that waits, which would be deleted at once.

    Args:
        allowed: Whether there is one: see `Plan.holds_pending_best`.
    """

    def __init__(self, allowed: bool):
        self._allowed = allowed
        self._held: tuple[Any, Progress] | None = None

    def accepts(self, progress: Progress) -> bool:
        """Return whether a carry of this progress is a new best that may wait."""
        return self._allowed and progress.save

    def put(self, carry: Any, progress: Progress) -> None:
        """Copy a carry that is accepted, so that the loop can go on with it."""
        held = None if self._held is None else self._held[0]
        # A run that has made more room has buffers of another size.
        fits = held is not None and _shapes(held) == _shapes(carry)
        self._held = _copy_over(held, carry) if fits else _copy(carry), progress

    def take(self) -> tuple[Any, Progress] | None:
        """Return what waits and clear the buffer; None if nothing does."""
        held, self._held = self._held, None
        return held

    def __bool__(self) -> bool:
        return self._held is not None


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(tree)]


_copy = jax.jit(fresh_copy)
# Allocating costs more than copying: the carry that is replaced donates its buffers.
_copy_over = jax.jit(lambda old, new: fresh_copy(new), donate_argnums=0, keep_unused=True)


class Saver:
    """The one that saves a run's carry, when it is due.

    Args:
        store: Where to, or None.
        program: What the carry is of.
        cadence: When.
        pending: Where a best may wait.
        about: What the metadata says of the run.
        step: Train steps done, which are saved already.
        length: Of the run.
    """

    def __init__(
        self,
        store: Store | None,
        program: Program,
        cadence: Cadence,
        pending: PendingBest,
        about: Mapping[str, Any],
        step: int,
        length: Length,
    ):
        self._store, self._program, self._about, self._length = store, program, about, length
        self._cadence, self._pending = cadence, pending
        self._saved_step = step
        self._reading = Meeting("reading")  # where each process is in its share of the data

    def if_due(self, carry: Any, progress: Progress, seconds: float) -> None:
        """Save if the cadence or a callback wants it; all processes decide alike.

        Args:
            carry: As the program gave it back.
            progress: Its progress.
            seconds: What the run took so far.
        """
        store = self._store
        if store is None or progress.step == self._saved_step:  # nothing is done yet
            return
        took, cadence = store.save_seconds, self._cadence
        busy = not cadence.is_free(took)
        # One decision for all of it: of many processes each takes its time.
        due = cadence.due(progress.step, took)
        failed, due, busy = greatest(store.has_failed, due, busy, what="fit")
        if failed:
            store.check_for_errors()
        if busy and not due and self._pending.accepts(progress):
            self._pending.put(carry, progress)
        elif due or progress.save:
            self._save(carry, progress, seconds)
            cadence.saved()
        elif not busy and self._pending:
            self._save_pending(seconds)
            cadence.saved()

    def at_end(
        self, carry: Any, progress: Progress, seconds: float, interrupted: StopReason, over: bool
    ) -> None:
        """Save the run where it ended, if it is not saved there.

        Args:
            carry: As the program gave it back.
            progress: Its progress.
            seconds: What the run took.
            interrupted: What ended it before it was over; `NONE` if nothing did.
            over: Whether it is.
        """
        if self._store is not None and self._saved_step != progress.step:
            self._save(carry, progress, seconds, interrupted, over)

    def wait(self) -> None:
        """Wait for the saves that are under way."""
        if self._store is not None:
            self._store.wait()

    def _save(
        self,
        carry: Any,
        progress: Progress,
        seconds: float,
        interrupted: StopReason = StopReason.NONE,
        over: bool = False,
    ) -> None:
        """Save; a best that waits comes first, unless this one is better."""
        if self._pending.accepts(progress):
            self._pending.take()
        self._save_pending(seconds)
        self._commit(carry, progress, seconds, interrupted, over)

    def _save_pending(self, seconds: float) -> None:
        if (held := self._pending.take()) is not None:
            self._commit(*held, seconds, StopReason.NONE, over=False)  # the run went on from there

    @jax.transfer_guard("allow")
    def _commit(
        self, carry: Any, progress: Progress, seconds: float, interrupted: StopReason, over: bool
    ) -> None:
        assert self._store is not None
        step = self._saved_step = progress.step
        # Within an epoch the metrics are of other parameters: those of its start.
        at_end = progress.epoch == self._program.calendar.epochs(step)
        at_end = at_end and self._program.calendar.ends_epoch(step)
        metrics = progress.metrics() if at_end else {}
        if metrics and self._store.monitor is not None:
            metrics.setdefault(self._store.monitor, math.nan)  # it was not measured here
        stop, reason = why(progress, interrupted, self._length, over=over or bool(progress.stop))
        metadata = {
            "epoch": progress.epoch,
            "metrics": metrics,
            "stop_reason": stop.name,
            "reason": reason,
            "seconds": seconds,
            "paths": self._program.result_paths(carry),
            "reading": self._reading.decide(progress.reading.at(step), list, "reading"),
            "program": dict(self._program.record(carry)),
            **self._about,
        }
        saved, constant = self._program.to_save(carry), self._program.constant(carry)
        self._store.save(step, saved, metadata, constant=constant)
