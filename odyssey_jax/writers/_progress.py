"""The progress line: epoch, losses, accuracy, learning rate, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from odyssey_jax.writers._writer import Live, Row, RunInfo


class ProgressLine:
    """Shows the latest epoch: a live line on a terminal or in a notebook, else one now and then.

    Args:
        console: where to; None is the standard error.
    """

    reads_state = False

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._epochs = 0
        self._live: tuple[Progress, TaskID] | None = None
        self._cell: Any = None

    def open(self, run: RunInfo) -> None:
        """Shows the bar, on a terminal."""
        self._epochs = run.epochs
        if self._console.is_jupyter:
            from IPython.display import display

            self._cell = display(_plain("compiling"), display_id=True)
            return
        if not self._console.is_terminal:
            return
        progress = Progress(
            BarColumn(20),
            TextColumn("{task.description}", markup=False),  # "f1[macro]" is a name
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=2,  # what it shows changes as often; to draw it takes some ms
        )
        begun = "compiling" if not run.rows else summary(run.rows[-1], run.epochs)
        task = progress.add_task(begun, total=run.epochs, completed=len(run.rows))
        progress.start()
        self._live = (progress, task)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Shows the last of the rows."""
        if not rows:
            return
        text = summary(rows[-1], self._epochs, live.steps_per_second)
        if self._cell is not None:
            self._cell.update(_plain(text))
            return
        if self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        progress, task = self._live
        progress.update(task, description=text, completed=int(rows[-1]["epoch"]) + 1)

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._live is not None:
            self._live[0].stop()


def _plain(text: str) -> Any:
    """A line as a notebook shows it, without quotation marks."""
    from IPython.display import Pretty

    return Pretty(text)


def summary(row: Row, epochs: int, steps_per_second: float | None = None) -> str:
    """One epoch in words, for people.

    Args:
        row: a row of the history.
        epochs: how many the run may last.
        steps_per_second: train steps a second, or None to leave it out.

    Returns:
        Such as "epoch 7/99  train/loss 0.0412  valid/loss 0.0633  8,312 steps/s", epochs
        counted from 0 as everywhere.
    """
    width = len(str(epochs - 1))
    parts = [f"epoch {int(row['epoch']):>{width}}/{epochs - 1}"]
    parts += [f"{k} {_number(k, v)}" for k, v in row.items() if k not in ("epoch", "step")]
    if steps_per_second is not None:
        parts.append(f"{steps_per_second:,.0f} steps/s")
    return "  ".join(parts)


def _number(name: str, value: Any) -> str:
    fits = value == 0 or 1e-3 <= abs(value) < 1e6
    return f"{value:.4f}" if fits and name != "learning_rate" else f"{value:.2e}"
