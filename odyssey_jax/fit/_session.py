"""One process's share of a run: calls the program, and carries out what it asks for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from odyssey_jax._types import StopReason
from odyssey_jax.callbacks import Checkpoint
from odyssey_jax.fit._cadence import Cadence
from odyssey_jax.fit._interrupt import Interrupt
from odyssey_jax.fit._pace import Pace
from odyssey_jax.fit._rankings import without_rankings
from odyssey_jax.fit._rate import Rate
from odyssey_jax.fit._reports import Reports
from odyssey_jax.fit._result import why
from odyssey_jax.fit._resume import describe
from odyssey_jax.fit._waiting import Waiting
from odyssey_jax.parallel._agree import greatest
from odyssey_jax.store import Store
from odyssey_jax.train import Carry, Inputs, Loop, plan_blocks, run_compiled
from odyssey_jax.writers import Writer


class Session:
    """Calls the program until the run is over; saves and writes in between.

    Args:
        loop: the program.
        inputs: what it reads.
        epochs: the epochs after which the run is complete.
        store: where to save, or None.
        saving: when to, or None.
        about: what the checkpoints' metadata says of the run.
        seconds: what the run took before, until the checkpoint that it goes on from.
        interrupt: what may end it before it is over.
    """

    def __init__(
        self,
        loop: Loop,
        inputs: Inputs,
        epochs: int,
        store: Store | None,
        saving: Checkpoint | None,
        about: Mapping[str, Any],
        seconds: float,
        interrupt: Interrupt,
    ):
        self._loop, self._inputs, self._store, self._about = loop, inputs, store, about
        self._saving, self._interrupt = saving, interrupt
        self._waiting = Waiting(loop.callbacks)
        self._blocks = plan_blocks(inputs.train, loop.steps_per_epoch)
        self._last = epochs * self._blocks.epoch
        self._watch = ThreadPoolExecutor(1, "odyssey_jax")
        self._saved_step: int | None = None
        self._rate = Rate(self._blocks)
        self._seconds, self._seconds_before = 0.0, seconds

    @property
    def steps_per_second(self) -> float:
        """Train steps a second so far, without compilation, validation and saving."""
        return self._rate.steps_per_second

    @property
    def _rates(self) -> tuple[float, float]:
        return self.steps_per_second, self.steps_per_second * self._inputs.train.batch_size

    def train(self, carry: Carry, writers: Sequence[Writer]) -> Carry:
        """Runs to the end, or until it is interrupted, and saves it there."""
        self._saved_step = int(carry.clock.step)
        if self._is_over(carry):
            return carry
        with self._interrupt, contextlib.ExitStack() as stack:
            # Not waited for: after a second Ctrl-C the program may still run.
            stack.callback(self._watch.shutdown, wait=False)
            reports = Reports(writers, self._loop.sampling, carry)
            try:
                carry = self._run(carry, reports)
                # First, so that a writer that fails at the last rows does not cost the run.
                if self._saved_step != int(carry.clock.step):
                    self._save(carry)
            finally:
                reports.tell()
            if self._store is not None:
                self._store.wait()
        return carry

    def _run(self, carry: Carry, reports: Reports) -> Carry:
        step = int(carry.clock.step)
        pace = Pace(first=self._blocks.block)
        carry, _ = self._call(carry, step)  # compiles; no step is done, so the rates stay clean
        cadence = Cadence(self._saving, self._blocks, self._inputs.train, step)
        while not self._is_over(carry):
            steps = self._interrupt.agree(pace.steps)
            if self._interrupt.reason:
                break  # what is due here is the run's last save, which says why it ended
            self._save_what_is_due(carry, cadence)
            limit = min(cadence.limit(step, steps), self._last)
            carry, seconds = self._run_to(limit, carry, reports)
            done, step = int(carry.clock.step) - step, int(carry.clock.step)
            pace.took(done, seconds)
            self._seconds += seconds
            self._check_first_loss(carry)
            reports.take(carry, *self._rates)
        return carry

    def _run_to(self, limit: int, carry: Carry, reports: Reports) -> tuple[Carry, float]:
        """Calls the program, in parts where that shows how fast it trains.

        The writers are told during the last of them: the others may take less than a ms, and
        nobody shall keep the interpreter from seeing their end.
        """
        step, total = int(carry.clock.step), 0.0
        for until in self._rate.parts(step, limit):
            carry, seconds = self._call(carry, until, reports if until == limit else None)
            before, step, total = step, int(carry.clock.step), total + seconds
            self._rate.took(before, step, seconds)
            if step < until or bool(carry.signal.save):  # a callback asks for the host
                break
        return carry, total

    def _call(
        self, carry: Carry, limit: int, reports: Reports | None = None
    ) -> tuple[Carry, float]:
        """Calls the program, and meanwhile tells the writers what it did before."""
        begun = time.perf_counter()
        running = run_compiled(self._loop, carry, self._inputs, limit)
        if reports is None:
            return running, _finish(running) - begun
        finished = self._watch.submit(_finish, running)
        reports.tell()
        return running, finished.result() - begun

    def _save_what_is_due(self, carry: Carry, cadence: Cadence) -> None:
        step = int(carry.clock.step)
        if self._store is None or step == self._saved_step:  # nothing is done yet
            return
        self._store.check_for_errors()
        took = self._store.save_seconds
        due, busy = greatest(cadence.due(step, took), not cadence.is_free(took), what="fit")
        if busy and not due and self._waiting.accepts(carry):
            self._waiting.put(carry)
        elif due or bool(carry.signal.save):
            self._save(carry)
            cadence.saved()
        elif not busy and self._waiting.carry is not None:
            self._save_waiting()
            cadence.saved()

    def _is_over(self, carry: Carry) -> bool:
        return int(carry.clock.step) >= self._last or bool(carry.signal.stop)

    def _save(self, carry: Carry) -> None:
        """Saves; a best that waits comes first, unless this one is better."""
        if self._waiting.accepts(carry):
            self._waiting.take()
        self._save_waiting()
        self._commit(carry, self._interrupt.reason)

    def _save_waiting(self) -> None:
        carry = self._waiting.take()
        if carry is not None:
            self._commit(carry, StopReason.NONE)  # the run went on from there

    def _commit(self, carry: Carry, interrupted: StopReason) -> None:
        if self._store is None:
            return
        step = self._saved_step = int(carry.clock.step)
        # Within an epoch nothing was measured: the parameters are others than at its start.
        measured = carry.latest if step % self._blocks.epoch == 0 else {}
        scalars = {name: x for name, x in measured.items() if x.ndim == 0}
        stop, reason = why(carry, interrupted, over=self._is_over(carry))
        metadata = {
            "epoch": int(carry.clock.epoch),
            "metrics": {name: float(x) for name, x in jax.device_get(scalars).items()},
            "stop_reason": stop.name,
            "reason": reason,
            "seconds": self._seconds_before + self._seconds,
            "capacity": self._loop.capacity,
            "callbacks": describe(self._loop.callbacks),
            **self._about,
        }
        self._store.save(step, without_rankings(carry, self._loop.callbacks), metadata)

    def _check_first_loss(self, carry: Carry) -> None:
        if int(carry.signal.stop) == StopReason.FIRST_LOSS_NOT_FINITE:
            raise ValueError(
                "the loss of the first train step is not finite, before any parameter has "
                "changed. Look for NaN or infinities in the training data and in the initial "
                "parameters, and for a log or a division by 0 in the loss function."
            )


def _finish(running: Carry) -> float:
    """Waits for the program, and says when it ended: its caller may be busy then."""
    jax.block_until_ready(running)
    return time.perf_counter()
