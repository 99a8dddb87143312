"""A callback of one's own, from two functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from odyssey_jax._types import Event, Point, PyTree, Signal
from odyssey_jax.callbacks._chain import check_points


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
        update: `(state, event) -> (state, signal)`; start from `Signal.none()` or
            `Signal.stop_if(...)`.
        points: when `update` is called; see `event.point`.

    Returns:
        A callback. Two are equal if their functions are the same, so define the functions
        once: a loop is compiled anew for a new function.

    Raises:
        TypeError: `init` or `update` is no function.
        ValueError: `points` is no sequence of `Point`s, at least one.

    Example:
        A callback with a state, written, checked and run. It stops after three rises in a row:

        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> def init(event):
        ...     event.metric("train/loss")  # a run that has no such metric is refused at once
        ...     return {"last": jnp.float32(jnp.inf), "rises": jnp.int32(0)}
        >>> def update(state, event):
        ...     loss = event.metric("train/loss")
        ...     rises = jnp.where(loss > state["last"], state["rises"] + 1, 0)
        ...     return {"last": loss, "rises": rises}, ody.Signal.stop_if(rises >= 3)
        >>> stop_rising = ody.callback(init, update)
        >>> ody.testing.check_callback(stop_rising)
        >>> task = ody.pure_task(jnp.ones(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.zeros(8), batch_size=4)
        >>> result = ody.fit(
        ...     task, optax.sgd(1.1), data, epochs=99, callbacks=stop_rising, writers=[])
        >>> result.epochs, result.reason
        (4, 'a callback asked to stop')

        The state goes into the checkpoints, and each member of a population has its own. What a
        callback `report`s of it, a dict of scalars, are columns of the history (`Reporting`); the
        hyper-parameters of one that is a frozen dataclass with `points`, `init` and `update` are
        its fields.
    """
    for name, function in (("init", init), ("update", update)):
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {function!r}.")
    if not isinstance(points, Sequence) or not points:
        raise ValueError(
            f"points must be a sequence of ody.Point, at least one, such as [ody.Point.EPOCH_END]; "
            f"got {points!r}."
        )
    check_points(points)
    return FunctionCallback(init, update, tuple(points))
