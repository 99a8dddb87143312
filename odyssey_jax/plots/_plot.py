"""Schedules drawn: one or several, with their parts, by step and by epoch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax.plots._figure import name_curves_below, new_figure, save_picture
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

# Told apart with any colour vision (M. Okabe and K. Ito, Color Universal Design, 2008), and by
# their lines as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
_JOINT = "#888888"

# With more joints than this, lines would hide the curve. Letters of a name from side to side.
_MOST_JOINTS = 16
_LETTERS = 110

# What is less than this share of the peak is not drawn on a logarithmic axis: a decay to 0 would
# take all of it.
DECADES = 1e-6

# Points of a curve: more than a picture has columns, so that stairs stay upright.
_POINTS = 8192


def plot(
    schedules: Schedules,
    steps: int | None = None,
    *,
    log: bool = False,
    steps_per_epoch: float | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw schedules over a run.

    Where there is one, its parts are named above it, and a line stands at each joint and at the
    end; where there are several, they share the axes and have a legend.

    Args:
        schedules: A schedule (or a plain function of the step), a sequence of them, or a
            mapping of names to them. Without names, they are called as they print.
        steps: Steps in the run, in [1, 2**31 - 1]; None is until the last of their ends.
        log: Whether the values are on a logarithmic axis. What is below a
            millionth of its peak is a gap.
        steps_per_epoch: Steps in an epoch, for a second axis in epochs; None for none.
        path: Where to save it; the suffix (.png, .svg, .pdf) says in which format. None saves
            nothing.

    Returns:
        The figure: a notebook shows it, and `figure.axes[0]` takes what is to be added.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There is no schedule, one has no end and `steps` is not given, an argument
            is outside its range, or the suffix is no picture's.
        OSError: The file cannot be written; what was there before is kept.

    Example:
        >>> import odyssey_jax as ody
        >>> figure = ody.plot(ody.warmup_cosine(0.1, 100, 1_000), steps_per_epoch=50)
        >>> figure.axes[0].get_xlabel()
        'step'
    """
    if steps_per_epoch is not None and not 0 < steps_per_epoch < float("inf"):
        raise ValueError(f"steps_per_epoch must be greater than 0, got {steps_per_epoch!r}.")
    seen = surveys(schedules, steps)
    figure = new_figure(8, 4.2)
    ax = figure.add_subplot()
    styles, curves = itertools.cycle(itertools.product(LINES, COLORS)), []
    for (name, each), (line, color) in zip(seen.items(), styles, strict=False):
        x, y = _points(each)
        if log:
            y = np.where(y > DECADES * each.peak, y, np.nan)
        (curve,) = ax.plot(x, y, color=color, linestyle=line, linewidth=1.8)
        curves.append((shortened(name, _LETTERS), curve))
    total = max(each.total for each in seen.values())
    _scale(ax, log, total)
    if len(seen) == 1:
        _mark_parts(ax, next(iter(seen.values())))
    else:
        name_curves_below(figure, curves)
    ax.set_ylabel("value (log scale)" if log else "value")
    ax.set_xlabel("step")
    if steps_per_epoch is not None:
        width = steps_per_epoch
        epochs = ax.secondary_xaxis(
            "top", functions=(lambda t: np.divide(t, width), lambda e: np.multiply(e, width))
        )
        epochs.set_xlabel("epoch")
    if path is not None:
        save_picture(figure, path)
    return figure


def surveys(schedules: Schedules, steps: int | None) -> dict[str, Survey]:
    """Each schedule over the same run, by name."""
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


def shortened(name: str, width: int) -> str:
    """A name in so many letters."""
    return name if len(name) <= width else f"{name[: width - 3]}..."


def _points(seen: Survey) -> tuple[np.ndarray, np.ndarray]:
    """The curve: at the steps looked at, or at as many of them as can be seen."""
    every = max(1, len(seen.steps) // _POINTS)
    near = [seen.joints - 1, seen.joints, seen.joints + 1]
    shown = np.isin(seen.steps, np.concatenate(near)) | (np.arange(len(seen.steps)) % every == 0)
    shown[-1] = True
    return seen.steps[shown], seen.values[shown]


def _scale(ax: Axes, log: bool, total: int) -> None:
    ax.set_xlim(0, total)
    ax.xaxis.set_major_formatter(lambda step, _: step_label(step))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if log:
        ax.set_yscale("log")
    else:
        ax.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)


def _mark_parts(ax: Axes, seen: Survey) -> None:
    """A line at each joint, and the names of the parts above the curve, where there is room."""
    joints = [float(x) for x in seen.joints if 0 < x < seen.total]
    if len(joints) > _MOST_JOINTS:
        return
    for joint in joints:
        ax.axvline(joint, color=_JOINT, linewidth=0.8, linestyle=":")
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
        place = (left + width / 2, 0.97)
        ax.text(
            *place,
            name,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            color=_JOINT,
            fontsize=8,
        )
    ax.margins(y=0.12)


def _part_at(seen: Survey, step: float) -> str:
    span = [part for part in seen.parts if part.start <= step][-1]
    return "held" if span.end is not None and span.end <= step else span.kind.replace("_", " ")


def step_label(step: float) -> str:
    """Steps as people write them: 500, 10,000, 2.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if abs(step) >= size:
            return f"{step / size:.6g}{unit}"
    return f"{step:,.6g}"
