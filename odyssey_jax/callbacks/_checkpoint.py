"""Asks for a checkpoint every so often; what is kept of them is the store's to carry out."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from odyssey_jax._types import Event, Point, Signal
from odyssey_jax.callbacks._monitor import Mode, check_monitor


class Retention(NamedTuple):
    """Which checkpoints a store keeps; the arguments of `Store` under the same names."""

    keep_last: int | None
    keep_best: int
    monitor: str | None
    mode: Mode


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The callback that `checkpoint` makes; it has no state."""

    every_epochs: int
    retention: Retention

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> None:
        """Checks that the monitored metric exists."""
        if self.retention.monitor is not None:
            event.metric(self.retention.monitor)

    def update(self, state: None, event: Event) -> tuple[None, Signal]:
        """Asks for a save at every n-th epoch's end."""
        due = (jnp.asarray(event.clock.epoch, jnp.int32) + 1) % self.every_epochs == 0
        return state, Signal.none()._replace(save=due)


def checkpoint(
    *,
    every_epochs: int = 1,
    keep_last: int | None = 1,
    keep_best: int = 0,
    monitor: str | None = None,
    mode: Mode = "min",
) -> Checkpoint:
    """Saves the whole carry every n epochs; keeps the last ones and the best.

    `fit` also saves at the end of the run, whatever the cadence. What is kept is the union of
    the last and the best of the epochs that were saved; the latest is always kept. In a loop
    of one's own, save when `signal.save` says so (`Store` does it).

    Args:
        every_epochs: epochs from one save to the next, at least 1.
        keep_last: how many of the newest to keep, at least 1; None keeps all.
        keep_best: how many of the best by `monitor` to keep as well, at least 0.
        monitor: the metric's name, needed where `keep_best` is not 0.
        mode: whether "min" or "max" is better.

    Returns:
        A callback whose `retention` holds the arguments for `Store`.

    Raises:
        ValueError: an argument is out of its range; or, when the loop is traced, there is no
            such metric.

    Example:
        >>> import odyssey_jax as ody
        >>> saving = ody.checkpoint(every_epochs=5)
        >>> [epoch for epoch in range(12)
        ...  if saving.update(None, ody.Event({}, ody.Clock(0, epoch)))[1].save]
        [4, 9]
    """
    _check_count("every_epochs", every_epochs, 1)
    if keep_last is not None:
        _check_count("keep_last", keep_last, 1, " or None for all")
    _check_count("keep_best", keep_best, 0)
    if monitor is not None:
        check_monitor(monitor, mode)
    elif keep_best:
        raise ValueError(f"keep_best={keep_best} needs a monitor, such as monitor='valid/loss'.")
    if monitor is not None and not keep_best:
        raise ValueError(f"monitor={monitor!r} is for keep_best, which is 0: say how many to keep.")
    return Checkpoint(every_epochs, Retention(keep_last, keep_best, monitor, mode))


def _check_count(name: str, value: int, least: int, otherwise: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}{otherwise}, got {value!r}."
        )
