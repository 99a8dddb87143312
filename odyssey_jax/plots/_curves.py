"""Curves by epoch: the metrics of one run, or one metric of several runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax._text import printable
from odyssey_jax._types import Mode
from odyssey_jax.plots import _style
from odyssey_jax.runs import Run, find_runs, known_mode, name_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_RATE = "learning_rate"
_TRAIN, _VALID = ({"color": _style.COLORS[i], "linestyle": _style.LINES[i]} for i in (0, 1))
_LETTERS = 90  # of a run's name in the legend


def save_curves(
    history: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    best_epoch: int | None = None,
) -> None:
    """Draw loss, accuracy and learning rate by epoch into a file, as `plot_history` does.

    Args:
        history: One value for each epoch, by name, each [epochs]. Used are "train/loss",
            "valid/loss", "train/accuracy", "valid/accuracy", "learning_rate" and, for the
            horizontal axis, "epoch" (default 0, 1, ...).
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format.
        best_epoch: The epoch to mark, in the units of the axis (so the first is 0).

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: As for `plot_history`.
        OSError: If the file cannot be written; what was there before is kept.

    Example:
        >>> import tempfile
        >>> history = {"train/loss": np.array([2.0, 1.0]), "learning_rate": np.array([0.1, 0.05])}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_curves(history, f"{directory}/curves.svg", best_epoch=1)
        ...     print(os.listdir(directory))
        ['curves.svg']
    """
    _style.save_picture(_figure(history, ("loss", "accuracy", _RATE), best_epoch), path)


def plot_history(
    history: Any,
    metrics: Sequence[str] | None = None,
    *,
    best_epoch: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a run's metrics by epoch, with a panel for training and validation of each.

    A loss that spans more than a factor of 20 is drawn on a logarithmic axis. Where values are
    missing (NaN), those that there are are joined, each a dot.

    Args:
        history: A `FitResult`, or one value for each epoch, by name, each [epochs].
        metrics: What to draw, from the top down, without "train/" and "valid/", such as "loss";
            None draws everything that the history has.
        best_epoch: The epoch to mark, in the units of the history's "epoch"; None marks that of
            a `FitResult`.
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format. None saves nothing.

    Returns:
        The figure: a notebook shows it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `metrics` is one string, or the history has nothing of one of them, or
            nothing at all; if lengths differ, `best_epoch` is not in it, or the suffix is not
            that of a picture.
        OSError: If the file cannot be written; what was there before is kept.

    Example:
        >>> import numpy as np
        >>> from odyssey_jax import plot_history
        >>> history = {"train/loss": np.array([2.0, 1.0]), "valid/accuracy": np.array([0.6, 0.9])}
        >>> [axes.get_ylabel() for axes in plot_history(history).axes]
        ['loss', 'accuracy']
    """
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be several names, such as [{metrics!r}], got {metrics!r}.")
    if best_epoch is None:
        best_epoch = getattr(history, "best_epoch", None)
    history = getattr(history, "history", history)
    there = _quantities(history)
    for name in metrics or ():
        if name not in there:
            raise ValueError(f"metrics: there is no {name!r} in the history; draw of: {there}.")
    return _style.save_picture(
        _figure(history, there if metrics is None else metrics, best_epoch), path
    )


def _quantities(history: Mapping[str, np.ndarray]) -> list[str]:
    """Return what the curves are of: the loss first, rates last."""
    names = [name for name in history if name not in ("epoch", "step")]
    found = dict.fromkeys(re.sub("^(train|valid)/", "", name) for name in names)
    return sorted(found, key=lambda name: (name != "loss", name.startswith(_RATE)))


def _figure(
    history: Mapping[str, np.ndarray], quantities: Sequence[str], best_epoch: int | None
) -> Figure:
    series = {name: np.atleast_1d(np.asarray(x, np.float64)) for name, x in history.items()}
    panels = [quantity for quantity in quantities if _curves_of(quantity, series)]
    epochs = _epochs(series, [name for q in panels for name in _curves_of(q, series)])
    if best_epoch is not None and best_epoch not in epochs:
        raise ValueError(
            f"best_epoch must be one of the epochs {epochs[0]:g} to {epochs[-1]:g}, "
            f"got {best_epoch!r}."
        )
    heights = [3.4 if quantity == "loss" else 2.0 for quantity in panels]
    figure, axes = _style.new_axes(*heights, x="epoch")
    for quantity, ax in zip(panels, axes, strict=True):
        _draw_panel(ax, quantity, epochs, series, best_epoch)
    return figure


