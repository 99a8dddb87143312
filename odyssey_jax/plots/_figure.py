"""Figures of matplotlib's object interface, and how they become files.

Without pyplot: nothing global is touched, and no display is needed.  Each file is written beside
its place and then moved there, so a reader sees the old picture or the new one, never half of
one.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_LEGEND_ROW = 0.17  # inches


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, of so many inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures are drawn with matplotlib, which is not installed: "
            "pip install odyssey-jax[plot]"
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def name_curves(where: "Axes | Figure", curves: "Sequence[tuple[str, Line2D]]", **how: Any) -> None:
    """A legend with each name as it is written: a "$" is no formula, a "_" at its start no secret.

    Args:
        where: what gets the legend.
        curves: each with its name.
        **how: what `legend` takes as well.
    """
    lines = [line for _, line in curves]
    legend = where.legend(lines, [" "] * len(lines), frameon=False, **how)
    for text, (name, _) in zip(legend.get_texts(), curves, strict=True):
        text.set(text=name, parse_math=False)


def name_curves_below(figure: "Figure", curves: "Sequence[tuple[str, Line2D]]") -> None:
    """The same below the axes, in a figure that grows by as much."""
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(len(curves) - 2, 0))
    name_curves(figure, curves, loc="outside lower center", fontsize=8)


def save_picture(figure: "Figure", path: str | os.PathLike) -> None:
    """Write the figure beside its place, and move it there.

    Raises:
        ValueError: the suffix is no picture's.
        OSError: the file cannot be written; what was there before is kept.
    """
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
        figure.savefig(partial, format=suffix)
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None:  # not the system's: it says itself what is wrong
            raise
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
