"""Several runs in one picture: a metric and the learning rate by epoch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from odyssey_jax.plots._figure import name_curves_below, new_figure, save_picture
from odyssey_jax.plots._pictures import span
from odyssey_jax.plots._plot import COLORS, LINES, shortened
from odyssey_jax.runs._runs import Mode, Run, known_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_LETTERS = 90
_RATE = "learning_rate"
# A metric that spans more than this factor is drawn on a logarithmic axis.
_WIDE = 20


def plot_runs(
    runs: Mapping[str, Run] | Iterable[Run],
    metric: str | None = None,
    *,
    mode: Mode | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw a metric of several runs over one another, each with its best epoch.

    Below it are their learning rates, where they are recorded. NaN is a gap. A run that has
    nothing of the metric is left out.

    Args:
        runs: The runs, or names to runs; `find_runs` finds them. Without names they are called
            as their directories are.
        metric: The metric's name; None is the first run's, as `Run.best` chooses it.
        mode: Whether "min" or "max" is better; None is as one of the runs knows, or "min"
            for a loss.
        path: Where to save it; the suffix (.png, .svg, .pdf) says in which format. None saves
            nothing.

    Returns:
        The figure: a notebook shows it, and `figure.axes[0]` takes what is to be added.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: No run has the metric, it is not known whether more or less of it is better,
            or the suffix is no picture's.
        OSError: The file cannot be written; what was there before is kept.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from odyssey_jax.plots import plot_runs
    from odyssey_jax.runs import Run
        >>> losses = {"a": [2.0, 1.0, 1.5], "b": [3.0, 0.5, 0.4]}
        >>> runs = {name: Run(Path(name), {"epoch": np.arange(3), "valid/loss": np.array(loss)}, {})
        ...         for name, loss in losses.items()}
        >>> plot_runs(runs).axes[0].get_ylabel()
        'valid/loss'
    """
    named = _named(runs)
    metric = metric or next((best.metric for run in named.values() if (best := run.best())), None)
    mode = mode or (known_mode(named.values(), metric) if metric else None)
    found = {name: run.best(metric, mode) for name, run in named.items()} if metric else {}
    best = {name: each for name, each in found.items() if each is not None}
    if metric is None or not best:
        names = sorted({name for run in named.values() for name in run.history})
        what = "a loss" if metric is None else f"a number for {metric!r}"
        raise ValueError(f"none of {len(named)} runs has {what}; they have {names}.")
    drawn = {name: named[name] for name in best}
    rated = any(_RATE in run.history for run in drawn.values())
    figure = new_figure(8, 6.2 if rated else 4.6)
    heights = [2.2, 1.0] if rated else [1.0]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    axes = [figure.add_subplot(grid[i]) for i in range(len(heights))]
    styles, curves = itertools.cycle(itertools.product(LINES, COLORS)), []
    for (name, run), (line, color) in zip(drawn.items(), styles, strict=False):
        epoch, value = best[name].epoch, best[name].value
        label = f"{shortened(name, _LETTERS)}: {value:.4g} at epoch {epoch}"
        curves.append((label, _curve(axes[0], run, metric, color, line)))
        axes[0].plot(epoch, value, marker="*", markersize=11, color=color, zorder=3)
        if _RATE in run.history:
            _curve(axes[1], run, _RATE, color, line)
    if span([run.history[metric] for run in drawn.values()]) > _WIDE:
        axes[0].set_yscale("log")
    axes[0].set_ylabel(metric, parse_math=False)
    if rated:
        axes[1].sharex(axes[0])
        axes[1].set_ylabel("learning rate")
        axes[1].set_ylim(bottom=0)
        axes[1].ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        axes[0].tick_params(labelbottom=False)
    _label_epochs(axes)
    name_curves_below(figure, curves)
    if path is not None:
        save_picture(figure, path)
    return figure


def _named(runs: Mapping[str, Run] | Iterable[Run]) -> dict[str, Run]:
    if isinstance(runs, Mapping):
        return {str(name): run for name, run in runs.items()}
    return {str(run.directory): run for run in runs}


def _curve(ax: Axes, run: Run, name: str, color: str, line: str) -> Line2D:
    x, y = run.history["epoch"], run.history[name]
    dot = "o" if len(x) == 1 else None
    (curve,) = ax.plot(x, y, linewidth=1.8, marker=dot, color=color, linestyle=line)
    return curve


def _label_epochs(axes: Sequence[Axes]) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("epoch")
