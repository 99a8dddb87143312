"""Another callback, but only in some epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from odyssey_jax._types import Callback, Event, Point, PyTree, Signal
from odyssey_jax.callbacks._chain import chain, report_each
from odyssey_jax.callbacks._checkpoint import Checkpoint
from odyssey_jax.callbacks._when import When, epoch_of, require_epochs

_ALWAYS = (Point.TRAIN_BEGIN, Point.TRAIN_END)


@dataclasses.dataclass(frozen=True)
class On:
    """The callback that `on` makes; its state is the other's."""

    when: When
    callback: Callback

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts where the other does."""
        return self.callback.points

    def init(self, event: Event) -> PyTree:
        """Makes the other's state."""
        return self.callback.init(event)

    def update(self, state: PyTree, event: Event) -> tuple[PyTree, Signal]:
        """Updates the other, if this is one of the epochs."""
        if event.point in _ALWAYS:
            return self.callback.update(state, event)

        def act():
            return self.callback.update(state, event)

        def rest():
            changes = jax.eval_shape(act)[1].state is not None
            return state, Signal.none()._replace(state=event.state if changes else None)

        return lax.cond(self.when.holds(*epoch_of(event.clock)), act, rest)

    def report(self, state: PyTree) -> Mapping[str, Any]:
        """What the other adds to the history, if it does."""
        return report_each((self.callback,), (state,))


def on(when: When, callback: Callback) -> On:
    """Lets a callback act only in the epochs at whose end a condition holds.

    In the others it sees nothing: an early stopping with a patience of 3 on every fifth epoch
    waits for 15. At the beginning and the end of the training it always acts.

    Args:
        when: a condition on epochs. `every(epochs=5)` are the epochs 4, 9, ..., counted from 0,
            at whose ends 5, 10, ... are done.
        callback: the callback.

    Returns:
        A callback with the other's state.

    Raises:
        TypeError: one of them is something else.
        ValueError: the condition is not on epochs alone; or the callback is a `checkpoint`,
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
