"""The picture of a confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from odyssey_jax._text import printable
from odyssey_jax.plots import _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More classes than this have no room for a number in each cell.
_MOST_NUMBERED = 40


def save_confusion(
    counts: np.ndarray,
    path: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
) -> None:
    """Draw a confusion matrix into a file: counts as numbers, shares of the row as colour.

    What is right (the diagonal) and the mistakes have a scale of colours each: that of the
    mistakes ends at the most frequent one, so that mistakes of 1 % are told apart.

    Args:
        counts: Integers [classes, classes], true class by row, predicted by column.
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format.
        class_names: A name for each class (default 0, 1, ...).

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `counts` is not square or has negative entries, there are not as many
            names as classes, or the suffix is not that of a picture.
        OSError: If the file cannot be written; what was there before is kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_confusion(np.array([[5, 1], [0, 6]]), f"{directory}/confusion.svg", ["a", "b"])
        ...     print(os.listdir(directory))
        ['confusion.svg']
    """
    _style.save_picture(_figure(counts, class_names), path)


def confusion_pixels(counts: np.ndarray) -> np.ndarray:
    """Draw a confusion matrix as `save_confusion` does.

    Args:
        counts: Integers [classes, classes], true class by row, predicted by column.

    Returns:
        The picture, uint8 [height, width, 3].

    Example:
        >>> confusion_pixels(np.array([[5, 1], [0, 6]])).shape[2]
        3
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_figure(counts))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _figure(counts: np.ndarray, class_names: Sequence[str] | None = None) -> Figure:
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ValueError(f"counts must be a square matrix, got shape {list(counts.shape)}.")
    if np.any(counts < 0):
        raise ValueError(f"counts must not be negative, got {counts.min()}.")
    n = len(counts)
    names = [printable(str(name)) for name in (range(n) if class_names is None else class_names)]
    if len(names) != n:
        raise ValueError(f"class_names must be {n} names, one for each class, got {len(names)}.")

    side = float(np.clip(0.5 * n + 1, 4, 16))
    figure = _style.new_figure(side + 2.2, side + 0.4)
    ax = figure.add_subplot()
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    diagonal = np.eye(n, dtype=bool)
    worst = float(shares[~diagonal].max(initial=0.0)) or 1.0
    right_image = ax.imshow(np.ma.masked_where(~diagonal, shares), cmap="Blues", vmin=0, vmax=1)
    wrong = np.ma.masked_where(diagonal, shares)
    wrong_image = ax.imshow(wrong, cmap="Reds", vmin=0, vmax=worst)
    right, total = np.trace(counts), counts.sum()
    ax.set_title(f"{right} of {total} right" + (f" ({right / total:.1%})" if total else ""))
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    ax.spines[:].set_visible(False)
    _name_classes(ax, names, side / n)
    if n <= _MOST_NUMBERED:
        _number_cells(ax, counts, np.where(diagonal, shares, shares / worst), 0.9 * side / n)
    for image, what, top in ((wrong_image, "mistaken", worst), (right_image, "right", 1.0)):
        bar = figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03, aspect=4 * side)
        bar.set_label(f"{what}, share of the true class")
        bar.ax.yaxis.set_major_formatter("{x:.0%}" if top > 0.05 else "{x:.2%}")
        bar.outline.set_visible(False)
    return figure


def _name_classes(ax: Axes, names: Sequence[str], cell: float) -> None:
    """Write the names beside the rows and below the columns, `cell` inches wide each."""
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


def _number_cells(ax: Axes, counts: np.ndarray, shades: np.ndarray, cell: float) -> None:
    """Write each count that is not 0 into its cell, legible on its colour.

    Args:
        ax: Where the matrix is drawn.
        counts: Integers [classes, classes].
        shades: The place of each cell in its scale of colours, in [0, 1].
        cell: The width of a cell in inches.
    """
    room = 0.85 * cell / _inches(max(2, len(str(counts.max()))), 1)
    size = min(11.0, room)
    for t, p in np.argwhere(counts > 0):
        color = "white" if shades[t, p] > 0.55 else "#222222"
        ax.text(p, t, str(counts[t, p]), ha="center", va="center", color=color, fontsize=size)


def _inches(letters: int, size: float) -> float:
    """Return about how wide a text is: a letter is 0.62 of its size in points, 1/72 inch."""
    return letters * 0.62 * size / 72
