"""Several criteria for stopping as one: any of them, or only all of them together."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from odyssey_jax._types import Callback, Event, Point, PyTree, Signal, StopReason
from odyssey_jax.callbacks._chain import (
    Chain,
    chain,
    check_callbacks,
    init_each,
    report_each,
    update_each,
)


@dataclasses.dataclass(frozen=True)
class AllOf:
    """The callback that `all_of` makes; its state is the tuple of the others' states."""

    callbacks: tuple[Callback, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point that any of the callbacks acts at."""
        return Chain(self.callbacks).points

    def init(self, event: Event) -> tuple[PyTree, ...]:
        """Makes each callback's state."""
        return init_each(self.callbacks, event)

    def update(self, state: tuple[PyTree, ...], event: Event) -> tuple[tuple[PyTree, ...], Signal]:
        """Updates those that act at this point; stops if that is all of them, and all want to."""
        states, signals = update_each(self.callbacks, state, event)
        merged = functools.reduce(Signal.merge, signals, Signal.none())
        want = [signal.stop != StopReason.NONE for signal in signals]
        together = len(want) == len(self.callbacks)
        stop = functools.reduce(jnp.logical_and, want, jnp.asarray(together))
        agreed = Signal.stop_if(stop, merged.stop, merged.detail)
        return states, merged._replace(stop=agreed.stop, detail=agreed.detail)

    def report(self, state: tuple[PyTree, ...]) -> dict[str, Any]:
        """What those that are `Reporting` add to the history."""
        return report_each(self.callbacks, state)


def any_of(*callbacks: Callback) -> Chain:
    """Stops when any of several callbacks wants to: `chain`, by the name that it has in a rule.

    Args:
        *callbacks: such as `early_stopping(...)`; `all_of(...)` among them.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: one of them is no callback.
        ValueError: there is none.

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
    """Stops only when all of several callbacks want to, at the end of the same epoch.

    One that wanted to stop, and does no more since its metric has improved again, holds the
    others back. The reason is the first one's. Whatever else they ask for is done, as in a `chain`.

    Args:
        *callbacks: such as `early_stopping(...)`; `any_of(...)` among them.

    Returns:
        A callback whose state is the tuple of their states.

    Raises:
        TypeError: one of them is no callback.
        ValueError: there is none, or no point at which all of them act.

    Example:
        >>> import odyssey_jax as ody
        >>> both = ody.all_of(ody.early_stopping("a", 1), ody.early_stopping("b", 1))
        >>> at = lambda epoch, a, b: ody.Event({"a": a, "b": b}, ody.Clock(epoch, epoch))
        >>> state = both.init(at(0, 0.0, 0.0))
        >>> for epoch, (a, b) in enumerate([(3.0, 3.0), (3.0, 2.0), (3.0, 2.0)]):
        ...     state, signal = both.update(state, at(epoch, a, b))
        ...     print(ody.StopReason(int(signal.stop)).sentence(int(signal.detail)))
        still running
        still running
        no improvement for 2 epochs
    """
    _check_some("all_of", callbacks)
    check_callbacks(callbacks)
    if not set.intersection(*(set(callback.points) for callback in callbacks)):
        acts = "; ".join(f"{c!r} at {[p.value for p in c.points]}" for c in callbacks)
        raise ValueError(f"all_of never stops, since there is no point at which all act: {acts}.")
    return AllOf(callbacks)


def _check_some(name: str, callbacks: tuple[Callback, ...]) -> None:
    if not callbacks:
        raise ValueError(f"{name} needs at least one callback, such as early_stopping(...).")
