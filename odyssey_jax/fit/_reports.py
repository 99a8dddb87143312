"""What is new since the last call of the program, and when each writer is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from odyssey_jax._types import TrainState
from odyssey_jax.fit._table import as_rows, length
from odyssey_jax.train import Program, Progress
from odyssey_jax.writers import Live, Row, Writer


class Reports:
    """What tells the writers of a run: those that read the state at once, the others later.

    The next call of the program donates the state, so a writer that reads it must be done before.
    All others write while that call runs.

    Args:
        writers: Who is told; they are open.
        program: What is run.
        progress: The run as the writers know it.
        on_failed_write: "raise" what a writer raises, or "warn" and go on without it.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        program: Program,
        progress: Progress,
        on_failed_write: str = "raise",
    ):
        self._on_failed_write = on_failed_write
        self._at_once = [writer for writer in writers if getattr(writer, "reads_state", True)]
        self._later = [writer for writer in writers if writer not in self._at_once]
        self._program = program
        self._written = length(progress.history())
        self._sampled = length(progress.sampled())
        self._pending: _Report | None = None

    def take(
        self,
        carry: Any,
        progress: Progress,
        steps_per_second: float,
        examples_per_second: float,
        waiting: float = 0.0,
    ) -> None:
        """Take down what is new, before the carry goes into the next call.

        Args:
            carry: As the program gave it back.
            progress: Its progress.
            steps_per_second: Train steps a second so far.
            examples_per_second: The same in examples.
            waiting: As in `Live`.
        """
        self.tell()
        rows = as_rows(progress.history(self._written))
        samples = as_rows(progress.sampled(self._sampled))
        self._written += len(rows)
        self._sampled += len(samples)
        rates = (steps_per_second, examples_per_second)
        live = Live(
            progress.step, *rates, samples=samples, arrays=progress.arrays(), waiting=waiting
        )
        self._pending = _Report(rows, live)
        if self._at_once and self._pending.is_new:
            self._write(self._pending, self._at_once, self._program.state(carry))

    def tell(self) -> None:
        """Tell the writers that do not read the state."""
        pending, self._pending = self._pending, None
        if pending is not None:
            told = self._later
            if not pending.is_new:
                told = [w for w in self._later if getattr(w, "wants_progress", False)]
            self._write(pending, told, TrainState(None))

    def show(self, step: int, shown: Mapping[str, Any]) -> None:
        """Hand what a hook returns to the writers that can show it, after the rows so far."""
        if not shown:
            return
        self.tell()
        for writer in (*self._at_once, *self._later):
            if callable(show := getattr(writer, "show", None)):
                for name, value in shown.items():
                    self._try(writer, show, step, name, value)

    def _write(self, report: _Report, writers: list[Writer], state: TrainState) -> None:
        for writer in list(writers):
            live = report.live._replace(state=state)
            self._try(writer, writer.write, report.rows, live)

    def _try(self, writer: Writer, call: Callable[..., Any], *args: Any) -> None:
        if writer in (*self._at_once, *self._later):  # it has not failed before
            try:
                call(*args)
            except Exception as error:
                if self._on_failed_write == "raise":
                    raise
                for told in (self._at_once, self._later):
                    told[:] = [other for other in told if other is not writer]
                warnings.warn(
                    f"{type(writer).__name__} failed, and the run goes on without it: {error!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )


class _Report(NamedTuple):
    """What is new."""

    rows: Sequence[Row]
    live: Live

    @property
    def is_new(self) -> bool:
        """Whether there are rows or samples, and not only more steps."""
        return bool(self.rows or self.live.samples)


def close_writer(writer: Any, error: BaseException | None) -> None:
    """Close a writer, and tell one that asks for it of the exception that ends the run."""
    try:
        if error is not None and callable(fail := getattr(writer, "fail", None)):
            fail(error)
    finally:
        writer.close()
