"""The progress line: where the run is, its metrics, the time left, the throughput."""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from odyssey_jax._text import printable
from odyssey_jax.writers._writer import Live, Row, RunInfo

if TYPE_CHECKING:  # Rich takes some 50 ms to import
    from rich.console import Console
    from rich.live import Live as LiveDisplay

_REDRAW = 0.5  # s, the least from one drawing to the next
_RECENT = 10.0  # s, over which the throughput is shown
_MUCH_WAITING = 0.05  # of the time, below which waiting for data is not worth a word
_WINDOW = 60.0  # s, over which the time left is estimated, validation and saves counted
_BAR = 20  # the most columns of the bar
_LEAST_BAR = 8


@functools.cache
def _std_err_class() -> type[Console]:
    from rich.console import Console

    class StdErr(Console):
        """The standard error; silent when its pipe is closed, where Rich ends the program."""

        def on_broken_pipe(self) -> None:
            self.quiet = True

    return StdErr


class ProgressLine:
    """Show where a run is: a live line on a terminal or in a notebook, else lines now and then.

    First the monitored metric of the last epoch, the time left and the throughput of the last 10
    s, then the step in the epoch, the last sampled loss and the other metrics, as far as there is
    room: what is to the right is left out.

    Args:
        console: Where to print; None is the standard error.
        clock: Seconds, from any origin.
    """

    reads_state = False
    wants_progress = True

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self._console, self._clock = console or _std_err_class()(stderr=True), clock
        self._run = RunInfo(None, 1, [])
        self._row: Row | None = None
        self._loss: float | None = None
        self._waiting = 0.0
        self._step, self._running, self._average = 0, False, float("nan")
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._display: LiveDisplay | None = None
        self._cell: Any = None
        self._drawn, self._is_closed = -_REDRAW, False

    def open(self, run: RunInfo) -> None:
        """Show the line, on a terminal or in a notebook."""
        self._run, self._row = run, run.measured(run.rows[-1]) if run.rows else None
        self._step, self._running, self._loss, self._waiting = run.step, False, None, 0.0
        self._marks.clear()
        if self._console.is_jupyter:
            from IPython.display import display

            self._cell = display(_unquoted(self._line()), display_id=True)
        elif self._console.is_terminal:
            from rich.live import Live as LiveDisplay
            from rich.text import Text

            self._display = LiveDisplay(
                get_renderable=lambda: Text(self._line(), no_wrap=True, overflow="crop"),
                console=self._console,
                refresh_per_second=1 / _REDRAW,  # drawing takes some ms
            )
            self._display.start()

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Take note of where the run is, and show it at most twice a second."""
        now, self._running, self._step = self._clock(), True, live.step
        self._average, self._waiting = live.steps_per_second, live.waiting
        self._row = self._run.measured(rows[-1]) if rows else self._row
        if live.samples:
            self._loss = live.samples[-1].get("loss", self._loss)
        self._mark(now)
        if self._cell is not None:
            if now - self._drawn >= _REDRAW:
                self._drawn = now
                self._cell.update(_unquoted(self._line()))
        elif self._display is None and rows and self._row:
            where = None
            if self._run.steps_per_row not in (0, self._run.steps_per_epoch):
                where = f"step {int(self._row['step']):,}/{self._run.total_steps:,}"
            self._print(summary(self._row, self._run.epochs, live.steps_per_second, where))

    def _print(self, text: str) -> None:
        """Print a line, until the pipe that it goes to is closed: that ends no training."""
        if self._is_closed:
            return
        try:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        except (OSError, ValueError, SystemExit):  # the last is Rich's answer to a broken pipe
            self._is_closed = True

    def close(self) -> None:
        """Stop, and leave the last line standing."""
        if self._display is not None:
            self._display.stop()
        if self._cell is not None:
            self._cell.update(_unquoted(self._line()))

    def _mark(self, now: float) -> None:
        """Keep a minute of times and steps, some two a second."""
        marks = self._marks
        if len(marks) > 1 and now - marks[-2][0] < _REDRAW:
            marks.pop()
        marks.append((now, self._step))
        while len(marks) > 2 and now - marks[1][0] >= _WINDOW:
            marks.popleft()

    def _rate(self, seconds: float) -> float | None:
        """Return the train steps a second of the last seconds, or None if none are known."""
        if len(self._marks) < 2:
            return None
        end, last = self._marks[-1]
        begun, first = next(mark for mark in self._marks if end - mark[0] <= seconds)
        if begun == end:
            begun, first = self._marks[-2]
        return (last - first) / (end - begun) if last > first and end > begun else None

    def _line(self) -> str:
        """Return the line, as wide as the console at the most."""
        from rich.cells import cell_len

        run, width = self._run, self._console.width - 1
        each = run.steps_per_epoch
        total, done = (self._total, self._step) if each else (run.epochs, self._epochs_done)
        needed, more = self._parts(each)
        room = width - _LEAST_BAR - sum(2 + cell_len(part) for part in needed)
        parts = list(needed)
        for part in more:
            room -= 2 + cell_len(part)
            if room < 0:
                break
            parts.append(part)
        text = "  ".join(parts)
        columns = min(_BAR, max(width - cell_len(text) - 2, _LEAST_BAR))
        return f"{self._bar(done / max(total, 1), columns)}  {text}"

    @property
    def _total(self) -> int:
        return self._run.total_steps or self._run.epochs * self._run.steps_per_epoch

    @property
    def _epochs_done(self) -> int:
        return 0 if self._row is None else int(self._row["epoch"]) + 1

    def _parts(self, each: int) -> tuple[list[str], list[str]]:
        """Return what is always shown, and what follows as far as there is room."""
        run, row = self._run, dict(self._row or {})
        epoch = min(self._step // each if each else self._epochs_done, run.epochs - 1)
        needed = [f"epoch {epoch}/{run.epochs - 1}"]
        names = [name for name in row if name not in ("epoch", "step")]
        names.sort(key=lambda name: name != run.monitor)
        if names and names[0] == run.monitor:
            needed.append(_metric(names[0], row[names.pop(0)]))
        if not self._running:
            needed.append("compiling")
        else:
            pace, recent = self._rate(_WINDOW), self._rate(_RECENT) or self._average
            if each and pace:
                needed.append(_clock((self._total - self._step) / pace))
            if math.isfinite(recent):
                needed.append(_speed(recent))
            if self._waiting > _MUCH_WAITING:
                needed.append(f"{self._waiting:.0%} waiting for data")
        more = [f"step {self._step - epoch * each}/{each}"] if each else []
        more += [] if self._loss is None else [_metric("loss", self._loss)]
        return needed, more + [_metric(name, row[name]) for name in names]

    def _bar(self, share: float, columns: int) -> str:
        full = round(min(max(share, 0.0), 1.0) * columns)
        done, left = "#-" if self._console.options.ascii_only else "━┄"
        return done * full + left * (columns - full)


def _unquoted(text: str) -> Any:
    """Return an object that a notebook shows as the text, without quotation marks."""
    from IPython.display import Pretty

    return Pretty(text)


def summary(
    row: Row, epochs: int, steps_per_second: float | None = None, where: str | None = None
) -> str:
    """Return one epoch as a line of text.

    Args:
        row: A row of the history.
        epochs: The most epochs that the run may take.
        steps_per_second: The throughput, or None to leave it out.
        where: What to say for the epoch where rows are none; None is the epoch.

    Returns:
        Such as "epoch 7/99  train/loss 0.0412  valid/loss 0.0633  8,312 steps/s", epochs
        counted from 0 as everywhere.
    """
    width = len(str(epochs - 1))
    parts = [where or f"epoch {int(row['epoch']):>{width}}/{epochs - 1}"]
    parts += [_metric(k, v) for k, v in row.items() if k not in ("epoch", "step")]
    if steps_per_second is not None:
        parts.append(_speed(steps_per_second))
    return "  ".join(parts)


def _metric(name: str, value: Any) -> str:
    fits = value == 0 or 1e-3 <= abs(value) < 1e6
    shown = f"{value:.4f}" if fits and name != "learning_rate" else f"{value:.2e}"
    return f"{printable(name)} {shown}"


def _speed(steps_per_second: float) -> str:
    return f"{steps_per_second:,.{0 if not steps_per_second < 9.5 else 2}f} steps/s"


def _clock(seconds: float) -> str:
    """Return a time as a clock shows it.

    Example:
        >>> _clock(5.4), _clock(3_725), _clock(200_000)
        ('0:05 left', '1:02:05 left', '55:33:20 left')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{whole % 60:02} left"
