"""Keras' callbacks that set the rate: on a plateau, and by a function of the epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import per_group, require
from odyssey_jax.compat._metric import metric_schedules, within
from odyssey_jax.schedules import Schedule, from_python, reduce_on_plateau


def ReduceLROnPlateau(
    base_lr: Any,
    monitor: str = "val_loss",
    factor: Any = 0.1,
    patience: Any = 10,
    mode: str = "auto",
    min_delta: Any = 1e-4,
    cooldown: Any = 0,
    min_lr: Any = 0.0,
) -> Any:
    """The rate times `factor` on a plateau, as `keras.callbacks.ReduceLROnPlateau`.

    It is `reduce_on_plateau` by Keras' rule: a cut on the bad value number `patience`, and a
    cooldown that is one shorter than it says.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        monitor: The metric's name, from which "auto" infers the mode: "loss" or "val_loss".
        factor: The factor of a cut; in [0, 1).
        patience: The bad values at which there is a cut; a whole number, at least 0.
        mode: Whether "min" or "max" is better; "auto" is "min" for a loss, and refused for others.
        min_delta: What an improvement has to exceed; as an absolute value.
        cooldown: Values after a cut that are never bad; a whole number, at least 0.
        min_lr: The least rate.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> plateau = keras.ReduceLROnPlateau(base_lr=0.1, factor=0.5, patience=2)
        >>> state = plateau.init()
        >>> for loss in [3.0, 2.0, 2.0, 2.0]:
        ...     state = plateau.update(state, loss)
        >>> print(plateau.lr(state))
        0.05
    """
    require(("auto", "min", "max").__contains__, "mode", mode, "'auto', 'min' or 'max'")
    if mode == "auto":
        is_loss = lambda x: str(x).removeprefix("val_") == "loss"
        require(is_loss, "monitor", monitor, "'loss' or 'val_loss' for mode 'auto'")
        mode = "min"
    rule = reduce_on_plateau(
        factor,
        patience,
        rtol=0.0,
        atol=abs(min_delta),
        cooldown=cooldown,
        mode=mode,  # pyright: ignore[reportArgumentType]
        patience_rule="keras",
        init_scale=within(base_lr, min_lr),
        min_scale=min_lr,
    )
    return metric_schedules(base_lr, rule)


def LearningRateScheduler(base_lr: Any, schedule: Callable[..., Any]) -> Any:
    """The rate that a function gives for the epoch, as `keras.callbacks.LearningRateScheduler`.

    The function is given the epoch and the rate in force, or, if it takes one argument, the
    epoch; it is called on the host (see `from_python`), for every epoch in order. A schedule of
    ours is taken as it is. A step of the result is an epoch; `by_epoch` runs it in updates.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        schedule: A function from the epoch, or from the epoch and the rate, to a rate.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If the schedule is not a function.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> halved = keras.LearningRateScheduler(
        ...     base_lr=0.8, schedule=lambda epoch, lr: lr if epoch < 10 else lr * 0.5
        ... )
        >>> print(halved(9), halved(10), halved(11))
        0.8 0.4 0.2
    """
    require(callable, "schedule", schedule, "a function of the epoch")
    if isinstance(schedule, Schedule):
        return per_group(base_lr, lambda lr: schedule)
    if not _takes_two(schedule):
        return per_group(base_lr, lambda lr: from_python(schedule))
    return per_group(base_lr, lambda lr: from_python(_Recurrence(schedule, lr)))


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0, 0.0)
    except TypeError:
        return False
    return True


class _Recurrence:
    """A rate made from the one before it; all of them are kept."""

    def __init__(self, function: Callable[[int, float], Any], first: Any) -> None:
        self.function = function
        self._rates = [first]

    def __call__(self, step: float) -> float:
        """The rate at a step; the ones before it are made on the way."""
        while len(self._rates) < int(step) + 2:
            epoch = len(self._rates) - 1
            self._rates.append(float(self.function(epoch, float(self._rates[-1]))))
        return self._rates[int(step) + 1]
