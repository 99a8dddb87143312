"""Figures of matplotlib's object interface, and how they become files.

Without pyplot: nothing global is touched, and no display is needed.  Each file is written beside
its place and then moved there, so a reader sees the old picture or the new one, never half of
one.
"""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
