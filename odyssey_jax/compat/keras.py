"""Keras' schedules, and its callbacks that set the rate (as of 3.15)."""

from __future__ import annotations

import functools
import inspect
import math
from typing import TYPE_CHECKING

from odyssey_jax import schedules as ours
from odyssey_jax.compat import _common

if TYPE_CHECKING:  # so that the names in this module are Keras'
    from collections.abc import Callable, Sequence
    from typing import Any

    from odyssey_jax.schedules import Schedule

_ARGUMENTS = {
    "initial_learning_rate": "The rate at step 0.",
    "decay_steps": "Steps down; above 0.",
    "staircase": "Whether it changes only every `decay_steps` steps.",
}
_schedule = _common.documented(_ARGUMENTS, "keras.optimizers.schedules", "A schedule.")
_callback = functools.partial(_common.scheduler, _ARGUMENTS, "keras.callbacks")


@_schedule
def ExponentialDecay(
    initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False
) -> Schedule:
    """Multiply the rate by `decay_rate` over `decay_steps` steps.

    Equals `exponential_decay(initial_learning_rate, decay_steps, decay_rate)`.

    Args:
        decay_steps: Steps for one factor; above 0.
        decay_rate: The factor; above 0.

    Example:
        >>> keras.ExponentialDecay(initial_learning_rate=0.1, decay_steps=10, decay_rate=0.9)
        exponential_decay(init_value=0.1, transition_steps=10, decay_rate=0.9)
    """
    _common.require_positive(decay_steps=decay_steps)
    first = initial_learning_rate
    return ours.exponential_decay(first, decay_steps, decay_rate, staircase=staircase)


@_schedule
def InverseTimeDecay(
    initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False
) -> Schedule:
    """Divide the rate by 1 + `decay_rate` * step / `decay_steps`.

    Equals `inverse_time_decay(initial_learning_rate, decay_steps, decay_rate)`.

    Args:
        decay_steps: Steps in the unit of time; above 0.
        decay_rate: How much the divisor grows in it; at least 0.

    Example:
        >>> schedule = keras.InverseTimeDecay(
        ...     initial_learning_rate=0.8, decay_steps=10, decay_rate=0.5
        ... )
        >>> print(schedule(0), schedule(20))
        0.8 0.4
    """
    _common.require_positive(decay_steps=decay_steps)
    first = initial_learning_rate
    return ours.inverse_time_decay(first, decay_steps, decay_rate, staircase=staircase)


@_schedule
def PiecewiseConstantDecay(boundaries: Sequence[Any], values: Sequence[Any]) -> Schedule:
    """Give one value after another.

    Equals `piecewise_constant` with other boundaries: in Keras a boundary is the last step of the
    value before it.

    Args:
        boundaries: The last steps of all values but the last; sorted, at least one.
        values: The values, one more.

    Example:
        >>> schedule = keras.PiecewiseConstantDecay(boundaries=[10, 20], values=[0.4, 0.2, 0.1])
        >>> print(schedule(10), schedule(11), schedule(20), schedule(21))
        0.4 0.2 0.2 0.1
    """
    _common.require(lambda x: len(x) > 0, "boundaries", boundaries, "at least one step")
    after = lambda last: max(math.floor(last) + 1, 0) if _common.known(last) else last + 1
    return ours.piecewise_constant(values, [after(boundary) for boundary in boundaries])


@_schedule
def PolynomialDecay(
    initial_learning_rate: Any,
    decay_steps: Any,
    end_learning_rate: Any = 0.0001,
    power: Any = 1.0,
    cycle: bool = False,
) -> Schedule:
    """Go down along a power.

    Equals `polynomial(initial_learning_rate, end_learning_rate, power, decay_steps)`, and with
    `cycle` its `past_end` is "stretch".

    Args:
        end_learning_rate: The rate at the end.
        power: The power; above 0.
        cycle: Whether the curve starts from the same rate over twice, three times ... as many
            steps when it is past its end.

    Example:
        >>> schedule = keras.PolynomialDecay(
        ...     initial_learning_rate=0.8, decay_steps=100, end_learning_rate=0.0, cycle=True
        ... )
        >>> print(schedule(50), schedule(100), schedule(150))
        0.4 0.0 0.2
    """
    _common.require_positive(decay_steps=decay_steps)
    ends = (initial_learning_rate, end_learning_rate)
    _common.require_flags(cycle=cycle)
    past_end = "stretch" if cycle else "hold"
    return ours.polynomial(*ends, power, decay_steps, past_end=past_end)


