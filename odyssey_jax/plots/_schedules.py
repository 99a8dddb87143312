"""Schedules drawn over a run: as a picture, and as text for a terminal."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from odyssey_jax._checks import check_count, check_words
from odyssey_jax.plots import _style
from odyssey_jax.schedules import Schedule, Survey, survey

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Schedules = (
    Schedule
    | Callable[[Any], Any]
    | Sequence[Schedule | Callable[[Any], Any]]
    | Mapping[str, Schedule | Callable[[Any], Any]]
)
Characters = Literal["braille", "ascii"]

# With more joints than this, lines would hide the curve. Letters of a name from side to side.
_MOST_JOINTS = 16
_LETTERS = 110

# What is less than this share of the peak is not drawn on a logarithmic axis: a decay to 0 would
# take all of it.
_DECADES = 1e-6

# Points of a curve: more than a picture has columns, so that stairs stay upright.
_POINTS = 8192

# The eight dots of a braille character: by row from the top, left and right.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_LEAST_WIDTH, _LEAST_HEIGHT = 20, 3


def plot(
    schedules: Schedules,
    steps: int | None = None,
    *,
    log: bool = False,
    steps_per_epoch: float | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw schedules over a run.

    One schedule has its parts named above it, with a line at each joint and at the end. Several
    share the axes and have a legend.

    Args:
        schedules: A schedule (or a plain function of the step), a sequence of them, or a
            mapping of names to them. Without names, they are called as they print.
        steps: Steps in the run, in [1, 2**31 - 1]; None ends it with the last of the schedules.
        log: Whether the values are on a logarithmic axis. What is below a millionth (1e-6) of
            the peak is a gap.
        steps_per_epoch: Steps in an epoch, for a second axis in epochs; None for none.
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format. None saves nothing.

    Returns:
        The figure: a notebook shows it, and `figure.axes[0]` takes what is to be added.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no schedule, one has no end and `steps` is not given, an argument
            is outside its range, or the suffix is not that of a picture.
        OSError: If the file cannot be written; what was there before is kept.

    Example:
        >>> import odyssey_jax as ody
        >>> figure = ody.plot(ody.warmup_cosine(0.1, 100, 1_000), steps_per_epoch=50)
        >>> figure.axes[0].get_xlabel()
        'step'
    """
    if steps_per_epoch is not None and not 0 < steps_per_epoch < float("inf"):
        raise ValueError(f"steps_per_epoch must be greater than 0, got {steps_per_epoch!r}.")
    seen = _surveys(schedules, steps)
    figure, (ax,) = _style.new_axes(3.6, x="step")
    curves = []
    for (name, each), style in zip(seen.items(), _style.styles(), strict=False):
        x, y = _points(each)
        if log:
            y = np.where(y > _DECADES * each.peak, y, np.nan)
        curves.append((_style.shortened(name, _LETTERS), _style.draw(ax, x, y, **style)))
    ax.set_xlim(0, max(each.total for each in seen.values()))
    ax.xaxis.set_major_formatter(lambda step, _: step_label(step))
    _style.scale_values(ax, [curve.get_ydata() for _, curve in curves], log)
    if len(seen) == 1:
        _mark_parts(ax, next(iter(seen.values())))
    else:
        _style.add_legend_below(figure, curves)
    ax.set_ylabel("value (log scale)" if log else "value")
    if steps_per_epoch is not None:
        width = steps_per_epoch
        epochs = ax.secondary_xaxis(
            "top", functions=(lambda t: np.divide(t, width), lambda e: np.multiply(e, width))
        )
        epochs.set_xlabel("epoch")
        # The power of ten of the values, left of the axis: above it are the epochs.
        ax.yaxis.get_offset_text().set(x=-0.02, horizontalalignment="right")
    return _style.save_picture(figure, path)


def _surveys(schedules: Schedules, steps: int | None) -> dict[str, Survey]:
    """Return a survey of each schedule over the same run, by name."""
    if isinstance(schedules, Mapping):
        named = {str(name): each for name, each in schedules.items()}
    elif callable(schedules):
        named = {repr(schedules): schedules}
    else:
        named = {}
        for each in schedules:
            name = repr(each)
            named[name if name not in named else f"{name} ({len(named)})"] = each
    if not named:
        raise ValueError(f"there is no schedule to draw: got schedules = {schedules!r}.")
    if steps is None:
        steps = max(survey(each).total for each in named.values())
    return {name: survey(each, steps) for name, each in named.items()}


