"""The progress line: epoch, losses, accuracy, learning rate, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from odyssey_jax.writers._writer import Live, Row, RunInfo


class ProgressLine:
    """Show the latest epoch: a live line on a terminal or in a notebook, else lines now and then.

    Args:
        console: Where to print; None is the standard error.
    """

    reads_state = False

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._epochs = 0
        self._live: tuple[Progress, TaskID] | None = None
        self._cell: Any = None

    def open(self, run: RunInfo) -> None:
        """Show the bar, on a terminal."""
        self._epochs = run.epochs
        if self._console.is_jupyter:
            from IPython.display import display

            self._cell = display(_unquoted("compiling"), display_id=True)
            return
        if not self._console.is_terminal:
            return
        progress = Progress(
            BarColumn(20),
            TextColumn("{task.description}", markup=False),  # "f1[macro]" is a name
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=2,  # the text changes as often, and drawing takes some ms
        )
        begun = summary(run.rows[-1], run.epochs) if run.rows else "compiling"
        task = progress.add_task(begun, total=run.epochs, completed=len(run.rows))
        progress.start()
        self._live = (progress, task)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Show the last of the rows."""
        if not rows:
            return
        text = summary(rows[-1], self._epochs, live.steps_per_second)
        if self._cell is not None:
            self._cell.update(_unquoted(text))
        elif self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            progress, task = self._live
            progress.update(task, description=text, completed=int(rows[-1]["epoch"]) + 1)

    def close(self) -> None:
        """Stop, and leave the last line standing."""
        if self._live is not None:
            self._live[0].stop()


def _unquoted(text: str) -> Any:
    """Return an object that a notebook shows as the text, without quotation marks."""
    from IPython.display import Pretty

    return Pretty(text)


def summary(row: Row, epochs: int, steps_per_second: float | None = None) -> str:
    """Return one epoch as a line of text.

    Args:
        row: A row of the history.
        epochs: The most epochs that the run may take.
        steps_per_second: The throughput, or None to leave it out.

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
