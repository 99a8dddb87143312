"""Schedules as text: a chart for a terminal, drawn with braille dots or with plain characters."""

from __future__ import annotations

import shutil
from typing import Literal

import numpy as np

from odyssey_jax.plots._plot import DECADES, Schedules, shortened, step_label, surveys
from odyssey_jax.schedules import Survey

Characters = Literal["braille", "ascii"]

# The eight dots of a braille character: by row from the top, left and right.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_LEAST_WIDTH, _LEAST_HEIGHT = 20, 3


def plot_text(
    schedules: Schedules,
    steps: int | None = None,
    *,
    width: int | None = None,
    height: int = 11,
    log: bool = False,
    characters: Characters = "braille",
) -> str:
    """Draw schedules over a run as text, for a terminal without pictures.

    Several are drawn one below the other, over the same axes.

    Args:
        schedules: A schedule (or a plain function of the step), a sequence of them, or a
            mapping of names to them. Without names, several are called as they print.
        steps: Steps in the run, in [1, 2**31 - 1]; None is until the last of their ends.
        width: Columns of the whole, at least 20; None is as wide as the terminal, and 80 where
            there is none.
        height: Rows of a chart, without the axis below it; at least 3.
        log: Whether the values are on a logarithmic axis. What is below a
            millionth of the peak is a gap.
        characters: `"braille"` (8 dots to a character) or `"ascii"`, for a terminal that has
            no others.

    Returns:
        The lines, of at most `width` columns.

    Raises:
        ValueError: There is no schedule, one has no end and `steps` is not given, or an
            argument is outside its range.

    Example:
        >>> import odyssey_jax as ody
        >>> print(ody.plots.plot_text(ody.cosine_decay(0.1, 100), width=40, height=5))
         0.1│⠉⠉⠉⠙⠒⠒⠲⠤⢄⣀⡀
            │          ⠉⠙⠲⠤⣄⡀
        0.05│               ⠉⠑⠲⢤⣀
            │                    ⠉⠓⠢⢤⣀⡀
           0│                         ⠉⠙⠒⠲⠤⠤⢄⣀⣀⣀
            └┬────────────────┬─────────────────
             0               50
    """
    if width is None:
        width = max(shutil.get_terminal_size((80, 24)).columns, _LEAST_WIDTH)
    for name, value, least in (("width", width, _LEAST_WIDTH), ("height", height, _LEAST_HEIGHT)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    if characters not in ("braille", "ascii"):
        raise ValueError(f"characters must be 'braille' or 'ascii', got {characters!r}.")
    seen = surveys(schedules, steps)
    low, high = _range(list(seen.values()), log)
    charts = []
    for name, each in seen.items():
        title = [shortened(name, width)] if len(seen) > 1 else []
        charts += [*title, *_chart(each, low, high, width, height, log, characters)]
    return "\n".join(line.rstrip() for line in charts)


def _range(seen: list[Survey], log: bool) -> tuple[float, float]:
    """The least and the greatest value shown: 0 is shown, unless the axis is logarithmic."""
    values = np.concatenate([each.values for each in seen])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values):
        raise ValueError("there is no value above 0 to draw on a logarithmic axis.")
    if log:
        high = np.log10(values.max())
        low = max(np.log10(values.min()), high + np.log10(DECADES))
    else:
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _chart(
    seen: Survey, low: float, high: float, width: int, height: int, log: bool, characters: str
) -> list[str]:
    braille = characters == "braille"
    labels = _value_labels(low, high, height, log)
    margin = max(map(len, labels))
    columns = width - margin - 1
    across, down = (2, 4) if braille else (1, 1)
    ink = _ink(seen, low, high, columns * across, height * down, log)
    if braille:
        cells = ink.reshape(height, 4, columns, 2)
        codes = np.einsum("hrcd,rd->hc", cells, _DOTS)
        rows = ["".join(chr(0x2800 + code) if code else " " for code in row) for row in codes]
        corner, bar, line, tick = "└", "│", "─", "┬"
    else:
        rows = ["".join("*" if dot else " " for dot in row) for row in ink]
        corner, bar, line, tick = "+", "|", "-", "+"
    text = [f"{label:>{margin}}{bar}{row}" for label, row in zip(labels, rows, strict=True)]
    return text + _step_axis(seen.total, margin, columns, corner, line, tick)


def _ink(seen: Survey, low: float, high: float, columns: int, rows: int, log: bool) -> np.ndarray:
    """Which dots are drawn, bool [rows, columns]: in each column, from its least to its greatest.

    A column also reaches to where the one before it left off, so that a curve is a line and a
    cut is an upright one.
    """
    values = seen.values
    if log:
        values = np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), np.nan)
    place = (high - values) / (high - low) * (rows - 1)
    column = (seen.steps / max(seen.total - 1, 1) * (columns - 1)).round().astype(int)
    # A run of fewer steps than columns is joined by lines.
    if len(seen.steps) < 4 * columns:
        fine = np.linspace(0, seen.total - 1, 4 * columns)
        place = np.interp(fine, seen.steps, place)
        column = (fine / max(seen.total - 1, 1) * (columns - 1)).round().astype(int)
    ink = np.zeros((rows, columns), bool)
    last = None
    for at in range(columns):
        here = place[column == at]
        here = here[np.isfinite(here) & (here < rows)]
        if not len(here):
            last = None
            continue
        top, bottom = here.min(), here.max()
        if last is not None:  # half of the way is for the column before
            top, bottom = min(top, last + 1), max(bottom, last - 1)
        ink[int(np.round(top)) : int(np.round(bottom)) + 1, at] = True
        last = here[-1]
    return ink


def _value_labels(low: float, high: float, height: int, log: bool) -> list[str]:
    """A label for the rows that divide the axis evenly, with a row between any two."""
    parts = next((n for n in (5, 4, 3, 2) if (height - 1) % n == 0 and height > 2 * n), 1)
    labels = []
    for row in range(height):
        value = high - (high - low) * row / (height - 1)
        value = 10**value if log else value
        wanted = row % ((height - 1) // parts) == 0
        labels.append(_value_label(value, high, log) if wanted else "")
    return labels


def _value_label(value: float, high: float, log: bool) -> str:
    if not log and abs(value) < 1e-9 * abs(high):
        return "0"
    return f"{value:.2g}" if log else f"{value:.3g}"


def _step_axis(
    total: int, margin: int, columns: int, corner: str, line: str, tick: str
) -> list[str]:
    """The axis, and round steps below it, as many as there is room for."""
    axis, below = [line] * columns, [" "] * (margin + 1 + columns)
    every = _round_up(total / max(1, columns // 10))
    for step in range(0, total, every):
        at = round(step / max(total - 1, 1) * (columns - 1))
        label = step_label(step)
        start = min(margin + 1 + max(at - len(label) // 2, 0), len(below) - len(label))
        if any(x != " " for x in below[max(start - 1, 0) : start + len(label)]):
            continue
        axis[at] = tick
        below[start : start + len(label)] = label
    return [f"{' ' * margin}{corner}{''.join(axis)}", "".join(below)]


def _round_up(x: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    size = 1
    while size < x:
        size = size * 5 // 2 if str(size)[0] == "2" else size * 2
    return size