@_schedule
def CosineDecay(
    initial_learning_rate: Any,
    decay_steps: Any,
    alpha: Any = 0.0,
    warmup_target: Any = None,
    warmup_steps: Any = 0,
) -> Schedule:
    """Go down along a cosine.

    Equals `cosine_decay(initial_learning_rate, decay_steps, initial_learning_rate * alpha)`, and
    with a `warmup_target` the `join` of `linear_warmup` and that. The warm-up comes before the
    `decay_steps`. Without a target there is no warm-up, whatever `warmup_steps` is.

    Args:
        alpha: The last rate as a part of the one that the cosine starts from.
        warmup_target: The rate at the end of the warm-up; None for no warm-up.
        warmup_steps: Steps of the warm-up.

    Example:
        >>> schedule = keras.CosineDecay(
        ...     initial_learning_rate=0.0, decay_steps=100, warmup_target=0.8, warmup_steps=10
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110)]
        [0.4, 0.8, 0.4, 0.0]
    """
    _common.require_positive(decay_steps=decay_steps)
    peak = initial_learning_rate if warmup_target is None else warmup_target
    fall = ours.cosine_decay(peak, decay_steps, peak * alpha)
    if warmup_target is None:
        return fall
    rise = ours.linear_warmup(peak, warmup_steps, initial_learning_rate)
    return ours.join([rise, fall], [warmup_steps])


@_schedule
def CosineDecayRestarts(
    initial_learning_rate: Any,
    first_decay_steps: Any,
    t_mul: Any = 2.0,
    m_mul: Any = 1.0,
    alpha: Any = 0.0,
) -> Schedule:
    """Go down along a cosine, over and over.

    Equals `cosine_restarts(initial_learning_rate, first_decay_steps, t_mul, m_mul)`, and, with a
    floor, the `sum` of that and the floor: Keras multiplies the height above the floor by `m_mul`.
    At some restarts rounding makes Keras give the floor for one step; here every restart is at
    its peak.

    Args:
        first_decay_steps: Steps of the first cosine; above 0.
        t_mul: How many times longer each next one is; at least 1.
        m_mul: What the height of each next one is multiplied by.
        alpha: The floor as a part of the rate.

    Example:
        >>> schedule = keras.CosineDecayRestarts(
        ...     initial_learning_rate=0.8, first_decay_steps=10, m_mul=0.5
        ... )
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 30)]
        [0.8, 0.4, 0.4, 0.2]
    """
    _common.require_positive(first_decay_steps=first_decay_steps)
    floor = initial_learning_rate * alpha
    waves = ours.cosine_restarts(initial_learning_rate - floor, first_decay_steps, t_mul, m_mul)
    return waves if _common.equals(alpha, 0) else ours.sum([waves, ours.constant(floor)])


@_callback(split=False, returns=_common.METRIC_SCHEDULE)
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
    """Multiply the rate by `factor` on a plateau.

    Follows `reduce_on_plateau(factor, patience, patience_rule="keras")`: a cut on the bad value
    number `patience`, and a cooldown that is one shorter than it says.

    Args:
        monitor: The metric's name, from which "auto" infers the mode: "loss" or "val_loss".
        patience: The bad values at which there is a cut; a whole number, at least 0.
        mode: Whether "min" or "max" is better; "auto" is "min" for a loss, and refused for others.
        min_delta: What an improvement has to exceed; as an absolute value.
        min_lr: The least rate.

    Example:
        >>> plateau = keras.ReduceLROnPlateau(base_lr=0.1, factor=0.5, patience=2)
        >>> state = plateau.init()
        >>> for loss in [3.0, 2.0, 2.0, 2.0]:
        ...     state = plateau.update(state, loss)
        >>> print(plateau.lr(state))
        0.05
    """
    _common.require_word(("auto", "min", "max"), "mode", mode)
    if mode == "auto":
        is_loss = lambda x: str(x).removeprefix("val_") == "loss"
        _common.require(is_loss, "monitor", monitor, "'loss' or 'val_loss' for mode 'auto'")
    rule = functools.partial(
        ours.reduce_on_plateau,
        factor,
        patience,
        rtol=0.0,
        atol=abs(min_delta),
        cooldown=cooldown,
        mode="max" if mode == "max" else "min",
        patience_rule="keras",
    )
    return _common.metric_schedules(base_lr, rule, min_lr)


@_callback()
def LearningRateScheduler(base_lr: Any, schedule: Callable[..., Any]) -> Any:
    """Give the rate that a function gives for the epoch.

    Equals `from_python(schedule)`. The function is given the epoch and the rate in force, or, if it
    takes one argument, the epoch; it is called on the host, for every epoch in order. A schedule of
    ours is taken as it is. A step of the result is an epoch; `by_epoch` runs it in updates.

    Args:
        schedule: A function from the epoch, or from the epoch and the rate, to a rate.

    Raises:
        ValueError: If the schedule is not a function.

    Example:
        >>> halved = keras.LearningRateScheduler(
        ...     base_lr=0.8, schedule=lambda epoch, lr: lr if epoch < 10 else lr * 0.5
        ... )
        >>> print(halved(9), halved(10), halved(11))
        0.8 0.4 0.2
    """
    _common.require(callable, "schedule", schedule, "a function of the epoch")
    if not isinstance(schedule, ours.Schedule) and _takes_two(schedule):
        schedule = _Recurrence(schedule, base_lr)
    return _common.as_python("schedule", schedule)


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
        while len(self._rates) < int(step) + 2:
            epoch = len(self._rates) - 1
            self._rates.append(float(self.function(epoch, float(self._rates[-1]))))
        return self._rates[int(step) + 1]