def _curves_of(quantity: str, series: Mapping[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """Return the names of the curves of a panel that there are, each with its style."""
    found = {f"train/{quantity}": _TRAIN, f"valid/{quantity}": _VALID, quantity: _TRAIN}
    return {name: style for name, style in found.items() if name in series}


def _epochs(series: Mapping[str, np.ndarray], used: Sequence[str]) -> np.ndarray:
    """Return the horizontal axis, checked against every curve that is drawn."""
    if not used:
        names = ", ".join(repr(name) for name in sorted(series)) or "nothing"
        raise ValueError(
            "there is nothing to draw: the history needs 'train/loss', 'valid/loss', "
            f"'train/accuracy', 'valid/accuracy' or 'learning_rate', and has {names}."
        )
    epochs = series.get("epoch", np.arange(len(series[used[0]])))
    lengths = {name: list(series[name].shape) for name in used}
    if any(shape != list(epochs.shape) for shape in lengths.values()) or epochs.size == 0:
        raise ValueError(
            f"the history needs one value for each of {len(epochs)} epochs (and at least one "
            f"epoch), got shapes {lengths}."
        )
    return epochs


def _draw_panel(
    ax: Axes,
    quantity: str,
    epochs: np.ndarray,
    series: Mapping[str, np.ndarray],
    best_epoch: int | None,
) -> None:
    found, is_rate = _curves_of(quantity, series), quantity.startswith(_RATE)
    named = [
        (name.split("/")[0], _draw(ax, epochs, series[name], **style))
        for name, style in found.items()
    ]
    values = [series[name] for name in found]
    log = quantity == "loss" and _style.span(values) > _style.WIDE
    name = printable(quantity.replace("_", " "))
    ax.set_ylabel(name + (" (log scale)" if log else ""), parse_math=False)
    if log:
        _style.scale_values(ax, values, log=True)
    if best_epoch is not None:
        _style.draw_mark(ax, best_epoch)
    if is_rate:
        _scale_rates(ax, values)
        return
    if best_epoch is not None:
        value = float(values[-1][np.flatnonzero(epochs == best_epoch)[0]])
        if not np.isnan(value):
            star = _style.draw_star(ax, best_epoch, value)
            named.append((f"best epoch {best_epoch}: {value:.4g}", star))
    _style.add_legend(ax, named)


def _draw(ax: Axes, epochs: np.ndarray, values: np.ndarray, **style: str) -> Line2D:
    """Draw a curve; where values are missing, dots that are joined: one may be alone."""
    there = ~np.isnan(values)
    if there.all() or not there.any():
        return _style.draw(ax, epochs, values, **style)
    return _style.draw(ax, epochs[there], values[there], marker="o", markersize=4, **style)


def _scale_rates(ax: Axes, curves: Sequence[np.ndarray]) -> None:
    """Scale the rates: from 0, or logarithmic where runs, or half of one, span decades.

    The end of a schedule does not count: a cosine falls to 0, and is best seen from there.
    """
    positive = [curve[np.isfinite(curve) & (curve > 0)] for curve in curves]
    typical = [[curve.max(), np.median(curve)] for curve in positive if curve.size]
    if not typical or _style.span([np.ravel(typical)]) <= _style.WIDE:
        ax.set_ylim(bottom=0)
        _style.scale_values(ax, ())
        return
    least = min(curve.min() for curve in positive if curve.size)
    bottom = max(float(least), 1e-2 * float(np.min(typical)))
    _style.scale_values(ax, [np.array([bottom, np.max(typical)])], log=True)
    ax.set_ylim(bottom=bottom)


def plot_runs(
    runs: Mapping[str, Run] | Iterable[Run] | str | os.PathLike[str],
    metric: str | None = None,
    *,
    mode: Mode | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a metric of several runs over one another, each with its best epoch.

    Below it are their learning rates, where they are recorded, on a logarithmic axis if they
    span decades. Where values are missing (NaN), those that there are are joined, each a dot.
    A run without the metric is left out.

    Args:
        runs: A directory, which is searched by `find_runs`; or runs, or names to runs. Without
            names they are called as their directories are.
        metric: The metric's name; None is the first run's, as `Run.best` chooses it.
        mode: Whether "min" or "max" is better; None is as one of the runs knows, or "min"
            for a loss.
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format. None saves nothing.

    Returns:
        The figure: a notebook shows it, and `figure.axes[0]` takes what is to be added.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `runs` are something else.
        ValueError: If the directory is none, no run has the metric, it is not known whether more
            or less of it is better, or the suffix is not that of a picture.
        OSError: If the file cannot be written; what was there before is kept.

    Example:
        >>> from pathlib import Path
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
    figure, (ax, *below) = _style.new_axes(*((3.85, 1.75) if rated else (4.0,)), x="epoch")
    curves = []
    for (name, run), style in zip(drawn.items(), _style.styles(), strict=False):
        epoch, value = best[name].epoch, best[name].value
        label = f"{_style.shortened(name, _LETTERS)}: {value:.4g} at epoch {epoch}"
        curves.append((label, _draw(ax, run.history["epoch"], run.history[metric], **style)))
        _style.draw_star(ax, epoch, value, style["color"])
        if _RATE in run.history:
            _style.draw(below[0], run.history["epoch"], run.history[_RATE], **style)
    values = [run.history[metric] for run in drawn.values()]
    if _style.span(values) > _style.WIDE:
        _style.scale_values(ax, values, log=True)
    ax.set_ylabel(printable(metric), parse_math=False)
    for rates in below:
        rates.set_ylabel("learning rate")
        _scale_rates(rates, [run.history[_RATE] for run in drawn.values() if _RATE in run.history])
    _style.add_legend_below(figure, curves)
    return _style.save_picture(figure, path)


def _named(runs: Any) -> dict[str, Run]:
    """Return the runs by their names."""
    if isinstance(runs, str | os.PathLike):
        found = {name_below(runs, run): run for run in find_runs(runs)}
    elif isinstance(runs, Mapping):
        found = {str(name): run for name, run in runs.items()}
    else:
        several = [runs] if isinstance(runs, Run) or not isinstance(runs, Iterable) else list(runs)
        found = {str(getattr(run, "directory", i)): run for i, run in enumerate(several)}
    if wrong := [run for run in found.values() if not isinstance(run, Run)]:
        raise TypeError(
            "runs must be a directory, or what ody.runs.find_runs(directory) returns, or names to "
            f"such runs; got {type(wrong[0]).__name__}. plot_history draws the result of a fit."
        )
    return found
