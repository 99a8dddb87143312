"""The two pictures of a run: its curves, and its confusion matrix."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax.plots._figure import name_curves, new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart with any colour vision (M. Okabe and K. Ito, Color Universal Design, 2008), and by
# their lines as well.
_TRAIN = {"color": "#0072B2", "linestyle": "-"}
_VALID = {"color": "#D55E00", "linestyle": "--"}
_BEST = "#444444"

# More classes than this have no room for a number in each cell.
_MOST_NUMBERED = 40


def save_curves(
    history: Mapping[str, np.ndarray], path: str | os.PathLike, best_epoch: int | None = None
) -> None:
    """Draw loss, accuracy and learning rate by epoch, one above the other, into a file.

    A panel is drawn for what the history has.  A loss that spans more than a factor of 20 is
    drawn on a logarithmic axis.  A NaN is a gap in its curve.

    Args:
        history: one value for each epoch, by name, each [epochs].  Used are "train/loss",
            "valid/loss", "train/accuracy", "valid/accuracy", "learning_rate" and, for the
            horizontal axis, "epoch" (default 1, 2, ...).
        path: where to; the suffix (.png, .svg, .pdf) says in which format.
        best_epoch: the epoch to mark, in the units of the axis (so the first is 1).

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the history has none of these, lengths differ, `best_epoch` is not in it,
            or the suffix is no picture's.
        OSError: the file cannot be written; what was there before is kept.

    >>> import tempfile
    >>> history = {"train/loss": np.array([2.0, 1.0]), "learning_rate": np.array([0.1, 0.05])}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_curves(history, f"{directory}/curves.svg", best_epoch=2)
    ...     print(os.listdir(directory))
    ['curves.svg']
    """
    save_picture(_curves_figure(history, _PANELS, best_epoch), path)


def plot_history(
    history: Any,
    metrics: Sequence[str] | None = None,
    *,
    best_epoch: int | None = None,
    path: str | os.PathLike | None = None,
) -> "Figure":
    """Draw a run's metrics by epoch, a panel for each: of training and validation in one.

    As in `save_curves`, a loss that spans more than a factor of 20 is drawn on a logarithmic
    axis, and a NaN is a gap.

    Args:
        history: a `FitResult`, or one value for each epoch, by name, each [epochs].
        metrics: what to draw, from the top down, without "train/" and "valid/", such as "loss";
            None draws everything that the history has.
        best_epoch: the epoch to mark, in the units of the history's "epoch"; that of a
            `FitResult` is marked anyway.
        path: where to save it; the suffix (.png, .svg, .pdf) says in which format. None saves
            nothing.

    Returns:
        The figure: a notebook shows it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the metrics are one name, or the history has nothing of one, or nothing at
            all; lengths differ, `best_epoch` is not in it, or the suffix is no picture's.
        OSError: the file cannot be written; what was there before is kept.

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
    figure = _curves_figure(history, there if metrics is None else metrics, best_epoch)
    if path is not None:
        save_picture(figure, path)
    return figure


def _quantities(history: Mapping[str, np.ndarray]) -> list[str]:
    """Return what the curves are of: the loss first, rates last."""
    names = [name for name in history if name not in ("epoch", "step")]
    found = dict.fromkeys(re.sub("^(train|valid)/", "", name) for name in names)
    return sorted(found, key=lambda name: (name != "loss", name.startswith("learning_rate")))


def _curves_figure(
    history: Mapping[str, np.ndarray], quantities: Sequence[str], best_epoch: int | None
) -> "Figure":
    series = {name: np.atleast_1d(np.asarray(x, np.float64)) for name, x in history.items()}
    panels = [quantity for quantity in quantities if _curves_of(quantity, series)]
    epochs = _epochs(series, [name for q in panels for name in _curves_of(q, series)])
    if best_epoch is not None and best_epoch not in epochs:
        raise ValueError(
            f"best_epoch must be one of the epochs {epochs[0]:g} to {epochs[-1]:g}, "
            f"got {best_epoch!r}."
        )

    heights = [3.4 if quantity == "loss" else 2.0 for quantity in panels]
    figure = new_figure(8, sum(heights) + 0.6)
    grid = figure.add_gridspec(len(panels), height_ratios=heights)
    axes = [figure.add_subplot(grid[i]) for i in range(len(panels))]
    for quantity, ax in zip(panels, axes, strict=True):
        ax.sharex(axes[0])
        _draw_panel(ax, quantity, epochs, series, best_epoch)
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[-1].set_xlabel("epoch")
    return figure


def save_confusion(
    counts: np.ndarray, path: str | os.PathLike, class_names: Sequence[str] | None = None
) -> None:
    """Draw a confusion matrix into a file: counts as numbers, shares of the row as colour.

    Args:
        counts: integers [classes, classes], true class by row, predicted by column.
        path: where to; the suffix (.png, .svg, .pdf) says in which format.
        class_names: a name for each class (default 0, 1, ...).

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `counts` is not square or has negative entries, there are not as many names
            as classes, or the suffix is no picture's.
        OSError: the file cannot be written; what was there before is kept.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_confusion(np.array([[5, 1], [0, 6]]), f"{directory}/confusion.svg", ["a", "b"])
    ...     print(os.listdir(directory))
    ['confusion.svg']
    """
    save_picture(_confusion_figure(counts, class_names), path)


