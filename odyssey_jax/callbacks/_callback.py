"""What a callback says about itself, and a callback made of two functions.

`update` does the work. What it may ask for, which bests it holds and what it was made with are
optional members (see `Callback`): the functions here read them, with a cautious default for a
callback that lacks one. A wrapper delegates them to what it wraps.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax._checks import check_flag
from odyssey_jax._types import Callback, Event, Point, PyTree, Signal


class Best(NamedTuple):
    """The best epoch so far.

    Attributes:
        value: float32 or float64 scalar, the monitored metric there.
        epoch: int32 scalar, the index of the epoch.
        step: int32 scalar, the number of steps done at its end.
        seen: bool scalar, whether there has been any value yet. A flag rather than a sentinel:
            infinities and losses above 1e9 are legal values.
        snapshot: `(params, model_state)` at that epoch's end, or None where none is kept.
    """

    value: jax.Array
    epoch: jax.Array
    step: jax.Array
    seen: jax.Array
    snapshot: PyTree = None


class Tracked(NamedTuple):
    """A best epoch that a callback holds in its state.

    Attributes:
        monitor: The metric's name; None where the callback does not say.
        best: The best epoch so far.
        restores: Whether the callback gives its snapshot back as the result (`restore_best`).
    """

    monitor: str | None
    best: Best
    restores: bool


def asks_to_save(callback: Callback) -> bool:
    """Return whether a callback may ever set `Signal.save`.

    Args:
        callback: Any callback.

    Returns:
        Its `asks_to_save`; True where it does not say.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import asks_to_save
        >>> stopping = ody.early_stopping("valid/loss", patience=3)
        >>> asks_to_save(stopping), asks_to_save(ody.chain(stopping, ody.checkpoint()))
        (False, True)
    """
    return bool(getattr(callback, "asks_to_save", True))


def asks_to_stop(callback: Callback) -> bool:
    """Return whether a callback may ever stop the run.

    Args:
        callback: Any callback.

    Returns:
        Its `asks_to_stop`; True where it does not say.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import asks_to_stop
        >>> asks_to_stop(ody.max_steps(9)), asks_to_stop(ody.track_best("valid/loss"))
        (True, False)
    """
    return bool(getattr(callback, "asks_to_stop", True))


def restores_best(callback: Callback) -> bool:
    """Return whether a callback gives the best parameters back as the result.

    Args:
        callback: Any callback.

    Returns:
        Its `restore_best`; False where it does not say.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import restores_best
        >>> stopping = ody.early_stopping("valid/loss", patience=3, restore_best=True)
        >>> restores_best(ody.all_of(stopping))
        True
    """
    return bool(getattr(callback, "restore_best", False))


def monitors_of(callback: Callback) -> tuple[str, ...]:
    """Return the names of the metrics that a callback monitors, as far as it says so.

    Args:
        callback: Any callback.

    Returns:
        Its `monitor`, or those of the callbacks that it wraps.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import monitors_of, on
        >>> stopping = ody.early_stopping("valid/loss", patience=3)
        >>> monitors_of(ody.chain(on(ody.every(epochs=2), stopping), ody.track_best("accuracy")))
        ('valid/loss', 'accuracy')
    """
    wrapped = (*getattr(callback, "callbacks", ()), getattr(callback, "callback", None))
    monitor = getattr(callback, "monitor", None)
    own = (monitor,) if isinstance(monitor, str) else ()
    return own + tuple(name for x in wrapped if x is not None for name in monitors_of(x))


def bests_of(callback: Callback, state: PyTree) -> tuple[Tracked, ...]:
    """Return the best epochs that a callback holds in its state.

    Args:
        callback: Any callback.
        state: Its state.

    Returns:
        What its `bests(state)` gives. Where it has no such member, each `Best` in the state, under
        the callback's `monitor` and `restore_best`.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import bests_of
        >>> tracking = ody.chain(ody.callbacks.log(4), ody.track_best("accuracy", mode="max"))
        >>> found = bests_of(tracking, tracking.init(ody.Event({"accuracy": 0.0})))
        >>> [(tracked.monitor, tracked.restores) for tracked in found]
        [('accuracy', False)]
    """
    bests = getattr(callback, "bests", None)
    if bests is not None:
        return tuple(Tracked(*tracked) for tracked in bests(state))
    is_best = lambda x: isinstance(x, Best)
    monitor, restores = getattr(callback, "monitor", None), restores_best(callback)
    found = jax.tree.leaves(state, is_leaf=is_best)
    return tuple(Tracked(monitor, best, restores) for best in found if is_best(best))


def callback_signature(callback: Callback) -> Any:
    """Return what a callback is and was made with, as a JSON value.

    A resume compares it with that of the checkpoint. It is the same in every process, and options
    at their default are left out, so an option that a later version adds makes no difference
    where it is not used.

    Args:
        callback: Any callback.

    Returns:
        What its `signature()` gives, with tuples as lists. Where it has no such member: its
        class's name and its dataclass fields; for another class its `repr` without addresses.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import callback_signature, on
        >>> callback_signature(on(ody.every(epochs=2), ody.early_stopping("valid/loss", 3)))
        ... # doctest: +NORMALIZE_WHITESPACE
        {'name': 'On', 'when': 'every(epochs=2)',
         'callback': {'name': 'EarlyStopping', 'monitor': 'valid/loss', 'patience': 3}}
    """
    return _as_json(callback)


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it, by its content and not by where it lies in memory."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if callable(own := getattr(value, "signature", None)) and not isinstance(value, type):
        return _as_json(own())
    if isinstance(value, Mapping):
        return {str(name): _as_json(x) for name, x in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_as_json, value), key=repr)
    if hasattr(value, "_field_defaults"):  # a NamedTuple
        default, own = _as_json(value._field_defaults), _as_json(value._asdict())
        given = {name: x for name, x in own.items() if x != default.get(name, ...)}
        return {"name": kind.__qualname__, **given}
    if isinstance(value, Sequence):
        return [_as_json(x) for x in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return {"dtype": str(value.dtype), "values": _as_json(np.asarray(value).tolist())}
    if isinstance(value, functools.partial):
        given = {"function": value.func, "args": value.args, "keywords": value.keywords}
        return {"name": "partial", **_as_json(given)}
    if isinstance(value, types.MethodType):
        return {"name": value.__qualname__, "of": _as_json(value.__self__)}
    if hasattr(value, "__qualname__"):  # a function or a class
        return {"name": value.__qualname__}
    if dataclasses.is_dataclass(value):
        return {"name": kind.__qualname__, **_as_json(given_fields(value))}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def given_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, by name."""
    given = {}
    for field in dataclasses.fields(value):
        made, own = field.default_factory, getattr(value, field.name)
        default = field.default if made is dataclasses.MISSING else made()
        # As JSON, for arrays don't compare to a bool.
        if field.compare and _as_json(own) != _as_json(default):
            given[field.name] = own
    return given


