"""Several callbacks as one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._types import Callback, Event, Point, PyTree, Reporting, Signal


@dataclasses.dataclass(frozen=True)
class Chain:
    """The callback that `chain` makes; its state is the tuple of the others' states."""

    callbacks: tuple[Callback, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point that any of the callbacks acts at, in the order of a run."""
        wanted = {point for callback in self.callbacks for point in callback.points}
        return tuple(point for point in Point if point in wanted)

    def init(self, event: Event) -> tuple[PyTree, ...]:
        """Makes each callback's state."""
        return init_each(self.callbacks, event)

    def update(self, state: tuple[PyTree, ...], event: Event) -> tuple[tuple[PyTree, ...], Signal]:
        """Updates in order those that act at this point, and merges what they ask for."""
        states, signals = update_each(self.callbacks, state, event)
        return states, functools.reduce(Signal.merge, signals, Signal.none())

    def report(self, state: tuple[PyTree, ...]) -> dict[str, Any]:
        """What those that are `Reporting` add to the history."""
        return report_each(self.callbacks, state)


def init_each(callbacks: tuple[Callback, ...], event: Event) -> tuple[PyTree, ...]:
    """Makes each callback's state."""
    return tuple(_named(c, event, c.init, event) for c in callbacks)


def update_each(
    callbacks: tuple[Callback, ...], states: tuple[PyTree, ...], event: Event
) -> tuple[tuple[PyTree, ...], list[Signal]]:
    """Updates in order those that act at this point; also what each of them asks for.

    Each sees the train state as those before it left it.
    """
    signals, new = [], []
    for callback, state in zip(callbacks, states, strict=True):
        if event.point in callback.points:
            state, signal = _named(callback, event, _update, callback, state, event)
            signals.append(signal)
            if signal.state is not None:
                event = dataclasses.replace(event, state=signal.state)
        new.append(state)
    return tuple(new), signals


def report_each(callbacks: tuple[Callback, ...], states: tuple[PyTree, ...]) -> dict[str, Any]:
    """What those that are `Reporting` add to the history; a name that two have is refused."""
    columns: dict[str, Any] = {}
    for callback, state in zip(callbacks, states, strict=True):
        if isinstance(callback, Reporting):
            more = callback.report(state)
            if twice := sorted(columns.keys() & more.keys()):
                raise ValueError(
                    f"two callbacks add {', '.join(map(repr, twice))} to the history, the second "
                    f"is {callback!r}: leave one of them out."
                )
            columns |= more
    return columns


def _update(callback: Callback, state: PyTree, event: Event) -> tuple[PyTree, Signal]:
    """Updates one; a state that changes its form could not be carried."""
    new, signal = _returned(callback.update(state, event))
    for what, before, after in (("state", state, new), ("train state", event.state, signal.state)):
        if after is not None and _form(after) != _form(before):
            raise TypeError(
                f"the {what} that update returns has another form than the one it was given: "
                f"{_form(after)} instead of {_form(before)}"
            )
    if signal.state is not None:
        signal = signal._replace(state=_typed(signal.state, event.state))
    return _typed(new, state), signal


def _returned(result: Any) -> tuple[PyTree, Signal]:
    """What an update returns; refuses what no loop can act on."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Signal)):
        raise TypeError(f"update must return (state, signal), the signal a Signal; got {result!r}")
    stop, detail, save, _ = result[1]
    whole, flag = ("an integer", jnp.integer), ("a bool", jnp.bool_)
    for name, value, (words, kind) in (
        ("stop", stop, whole), ("detail", detail, whole), ("save", save, flag)
    ):  # fmt: skip
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), kind):
            raise TypeError(
                f"the signal's {name} must be {words} and a scalar, got {value!r}: make it by "
                "Signal.none() or Signal.stop_if(condition)"
            )
    return result


def _typed(new: PyTree, old: PyTree) -> PyTree:
    """The state with its dtypes strong: a weak one in the carry would make another program.

    A Python number has a weak one, and so has what `jnp.where` makes of two.
    """
    return jax.tree.map(lambda x, was: jnp.asarray(x, jnp.result_type(was)), new, old)


def _form(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves]


def _named(callback: Callback, event: Event, function: Callable, *args: Any) -> Any:
    """Calls a callback's function; whatever it raises says whose it is."""
    try:
        return function(*args)
    except Exception as error:
        error.add_note(f"raised by the callback {callback!r} at {event.point.value}")
        raise


def chain(*callbacks: Callback) -> Chain:
    """Joins callbacks into one, called in the order given.

    Any stop stops and the first reason wins; saves are or-ed; a callback sees the train state
    as those before it left it. A callback that raises while the loop is traced is named in a
    note on the exception. One of them may restore the best parameters (`restore_best`), for
    there is one result. Chains within a chain are laid out flat, so how callbacks are grouped
    makes no difference, to a checkpoint either.

    Args:
        *callbacks: those to join; none makes a callback that does nothing.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: one of them is no callback.
        ValueError: two of them restore the best, or one acts at something that is no `Point`.

    Source:
        `optax.chain`.

    Example:
        >>> import odyssey_jax as ody
        >>> both = ody.chain(ody.early_stopping("loss", patience=1), ody.track_best("accuracy"))
        >>> len(both.init(ody.Event({"loss": 0.0, "accuracy": 0.0})))
        2
    """
    flat: list[Callback] = []
    for callback in check_callbacks(callbacks):
        flat += callback.callbacks if isinstance(callback, Chain) else [callback]
    restoring = [found for callback in flat for found in _restoring(callback)]
    if len(restoring) > 1:
        raise ValueError(
            f"one callback may restore the best, for there is one result; got {restoring}. Of the "
            "other metrics track_best keeps the best parameters: see FitResult.bests."
        )
    return Chain(tuple(flat))


def _restoring(callback: Any) -> Iterator[Callback]:
    """Those among it, and what it is made of, that restore the best."""
    if getattr(callback, "restore_best", False):
        yield callback
    for within in (*getattr(callback, "callbacks", ()), getattr(callback, "callback", None)):
        if within is not None:
            yield from _restoring(within)


def check_callbacks(callbacks: tuple[Any, ...]) -> tuple[Callback, ...]:
    """Refuses what is no callback."""
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
    """Refuses what no loop comes to, a point's name included."""
    for point in points:
        if not isinstance(point, Point):
            names = ", ".join(f"Point.{p.name}" for p in Point)
            raise ValueError(f"points must be of {names}; got {point!r}.")
