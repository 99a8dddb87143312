"""A callback of one's own, from two functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from odyssey_jax._types import Event, Point, PyTree, Signal


@dataclasses.dataclass(frozen=True)
class FunctionCallback:
    """The callback that `callback` makes."""

    init: Callable[[Event], PyTree]
    update: Callable[[PyTree, Event], tuple[PyTree, Signal]]
    points: tuple[Point, ...]


def callback(
    init: Callable[[Event], PyTree],
    update: Callable[[PyTree, Event], tuple[PyTree, Signal]],
    points: Sequence[Point] = (Point.EPOCH_END,),
) -> FunctionCallback:
    """Makes a callback of a pair of pure functions.

    Args:
        init: `event -> state`; structure, shapes and dtypes are final.
        update: `(state, event) -> (state, signal)`; start from `Signal.none()`.
        points: when `update` is called; see `event.point`.

    Returns:
        A callback. Two are equal if their functions are the same, so define the functions
        once: a loop is compiled anew for a new function.

    Raises:
        ValueError: something in `points` is no `Point`.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> def stop_below(state, event):
        ...     reached = event.metric("loss") < 0.1
        ...     reason = jnp.where(reached, ody.StopReason.REQUESTED, ody.StopReason.NONE)
        ...     return state, ody.Signal.none()._replace(stop=reason.astype(jnp.int32))
        >>> target = ody.callback(lambda event: None, stop_below)
        >>> bool(target.update(None, ody.Event({"loss": 0.05}))[1].stop)
        True
    """
    for point in points:
        if not isinstance(point, Point):
            names = ", ".join(f"Point.{p.name}" for p in Point)
            raise ValueError(f"points must be of {names}; got {point!r}.")
    return FunctionCallback(init, update, tuple(points))
