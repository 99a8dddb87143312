"""Several callbacks as one, and one that acts in some epochs only."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._types import Callback, Event, Point, PyTree, Reporting, Signal, StopReason
from odyssey_jax.callbacks._callback import (
    Tracked,
    asks_to_save,
    asks_to_stop,
    bests_of,
    check_callbacks,
    restores_best,
)
from odyssey_jax.callbacks._checkpoint import Checkpoint
from odyssey_jax.callbacks._when import When, epoch_of, require_epochs

_ALWAYS = (Point.TRAIN_BEGIN, Point.TRAIN_END)


@dataclasses.dataclass(frozen=True)
class _Several:
    """What `Chain` and `AllOf` share: the state is the tuple of the others' states."""

    callbacks: tuple[Callback, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point that any of the callbacks acts at, in the order of a run."""
        wanted = {point for callback in self.callbacks for point in callback.points}
        return tuple(point for point in Point if point in wanted)

    @property
    def asks_to_save(self) -> bool:
        """Whether any of the callbacks may ask for a save."""
        return any(map(asks_to_save, self.callbacks))

    @property
    def restore_best(self) -> bool:
        """Whether any of the callbacks restores the best."""
        return any(map(restores_best, self.callbacks))

    def init(self, event: Event) -> tuple[PyTree, ...]:
        """Make each callback's state."""
        return tuple(_named(c, event, c.init, event) for c in self.callbacks)

    def report(self, state: tuple[PyTree, ...]) -> dict[str, Any]:
        """Return what those that are `Reporting` add to the history."""
        return _report_each(self.callbacks, state)

    def bests(self, state: tuple[PyTree, ...]) -> tuple[Tracked, ...]:
        """Return the best epochs that the callbacks hold."""
        pairs = zip(self.callbacks, state, strict=True)
        return tuple(tracked for callback, own in pairs for tracked in bests_of(callback, own))


class Chain(_Several):
    """The callback that `chain` makes; its state is the tuple of the others' states."""

    @property
    def asks_to_stop(self) -> bool:
        """Whether any of the callbacks may stop the run."""
        return any(map(asks_to_stop, self.callbacks))

    def update(self, state: tuple[PyTree, ...], event: Event) -> tuple[tuple[PyTree, ...], Signal]:
        """Update in order those that act at this point, and merge what they ask for."""
        states, signals = _update_each(self.callbacks, state, event)
        return states, functools.reduce(Signal.merge, signals, Signal.none())


class AllOf(_Several):
    """The callback that `all_of` makes; its state is the tuple of the others' states."""

    @property
    def asks_to_stop(self) -> bool:
        """Whether each of the callbacks may stop the run; else they never do together."""
        return all(map(asks_to_stop, self.callbacks))

    def update(self, state: tuple[PyTree, ...], event: Event) -> tuple[tuple[PyTree, ...], Signal]:
        """Update those that act at this point; stop if that is all of them, and all want to."""
        states, signals = _update_each(self.callbacks, state, event)
        merged = functools.reduce(Signal.merge, signals, Signal.none())
        want = [signal.stop != StopReason.NONE for signal in signals]
        together = len(want) == len(self.callbacks)
        stop = functools.reduce(jnp.logical_and, want, jnp.asarray(together))
        agreed = Signal.stop_if(stop, merged.stop, merged.detail)
        return states, merged._replace(stop=agreed.stop, detail=agreed.detail)


@dataclasses.dataclass(frozen=True)
class On:
    """The callback that `on` makes; its state is the other's."""

    when: When
    callback: Callback

    @property
    def points(self) -> tuple[Point, ...]:
        """Where the other acts."""
        return tuple(self.callback.points)

    @property
    def asks_to_save(self) -> bool:
        """Whether the other may ask for a save."""
        return asks_to_save(self.callback)

    @property
    def asks_to_stop(self) -> bool:
        """Whether the other may stop the run."""
        return asks_to_stop(self.callback)

    @property
    def restore_best(self) -> bool:
        """Whether the other restores the best."""
        return restores_best(self.callback)

    def init(self, event: Event) -> PyTree:
        """Make the other's state."""
        return self.callback.init(event)

    def update(self, state: PyTree, event: Event) -> tuple[PyTree, Signal]:
        """Update the other, if this is one of the epochs."""
        if event.point in _ALWAYS:
            return self.callback.update(state, event)

        def act():
            return self.callback.update(state, event)

        def rest():
            changes = jax.eval_shape(act)[1].state is not None
            return state, Signal.none()._replace(state=event.state if changes else None)

        return lax.cond(self.when.holds(*epoch_of(event.clock)), act, rest)

    def report(self, state: PyTree) -> Mapping[str, Any]:
        """Return what the other adds to the history, if it does."""
        return _report_each((self.callback,), (state,))

    def bests(self, state: PyTree) -> tuple[Tracked, ...]:
        """Return the best epochs that the other holds."""
        return bests_of(self.callback, state)


def chain(*callbacks: Callback) -> Chain:
    """Join callbacks into one, called in the order given.

    Any stop stops and the first reason wins; saves are or-ed; a callback sees the train state
    as those before it left it. A callback that raises while the loop is traced is named in a
    note on the exception. One of them may restore the best parameters (`restore_best`), for
    there is one result. Chains within a chain are laid out flat, so how callbacks are grouped
    makes no difference, to a checkpoint either.

    Args:
        *callbacks: Those to join; none makes a callback that does nothing.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: If one of them is no callback.
        ValueError: If two of them restore the best, or one acts at something that is no `Point`.

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
    _check_one_restores(flat)
    return Chain(tuple(flat))


def as_chain(callbacks: Callback | Sequence[Callback] | None) -> Chain:
    """Return what a loop is given as its callbacks as a chain: one, a list of several, or none."""
    if callbacks is None:
        return chain()
    return chain(*(callbacks if isinstance(callbacks, Sequence) else [callbacks]))


def any_of(*callbacks: Callback) -> Chain:
    """Stop when any of several callbacks wants to: `chain`, by the name that it has in a rule.

    Args:
        *callbacks: Such as `early_stopping(...)`; `all_of(...)` among them.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: If one of them is no callback.
        ValueError: If there is none.

    Example:
        >>> import odyssey_jax as ody
        >>> rule = ody.any_of(
        ...     ody.early_stopping("valid/loss", patience=50),
        ...     ody.all_of(
        ...         ody.early_stopping("valid/loss", patience=5),
        ...         ody.early_stopping("valid/accuracy", patience=5, mode="max"),
        ...     ),
        ... )
        >>> len(rule.callbacks)
        2
    """
    _check_some("any_of", callbacks)
    return chain(*callbacks)


def all_of(*callbacks: Callback) -> AllOf:
    """Stop only when all of several callbacks want to, at the end of the same epoch.

    One that wanted to stop, and does no more since its metric has improved again, holds the
    others back. The reason is the first one's. Whatever else they ask for is done, as in a `chain`.

    Args:
        *callbacks: Such as `early_stopping(...)`; `any_of(...)` among them.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: If one of them is no callback.
        ValueError: If there is none, there is no point at which all of them act, or two of them
            restore the best.

    Example:
        >>> import odyssey_jax as ody
        >>> names = ("clean/loss", "noisy/loss")
        >>> both = ody.all_of(*(ody.early_stopping(name, 1) for name in names))
        >>> at = lambda epoch, *x: ody.Event(dict(zip(names, x)), ody.Clock(epoch, epoch))
        >>> state = both.init(at(0, 0.0, 0.0))
        >>> for epoch, (a, b) in enumerate([(3.0, 3.0), (3.0, 2.0), (3.0, 2.0)]):
        ...     state, signal = both.update(state, at(epoch, a, b))
        ...     print(ody.StopReason(int(signal.stop)).sentence(int(signal.detail)))
        still running
        still running
        no improvement for 2 epochs
    """
    _check_some("all_of", callbacks)
    _check_one_restores(check_callbacks(callbacks))
    if not set.intersection(*(set(callback.points) for callback in callbacks)):
        acts = "; ".join(f"{c!r} at {[p.value for p in c.points]}" for c in callbacks)
        raise ValueError(f"all_of never stops, since there is no point at which all act: {acts}.")
    return AllOf(callbacks)


def on(when: When, callback: Callback) -> On:
    """Let a callback act only in the epochs at whose end a condition holds.

    In the others it sees nothing: an early stopping with a patience of 3 on every fifth epoch
    waits for 15. At the beginning and the end of the training it always acts.

    Args:
        when: A condition on epochs. `every(epochs=5)` are the epochs 4, 9, ..., counted from 0,
            at whose ends 5, 10, ... are done.
        callback: The callback.

    Returns:
        A callback with the other's state.

    Raises:
        TypeError: If one of them is something else.
        ValueError: If the condition is not on epochs alone; or the callback is a `checkpoint`,
            which has a condition of its own.

    Example:
        >>> import odyssey_jax as ody
        >>> history = ody.callbacks.on(ody.every(epochs=5), ody.callbacks.log(capacity=3))
        >>> event = lambda epoch: ody.Event({"loss": 1.0}, ody.Clock(epoch, epoch))
        >>> state = history.init(event(0))
        >>> for epoch in range(12):
        ...     state, _ = history.update(state, event(epoch))
        >>> state.epoch[: int(state.length)].tolist()
        [4, 9]
    """
    if any(isinstance(x, Checkpoint) for x in chain(callback).callbacks):
        raise ValueError(f"{callback!r} has its own condition: checkpoint({when!r}, ...).")
    require_epochs(when, "a callback acts")
    return On(when, callback)


def _check_some(name: str, callbacks: tuple[Callback, ...]) -> None:
    if not callbacks:
        raise ValueError(f"{name} needs at least one callback, such as early_stopping(...).")


def _check_one_restores(callbacks: Sequence[Callback]) -> None:
    restoring = [callback for callback in callbacks if restores_best(callback)]
    if len(restoring) > 1:
        raise ValueError(
            f"one callback may restore the best, for there is one result; got {restoring}. Of the "
            "other metrics track_best keeps the best parameters: see FitResult.bests."
        )


def _update_each(
    callbacks: tuple[Callback, ...], states: tuple[PyTree, ...], event: Event
) -> tuple[tuple[PyTree, ...], list[Signal]]:
    """Update in order those that act at this point; also return what each of them asks for.

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


def _report_each(callbacks: tuple[Callback, ...], states: tuple[PyTree, ...]) -> dict[str, Any]:
    """Return what those that are `Reporting` add to the history; two may not add one name."""
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
    """Update one callback; a state that changes its form could not be carried."""
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
    """Return the result of an update, once a loop can act on it."""
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
    """Return the state with strong dtypes: a weak one in the carry would make another program.

    A Python number has a weak one, and so has what `jnp.where` makes of two.
    """
    return jax.tree.map(lambda x, was: jnp.asarray(x, jnp.result_type(was)), new, old)


def _form(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves]


def _named(callback: Callback, event: Event, function: Callable, *args: Any) -> Any:
    """Call a callback's function; whatever it raises says whose it is."""
    try:
        return function(*args)
    except Exception as error:
        error.add_note(f"raised by the callback {callback!r} at {event.point.value}")
        raise
