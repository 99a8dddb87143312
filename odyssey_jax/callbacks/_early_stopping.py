"""Stops a run whose monitored metric no longer improves."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._types import Event, Point, Signal, StopReason
from odyssey_jax.callbacks._monitor import Best, Mode, check_monitor, init_best, update_best


class EarlyStoppingState(NamedTuple):
    """The state of `early_stopping`.

    Args:
        best: the best epoch so far.
        wait: int32 scalar, the number of epochs since without improvement.
    """

    best: Best
    wait: jax.Array


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """The callback that `early_stopping` makes."""

    monitor: str
    patience: int
    min_delta: float
    mode: Mode
    restore_best: bool

    @property
    def points(self) -> tuple[Point, ...]:
        """Acts at the end of an epoch and, to restore the best, of the training."""
        return (Point.EPOCH_END, Point.TRAIN_END) if self.restore_best else (Point.EPOCH_END,)

    def init(self, event: Event) -> EarlyStoppingState:
        """Makes the state of a run that has seen no epoch."""
        best = init_best(event, self.monitor, snapshot=self.restore_best)
        return EarlyStoppingState(best, jnp.zeros((), jnp.int32))

    def update(self, state: EarlyStoppingState, event: Event) -> tuple[EarlyStoppingState, Signal]:
        """Counts an epoch; at the end of the training hands back the best parameters."""
        if event.point is Point.TRAIN_END:
            return state, Signal.none()._replace(state=restored(state.best, event))
        best, improved = update_best(state.best, event, self.monitor, self.mode, self.min_delta)
        wait = jnp.where(improved, 0, state.wait + 1)
        stop = wait >= max(self.patience, 1)  # patience 0: at the first bad epoch
        signal = Signal(
            stop=jnp.where(stop, StopReason.NO_IMPROVEMENT, StopReason.NONE).astype(jnp.int32),
            detail=jnp.where(stop, wait, 0),
            save=jnp.zeros((), bool),
        )
        return EarlyStoppingState(best, wait), signal


def restored(best: Best, event: Event):
    """The train state with the best parameters in it, once any epoch has been seen."""
    now = (event.state.params, event.state.model_state)
    params, model_state = jax.tree.map(lambda b, n: jnp.where(best.seen, b, n), best.snapshot, now)
    return event.state._replace(params=params, model_state=model_state)


def early_stopping(
    monitor: str,
    patience: int,
    *,
    min_delta: float = 0.0,
    mode: Mode = "min",
    restore_best: bool = False,
) -> EarlyStopping:
    r"""Stops when a metric has not improved for `patience` epochs.

    With $m_t$ the metric of epoch $t$ and $b$ the best so far, epoch $t$ improves if
    $m_t < b - \delta$ (mode "min") or $m_t > b + \delta$ (mode "max"), where $\delta$ is
    `min_delta`: strictly, so that a flat metric does not. The first value always improves;
    NaN never does. The run stops once `patience` epochs in a row have not improved (with a
    patience of 0 or 1, at the first).

    The hyper-parameters are no part of the state: another patience applies from the resume on.

    Args:
        monitor: the metric's name, such as "valid/loss".
        patience: epochs without improvement after which to stop, at least 0.
        min_delta: the least absolute change that counts, at least 0.
        mode: whether "min" or "max" is better.
        restore_best: whether the result holds the parameters (and the model state) of the best
            epoch. Keeps one copy of them in the carry. Checkpoints hold the latest ones beside
            it, so a run that is continued continues from where it was.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: an argument is out of its range; or, when the loop is traced, there is no
            such metric.

    Source:
        Prechelt, "Early Stopping - But When?" (1998), criterion UP; semantics as Lightning's.

    Example:
        In a loop of one's own:

        >>> import odyssey_jax as ody
        >>> stopping = ody.early_stopping("valid/loss", patience=2)
        >>> event = lambda epoch, loss: ody.Event({"valid/loss": loss}, ody.Clock(epoch, epoch))
        >>> state = stopping.init(event(0, 0.0))
        >>> for epoch, loss in enumerate([6.0, 5.0, 5.0, 5.0, 4.0]):
        ...     state, signal = stopping.update(state, event(epoch, loss))
        ...     if signal.stop:
        ...         break
        >>> epoch, ody.StopReason(int(signal.stop)).sentence(int(signal.detail))
        (3, 'no improvement for 2 epochs')
    """
    check_monitor(monitor, mode, min_delta)
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
        raise ValueError(f"patience must be an integer of at least 0, got {patience!r}.")
    return EarlyStopping(monitor, patience, float(min_delta), mode, restore_best)
