"""The one style of all pictures, and how they become files.

Drawn by matplotlib's object interface and without pyplot: nothing global is touched, and no
display is needed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax._files import create
from odyssey_jax._text import missing, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Told apart with any colour vision (M. Okabe and K. Ito, Color Universal Design, 2008), and by
# their lines as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
INK, FAINT = "#444444", "#888888"  # of marks, and of what stays in the background

# Values that span more than this factor are drawn on a logarithmic axis.
WIDE = 20

_LEGEND_ROW = 0.17  # inches


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", "plot") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    vars(figure)["_repr_png_"] = functools.partial(_as_png, figure)
    return figure


def _as_png(figure: Figure) -> bytes:
    """Return a figure as a notebook asks for it where pyplot, which would see to it, is unused."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def new_axes(*heights: float, x: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels one above the other, over one horizontal axis.

    Args:
        *heights: The height of each panel in inches, from the top down.
        x: The label of the horizontal axis; an "epoch" is marked at whole numbers only.

    Returns:
        The figure, 8 inches wide, and the axes of its panels.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> figure, (loss, rate) = new_axes(3.4, 2.0, x="epoch")
        >>> rate.get_xlabel()
        'epoch'
    """
    figure = new_figure(8, sum(heights) + 0.6)
    grid = figure.add_gridspec(len(heights), height_ratios=heights)
    axes = [figure.add_subplot(grid[i]) for i in range(len(heights))]
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.sharex(axes[0])
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[-1].set_xlabel(x)
    if x == "epoch":
        from matplotlib.ticker import MaxNLocator

        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def styles() -> Iterator[dict[str, str]]:
    """Yield the styles of curves that share axes: all colours, then all again with another line."""
    for line, color in itertools.cycle(itertools.product(LINES, COLORS)):
        yield {"color": color, "linestyle": line}


def draw(ax: Axes, x: Any, y: Any, **style: Any) -> Line2D:
    """Draw a curve; one of a single point is a dot."""
    dot = "o" if len(x) == 1 else None
    (curve,) = ax.plot(x, y, **{"linewidth": 1.8, "marker": dot, **style})
    return curve


def draw_star(ax: Axes, x: float, y: float, color: str = INK) -> Line2D:
    """Mark the best point of a curve."""
    (star,) = ax.plot([x], [y], marker="*", markersize=12, linestyle="none", color=color, zorder=3)
    return star


def draw_mark(ax: Axes, x: float, color: str = INK, **style: Any) -> Line2D:
    """Draw a dotted line at a place of the horizontal axis."""
    return ax.axvline(x, **{"linewidth": 1, "linestyle": ":", "color": color, **style})


def scale_values(ax: Axes, curves: Sequence[np.ndarray], log: bool = False) -> None:
    """Scale the vertical axis: logarithmic, or linear with a power of ten above it."""
    if not log:
        ax.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        return
    from matplotlib.ticker import LogLocator

    ax.set_yscale("log")
    wide = span(curves)
    marks = range(1, 10) if wide < 10 else (1, 2, 5) if wide < 1000 else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=tuple(marks)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def span(curves: Sequence[np.ndarray]) -> float:
    """Return the ratio of the greatest to the least value, or 1 unless all are positive."""
    every = np.concatenate(curves)
    every = every[np.isfinite(every)]
    return float(every.max() / every.min()) if every.size and every.min() > 0 else 1.0


def add_legend(where: Axes | Figure, curves: Sequence[tuple[str, Line2D]], **how: Any) -> None:
    """Add a legend with each name as it is: a "$" begins no formula, a "_" hides nothing.

    Args:
        where: What gets the legend.
        curves: Each curve with its name.
        **how: Other arguments of `legend`.
    """
    lines = [line for _, line in curves]
    legend = where.legend(lines, [" "] * len(lines), frameon=False, **how)
    for text, (name, _) in zip(legend.get_texts(), curves, strict=True):
        text.set(text=printable(name), parse_math=False)


def add_legend_below(figure: Figure, curves: Sequence[tuple[str, Line2D]]) -> None:
    """Add a legend below the axes; the figure grows by its height."""
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(len(curves) - 2, 0))
    add_legend(figure, curves, loc="outside lower center", fontsize=8)


def shortened(name: str, width: int) -> str:
    """Return a name in at most so many letters."""
    return name if len(name) <= width else f"{name[: width - 3]}..."


def save_picture(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Save a figure, and return it.

    The file is written beside its place and then moved there: a reader sees the old picture or
    the new one, never half of one.

    Args:
        figure: The figure.
        path: Where to save it; the suffix (.png, .svg, .pdf) is the format. None saves nothing.

    Returns:
        The figure.

    Raises:
        ValueError: If the suffix is not that of a picture.
        OSError: If the file cannot be written; what was there before is kept.
    """
    if path is None:
        return figure
    path = Path(path)
    suffix = path.suffix.lstrip(".").lower()
    formats = figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(
            f"the path of a picture must end in one of {', '.join(sorted(formats))}, "
            f"got {path.name!r}."
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with create(partial) as file:
            figure.savefig(file, format=suffix)
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None:  # not the system's: its text says what is wrong
            raise
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return figure