def _points(seen: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve: at the steps of the survey, or at as many of them as can be seen."""
    every = max(1, len(seen.steps) // _POINTS)
    near = [seen.joints - 1, seen.joints, seen.joints + 1]
    shown = np.isin(seen.steps, np.concatenate(near)) | (np.arange(len(seen.steps)) % every == 0)
    shown[-1] = True
    return seen.steps[shown], seen.values[shown]


def _mark_parts(ax: Axes, seen: Survey) -> None:
    """Draw a line at each joint, and name the parts above the curve where there is room."""
    joints = [float(x) for x in seen.joints if 0 < x < seen.total]
    if len(joints) > _MOST_JOINTS:
        return
    for joint in joints:
        _style.draw_mark(ax, joint, _style.FAINT, linewidth=0.8)
    letter = seen.total / _LETTERS
    taken: list[tuple[float, float]] = []
    parts = [(a, b, _part_at(seen, a)) for a, b in itertools.pairwise([0.0, *joints, seen.total])]
    # The wide ones first; a narrow one's name may reach into the next part.
    for start, stop, name in sorted(parts, key=lambda part: part[0] - part[1]):
        width = (len(name) + 2) * letter
        left = max((start + stop - width) / 2, start)
        if left + width > seen.total or any(left < b and a < left + width for a, b in taken):
            continue
        taken.append((left, left + width))
        where = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
        ax.text(left + width / 2, 0.97, name, color=_style.FAINT, fontsize=8, **where)
    ax.margins(y=0.12)


def _part_at(seen: Survey, step: float) -> str:
    span = [part for part in seen.parts if part.start <= step][-1]
    return "held" if span.end is not None and span.end <= step else span.kind.replace("_", " ")


def step_label(step: float) -> str:
    """Return a step as people write it: 500, 10,000, 2.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if abs(step) >= size:
            return f"{step / size:.6g}{unit}"
    return f"{step:,.6g}"


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
        steps: Steps in the run, in [1, 2**31 - 1]; None ends it with the last of the schedules.
        width: Columns of the whole, at least 20; None is as wide as the terminal, and 80 where
            there is none.
        height: Rows of a chart, without the axis below it; at least 3.
        log: Whether the values are on a logarithmic axis. What is below a millionth (1e-6) of
            the peak is a gap.
        characters: `"braille"` (8 dots to a character) or `"ascii"`, for a terminal that has
            no others.

    Returns:
        The lines, of at most `width` columns.

    Raises:
        ValueError: If there is no schedule, one has no end and `steps` is not given, or an
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
    width = check_count("width", width, _LEAST_WIDTH)
    height = check_count("height", height, _LEAST_HEIGHT)
    check_words("characters", characters, ("braille", "ascii"))
    seen = _surveys(schedules, steps)
    low, high = _range(list(seen.values()), log)
    charts = []
    for name, each in seen.items():
        title = [_style.shortened(name, width)] if len(seen) > 1 else []
        charts += [*title, *_chart(each, low, high, width, height, log, characters)]
    return "\n".join(line.rstrip() for line in charts)


def _range(seen: list[Survey], log: bool) -> tuple[float, float]:
    """Return the least and the greatest value shown: 0 is, unless the axis is logarithmic."""
    values = np.concatenate([each.values for each in seen])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values):
        raise ValueError("there is no value above 0 to draw on a logarithmic axis.")
    if log:
        high = np.log10(values.max())
        low = max(np.log10(values.min()), high + np.log10(_DECADES))
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
    """Return the dots to draw, bool [rows, columns]: in each column from the least to the greatest.

    A column also reaches to where the previous one ended, so that a curve is a line and a jump an
    upright one.
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
    """Return a label for the rows that divide the axis evenly, with a row between any two."""
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
    """Return the axis, and below it as many round steps as there is room for."""
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
    """Return the next of 1, 2, 5, 10, 20, 50, ..."""
    size = 1
    while size < x:
        size = size * 5 // 2 if str(size)[0] == "2" else size * 2
    return size
