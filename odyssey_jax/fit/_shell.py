"""One process's share of a run: calls the program, and carries out what it asks for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from odyssey_jax._types import StopReason, TrainState
from odyssey_jax.fit._hooks import Hook, View
from odyssey_jax.fit._interrupt import Interrupt
from odyssey_jax.fit._length import Length
from odyssey_jax.fit._plan import Plan
from odyssey_jax.fit._reports import Reports
from odyssey_jax.fit._resume import Start
from odyssey_jax.fit._saving import Cadence, PendingBest, Saver
from odyssey_jax.fit._shown import as_shown
from odyssey_jax.fit._table import as_rows
from odyssey_jax.fit._throughput import CallLength, Throughput
from odyssey_jax.parallel import from_first
from odyssey_jax.store import Store
from odyssey_jax.train import Program, Progress, holds_in, hook_key


class Shell:
    """The loop of `fit`: calls a program until the run is over; saves and writes in between.

    Args:
        program: What is run.
        length: Of the run.
        saver: What saves it.
        cadence: How far a call may go.
        interrupt: What may end the run before it is over.
        seconds: The time that earlier calls of `fit` trained for.
        hooks: Host code, and when it is due.
        rebuild: As in `Task.rebuild`, for the hooks' views.
        seed: The run's, for their keys.
    """

    def __init__(
        self,
        program: Program,
        length: Length,
        saver: Saver,
        cadence: Cadence,
        interrupt: Interrupt,
        seconds: float = 0.0,
        hooks: Sequence[tuple[Cadence, Hook]] = (),
        rebuild: Callable[[Any, Any], Any] = lambda params, model_state: params,
        seed: int = 0,
    ):
        self._measuring = [hook for _, hook in hooks if hook.columns]
        self._acting = [(marks, hook) for marks, hook in hooks if not hook.columns]
        self._rebuild, self._seed = rebuild, seed
        self._program, self._saver = program, saver
        self._length, self._last = length, length.steps
        self._cadence, self._interrupt, self._seconds = cadence, interrupt, seconds
        self._throughput = Throughput(program.calendar)
        self._watch = ThreadPoolExecutor(1, "odyssey_jax")
        self.carry: Any = None  # the newest that the program has given back

    @classmethod
    def of(cls, plan: Plan, start: Start, store: Store | None, interrupt: Interrupt) -> Shell:
        """Make the shell of a plan, from where it starts."""
        program = start.program
        step = start.progress.step
        each = plan.length.epoch
        cadence = Cadence(plan.saving, program.calendar, step, each)
        pending = PendingBest(plan.holds_pending_best)
        saver = Saver(store, program, cadence, pending, start.about, step, plan.length)
        hooks = [(Cadence(x.when, program.calendar, step, each), x) for x in plan.hooks]
        how = (start.seconds, hooks, plan.task.rebuild, plan.seed)
        return cls(program, plan.length, saver, cadence, interrupt, *how)

    @property
    def steps_per_second(self) -> float:
        """Train steps a second so far, without compilation, validation and saving."""
        return self._throughput.steps_per_second

    def train(self, carry: Any, progress: Progress, reports: Reports) -> Any:
        """Run to the end, or until it is interrupted, and save it there.

        Whatever is raised on the way (by a writer, by a save), the run so far is saved first, and
        is `carry`.
        """
        self.carry = carry
        if self._is_over(progress):
            return carry
        with contextlib.ExitStack() as stack:
            # Not waited for: after a second Ctrl-C the program may still run.
            stack.callback(self._watch.shutdown, wait=False)
            try:
                carry, progress = self._run(carry, progress, reports)
                # Before the last rows are written: a writer that fails must not cost the run.
                over, why = self._is_over(progress), self._interrupt.reason
                self._saver.at_end(carry, progress, self._seconds, why, over)
            except Exception:
                self._save_what_there_is()
                raise
            finally:
                reports.tell()
            self._saver.wait()
        return carry

    def _save_what_there_is(self) -> None:
        """Save the newest carry, if the program still has it; what is being raised matters more.

        On several processes the others are not here to save their share.
        """
        if jax.process_count() > 1:
            return
        with contextlib.suppress(Exception):
            progress = self._program.look(self.carry).fetch()
            if progress.stop != StopReason.FIRST_LOSS_NOT_FINITE:
                over = self._is_over(progress)
                self._saver.at_end(self.carry, progress, self._seconds, StopReason.NONE, over)
                self._saver.wait()

    def _run(self, carry: Any, progress: Progress, reports: Reports) -> tuple[Any, Progress]:
        length = CallLength(first=self._program.calendar.block)
        self._interrupt.agree(length.steps)
        if self._interrupt.by_signal:
            return carry, progress  # before the program is compiled
        # Compile in a call of no steps, so that the throughput is without it.
        carry, progress, _ = self._call(carry, progress.step)
        reports.take(carry, progress, float("nan"), float("nan"))
        columns: Mapping[str, float] | None = None
        while not self._is_over(progress):
            begun = time.perf_counter()
            steps = self._interrupt.agree(length.steps)
            length.agreed(time.perf_counter() - begun)
            if self._interrupt.reason:
                break  # what is due here is the run's last save, which says why it ended
            if not progress.reading.validating:
                self._saver.if_due(carry, progress, self._seconds)
            step = progress.step
            marks = (self._cadence, *(marks for marks, _ in self._acting))
            limit = min(self._last, *(cadence.limit(step, steps) for cadence in marks))
            waited = progress.reading.waited
            carry, progress, seconds = self._run_to(limit, carry, step, reports, columns)
            waiting = (progress.reading.waited - waited) / max(seconds, 1e-9)
            length.took(progress.step - step, seconds)
            self._seconds += seconds
            _check_first_loss(progress)
            rate = self.steps_per_second
            examples = rate * self._program.calendar.batch_size
            reports.take(carry, progress, rate, examples, min(waiting, 1.0))
            if progress.reading.columns:
                columns = self._measure(carry, progress)
            elif not progress.reading.validating:
                columns = None
                self._call_hooks(carry, progress, reports)
        return carry, progress

    def _measure(self, carry: Any, progress: Progress) -> Mapping[str, float]:
        """Call the hooks that have columns at the end of the epoch that waits for them."""
        columns: dict[str, float] = {}
        for hook in self._measuring:
            if holds_in(hook.when, progress.epoch):
                columns |= hook.measure(self._view(self._program.validated(carry), progress))
        return from_first(columns, "the columns of hooks")

    def _call_hooks(self, carry: Any, progress: Progress, reports: Reports) -> None:
        for marks, hook in self._acting:
            if marks.due(progress.step, None):
                state = self._program.state(carry).for_evaluation
                found = hook.function(self._view(state, progress))
                reports.show(progress.step, as_shown(hook.function, found, progress.latest))

    def _view(self, state: TrainState, progress: Progress) -> View:
        step, calendar = progress.step, self._program.calendar
        newest = as_rows(progress.history(max(progress.epoch - 1, 0)))
        metrics = newest[-1] if newest else {}
        has_ended = calendar.ends_epoch(step) and calendar.epochs(step) == progress.epoch
        epoch = self._length.epochs(step)
        with jax.transfer_guard("allow"):
            key = hook_key(jax.random.key(self._seed), step)
        row = metrics if has_ended else {}
        return View(state, step, epoch, row, self._rebuild, metrics, key)

    def _run_to(
        self,
        limit: int,
        carry: Any,
        step: int,
        reports: Reports,
        columns: Mapping[str, float] | None = None,
    ) -> tuple[Any, Progress, float]:
        """Call the program, in parts where that shows how fast it trains.

        The writers are told during the last part only: the others may take less than 1 ms, and a
        busy interpreter would notice their end late.
        """
        total, progress = 0.0, None
        for until in self._throughput.parts(step, limit):
            told = reports if until == limit else None
            carry, progress, seconds = self._call(carry, until, told, columns)
            before, step, total = step, progress.step, total + seconds
            self._throughput.took(before, step, seconds)
            columns = None  # they are of the epoch that ended, if it did
            # A callback asks for the host, or the data is not there yet.
            if step < until or progress.save or progress.reading.validating:
                break
        assert progress is not None
        return carry, progress, total

    def _call(
        self,
        carry: Any,
        limit: int,
        reports: Reports | None = None,
        columns: Mapping[str, float] | None = None,
    ) -> tuple[Any, Progress, float]:
        """Call the program, and meanwhile tell the writers what it did before."""
        begun = time.perf_counter()
        carry, running = self._program.run(carry, limit, columns)
        self.carry = carry
        if reports is None:
            progress, ended = _fetch(running)
        else:
            fetching = self._watch.submit(_fetch, running)
            reports.tell()
            progress, ended = fetching.result()
        return carry, progress, ended - begun

    def _is_over(self, progress: Progress) -> bool:
        if self._program.calendar.epochs(progress.step) > progress.epoch:
            return False  # an epoch is to be ended first, also where a stop is asked for
        return progress.step >= self._last or progress.stop != StopReason.NONE


def _fetch(running: Progress) -> tuple[Progress, float]:
    """Wait for the program, and say when it ended: its caller may be busy then."""
    progress = running.fetch()
    return progress, time.perf_counter()


def _check_first_loss(progress: Progress) -> None:
    if progress.stop == StopReason.FIRST_LOSS_NOT_FINITE:
        raise ValueError(
            "the loss of the first train step is not finite, before any parameter has "
            "changed. Look for NaN or infinities in the training data and in the initial "
            "parameters, and for a log or a division by 0 in the loss function."
        )