class ShortRepr:
    """A dataclass whose repr leaves out the options that are at their default."""

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in given_fields(self).items()]
        return f"{type(self).__name__}({', '.join(given)})"


@dataclasses.dataclass(frozen=True, repr=False)
class FunctionCallback:
    """The callback that `callback` makes."""

    init: Callable[[Event], PyTree]
    update: Callable[[PyTree, Event], tuple[PyTree, Signal]]
    points: tuple[Point, ...]
    asks_to_save: bool = True
    asks_to_stop: bool = True

    def __repr__(self) -> str:
        names = (getattr(f, "__qualname__", repr(f)) for f in (self.init, self.update))
        return f"FunctionCallback({', '.join(names)})"


def callback(
    init: Callable[[Event], PyTree],
    update: Callable[[PyTree, Event], tuple[PyTree, Signal]],
    points: Sequence[Point] = (Point.EPOCH_END,),
    *,
    saves: bool = True,
    stops: bool = True,
) -> FunctionCallback:
    """Make a callback of a pair of pure functions.

    Args:
        init: `event -> state`; structure, shapes and dtypes are final.
        update: `(state, event) -> (state, signal)`; start from `Signal.none()` or
            `Signal.stop_if(...)`.
        points: When `update` is called; see `event.point`.
        saves: Whether it may ever ask for a save. Say False where it does not, so that `fit` may
            hold back the newest best while the save before is still being written.
        stops: Whether it may ever stop the run. Say False where it does not, so that a run that
            had stopped stays stopped on resume when this callback has changed.

    Returns:
        A callback. Two are equal if their functions are the same, so define the functions
        once: a loop is compiled anew for a new function.

    Raises:
        TypeError: If `init` or `update` is no function.
        ValueError: If `points` is no sequence of at least one `Point`, or `saves` or `stops` is no
            bool.

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
    check_flag("saves", saves)
    check_flag("stops", stops)
    return FunctionCallback(init, update, tuple(points), saves, stops)


def check_callbacks(callbacks: tuple[Any, ...]) -> tuple[Callback, ...]:
    """Raise unless each is a callback; return them."""
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, Callback):
            raise TypeError(
                f"{callback!r} is no callback: it needs points, init(event) and "
                "update(state, event); `ody.callback(init, update)` makes one of two functions, "
                "`ody.chain(*callbacks)` one of several callbacks."
            )
        check_points(callback.points)
    return callbacks


def check_points(points: Iterable[Any]) -> None:
    """Raise ValueError unless each is a Point, which a point's name is not."""
    for point in points:
        if not isinstance(point, Point):
            names = ", ".join(f"Point.{p.name}" for p in Point)
            raise ValueError(f"points must be of {names}; got {point!r}.")