def confusion_pixels(counts: np.ndarray) -> np.ndarray:
    """Draw a confusion matrix as `save_confusion` does.

    Args:
        counts: integers [classes, classes], true class by row, predicted by column.

    Returns:
        The picture, uint8 [height, width, 3].

    >>> confusion_pixels(np.array([[5, 1], [0, 6]])).shape[2]
    3
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_confusion_figure(counts))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _confusion_figure(counts: np.ndarray, class_names: Sequence[str] | None = None) -> "Figure":
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ValueError(f"counts must be a square matrix, got shape {list(counts.shape)}.")
    if np.any(counts < 0):
        raise ValueError(f"counts must not be negative, got {counts.min()}.")
    n = len(counts)
    names = [str(name) for name in (range(n) if class_names is None else class_names)]
    if len(names) != n:
        raise ValueError(f"class_names must be {n} names, one for each class, got {len(names)}.")

    side = float(np.clip(0.5 * n + 1, 4, 16))
    figure = new_figure(side + 1.2, side + 0.4)
    ax = figure.add_subplot()
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right, total = np.trace(counts), counts.sum()
    ax.set_title(f"{right} of {total} right" + (f" ({right / total:.1%})" if total else ""))
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    _name_classes(ax, names, side / n)
    if n <= _MOST_NUMBERED:
        _number_cells(ax, counts, shares, 0.9 * side / n)
    bar = figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03, aspect=4 * side)
    bar.set_label("share of the true class")
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    bar.outline.set_visible(False)
    return figure


_PANELS = ("loss", "accuracy", "learning_rate")


def _curves_of(quantity: str, series: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Return the names of the curves of a panel that there are, each with its style."""
    styles = {f"train/{quantity}": _TRAIN, f"valid/{quantity}": _VALID, quantity: _TRAIN}
    return {name: style for name, style in styles.items() if name in series}


def _epochs(series: Mapping[str, np.ndarray], used: Sequence[str]) -> np.ndarray:
    """Return the horizontal axis, checked against every curve that is drawn."""
    if not used:
        names = ", ".join(repr(name) for name in sorted(series)) or "nothing"
        raise ValueError(
            "there is nothing to draw: the history needs 'train/loss', 'valid/loss', "
            f"'train/accuracy', 'valid/accuracy' or 'learning_rate', and has {names}."
        )
    epochs = series.get("epoch", np.arange(1, len(series[used[0]]) + 1))
    lengths = {name: list(series[name].shape) for name in used}
    if any(shape != list(epochs.shape) for shape in lengths.values()) or epochs.size == 0:
        raise ValueError(
            f"the history needs one value for each of {len(epochs)} epochs (and at least one "
            f"epoch), got shapes {lengths}."
        )
    return epochs


def _draw_panel(
    ax: "Axes",
    quantity: str,
    epochs: np.ndarray,
    series: Mapping[str, np.ndarray],
    best_epoch: int | None,
) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    curves, named = _curves_of(quantity, series), []
    for name, style in curves.items():
        dot = "o" if len(epochs) == 1 else None
        (curve,) = ax.plot(epochs, series[name], linewidth=1.8, marker=dot, **style)
        named.append((name.split("/")[0], curve))
    label = quantity.replace("_", " ")
    wide = span([series[name] for name in curves])
    if quantity == "loss" and wide > 20:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide < 1000 else (1,)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        label += " (log scale)"
    if best_epoch is not None:
        ax.axvline(best_epoch, color=_BEST, linewidth=1, linestyle=":")
        if not quantity.startswith("learning_rate"):
            name = list(curves)[-1]
            value = series[name][np.flatnonzero(epochs == best_epoch)[0]]
            mark = f"best epoch {best_epoch}: {value:.4g}"
            style = {"marker": "*", "markersize": 12, "linestyle": "none", "color": _BEST}
            (star,) = ax.plot([best_epoch], [value], zorder=3, **style)
            named.append((mark, star))
    ax.set_ylabel(label, parse_math=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if quantity.startswith("learning_rate"):
        ax.set_ylim(bottom=0)
        ax.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
    else:
        name_curves(ax, named)


def span(curves: Sequence[np.ndarray]) -> float:
    """Return the ratio of the largest to the least value, or 1 if not all are positive."""
    every = np.concatenate(curves)
    every = every[np.isfinite(every)]
    return float(every.max() / every.min()) if every.size and every.min() > 0 else 1.0


def _name_classes(ax: "Axes", names: Sequence[str], cell: float) -> None:
    """Write the names beside the rows and under the columns, `cell` inches wide each."""
    every = max(1, -(-len(names) // _MOST_NUMBERED))
    ticks = list(range(0, len(names), every))
    shown = [names[i] for i in ticks]
    size = 10 if len(names) <= 20 else 8
    ax.set_yticks(ticks, shown, fontsize=size, parse_math=False)
    ax.set_xticks(ticks, shown, fontsize=size, parse_math=False)
    if _inches(max(map(len, shown)), size) > 0.8 * cell * every:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _number_cells(ax: "Axes", counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Write each count that is not 0 into its cell, in what can be read on its colour."""
    room = 0.85 * cell / _inches(max(2, len(str(counts.max()))), 1)
    size = min(11.0, room)
    for t, p in np.argwhere(counts > 0):
        color = "white" if shares[t, p] > 0.55 else "#222222"
        ax.text(p, t, str(counts[t, p]), ha="center", va="center", color=color, fontsize=size)


def _inches(letters: int, size: float) -> float:
    """Return about how wide a text is: a letter is 0.62 of its size in points, 1/72 inch."""
    return letters * 0.62 * size / 72
