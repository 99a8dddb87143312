"""Keras' schedules, which are functions of the step as ours are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from odyssey_jax.compat._arguments import known, require
from odyssey_jax.schedules import (
    Schedule,
    constant,
    cosine_decay,
    cosine_restarts,
    exponential_decay,
    inverse_time_decay,
    join,
    linear_warmup,
    piecewise_constant,
    polynomial,
    sum,
)


def ExponentialDecay(
    initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False
) -> Schedule:
    """Times `decay_rate` over `decay_steps`, as `keras.optimizers.schedules.ExponentialDecay`.

    It is `exponential_decay`.

    Args:
        initial_learning_rate: The rate at step 0.
        decay_steps: Steps for one factor; at least 1.
        decay_rate: The factor; above 0.
        staircase: Whether it changes only every `decay_steps` steps.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> keras.ExponentialDecay(initial_learning_rate=0.1, decay_steps=10, decay_rate=0.9)
        exponential_decay(init_value=0.1, transition_steps=10, decay_rate=0.9)
    """
    _require_steps("decay_steps", decay_steps)
    return exponential_decay(
        initial_learning_rate, decay_steps, decay_rate, staircase=bool(staircase)
    )


def _require_steps(name: str, value: Any) -> None:
    require(lambda x: x > 0, name, value, "above 0")


def InverseTimeDecay(
    initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False
) -> Schedule:
    """Over 1 + rate * time, as `keras.optimizers.schedules.InverseTimeDecay`.

    It is `inverse_time_decay`.

    Args:
        initial_learning_rate: The rate at step 0.
        decay_steps: Steps in the unit of time; at least 1.
        decay_rate: How much the divisor grows in it; at least 0.
        staircase: Whether it changes only every `decay_steps` steps.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> schedule = keras.InverseTimeDecay(
        ...     initial_learning_rate=0.8, decay_steps=10, decay_rate=0.5
        ... )
        >>> print(schedule(0), schedule(20))
        0.8 0.4
    """
    _require_steps("decay_steps", decay_steps)
    return inverse_time_decay(
        initial_learning_rate, decay_steps, decay_rate, staircase=bool(staircase)
    )


def PiecewiseConstantDecay(boundaries: Sequence[Any], values: Sequence[Any]) -> Schedule:
    """One value after another, as `keras.optimizers.schedules.PiecewiseConstantDecay`.

    It is `piecewise_constant` with other boundaries: in Keras a boundary is the last step of the
    value before it.

    Args:
        boundaries: The last steps of all values but the last; sorted, at least one.
        values: The values, one more.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> schedule = keras.PiecewiseConstantDecay(boundaries=[10, 20], values=[0.4, 0.2, 0.1])
        >>> print(schedule(10), schedule(11), schedule(20), schedule(21))
        0.4 0.2 0.2 0.1
    """
    require(lambda x: len(x) > 0, "boundaries", boundaries, "at least one step")
    first_steps = [_after(boundary) for boundary in boundaries]
    return piecewise_constant(values, first_steps)


def _after(boundary: Any) -> Any:
    """The first step after a boundary."""
    return max(math.floor(boundary) + 1, 0) if known(boundary) else boundary + 1


def PolynomialDecay(
    initial_learning_rate: Any,
    decay_steps: Any,
    end_learning_rate: Any = 0.0001,
    power: Any = 1.0,
    cycle: bool = False,
) -> Schedule:
    """Down along a power, as `keras.optimizers.schedules.PolynomialDecay`.

    It is `polynomial`, and with `cycle` its `past_end` is "stretch".

    Args:
        initial_learning_rate: The rate at step 0.
        decay_steps: Steps down; above 0.
        end_learning_rate: The rate at the end.
        power: The power; above 0.
        cycle: Whether the curve starts from the same rate over twice, three times ... as many
            steps when it is past its end.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> schedule = keras.PolynomialDecay(
        ...     initial_learning_rate=0.8, decay_steps=100, end_learning_rate=0.0, cycle=True
        ... )
        >>> print(schedule(50), schedule(100), schedule(150))
        0.4 0.0 0.2
    """
    _require_steps("decay_steps", decay_steps)
    return polynomial(
        initial_learning_rate,
        end_learning_rate,
        power,
        decay_steps,
        past_end="stretch" if cycle else "hold",
    )


def CosineDecay(
    initial_learning_rate: Any,
    decay_steps: Any,
    alpha: Any = 0.0,
    warmup_target: Any = None,
    warmup_steps: Any = 0,
) -> Schedule:
    """Down along a cosine, as `keras.optimizers.schedules.CosineDecay`.

    It is `cosine_decay`, and with a `warmup_target` the `join` of `linear_warmup` and that. The
    warm-up comes before the `decay_steps`. Without a target there is no warm-up, whatever
    `warmup_steps` is.

    Args:
        initial_learning_rate: The rate at step 0.
        decay_steps: Steps down; above 0.
        alpha: The last rate as a part of the one that the cosine starts from.
        warmup_target: The rate at the end of the warm-up; None for no warm-up.
        warmup_steps: Steps of the warm-up.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> schedule = keras.CosineDecay(
        ...     initial_learning_rate=0.0, decay_steps=100, warmup_target=0.8, warmup_steps=10
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110)]
        [0.4, 0.8, 0.4, 0.0]
    """
    _require_steps("decay_steps", decay_steps)
    if warmup_target is None:
        return cosine_decay(initial_learning_rate, decay_steps, initial_learning_rate * alpha)
    rise = linear_warmup(warmup_target, warmup_steps, initial_learning_rate)
    fall = cosine_decay(warmup_target, decay_steps, warmup_target * alpha)
    return join([rise, fall], [warmup_steps])


def CosineDecayRestarts(
    initial_learning_rate: Any,
    first_decay_steps: Any,
    t_mul: Any = 2.0,
    m_mul: Any = 1.0,
    alpha: Any = 0.0,
) -> Schedule:
    """Down along cosines, over and over: `keras.optimizers.schedules.CosineDecayRestarts`.

    It is `cosine_restarts`, and, with a floor, the `sum` of that and the floor: Keras multiplies
    the height above the floor by `m_mul`. At some restarts rounding makes Keras give the floor
    for one step; here every restart is at its peak.

    Args:
        initial_learning_rate: The rate at step 0.
        first_decay_steps: Steps of the first cosine; above 0.
        t_mul: How many times longer each next one is; at least 1.
        m_mul: What the height of each next one is multiplied by.
        alpha: The floor as a part of the rate.

    Returns:
        A schedule.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import keras
        >>> schedule = keras.CosineDecayRestarts(
        ...     initial_learning_rate=0.8, first_decay_steps=10, m_mul=0.5
        ... )
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 30)]
        [0.8, 0.4, 0.4, 0.2]
    """
    _require_steps("first_decay_steps", first_decay_steps)
    floor = initial_learning_rate * alpha
    waves = cosine_restarts(initial_learning_rate - floor, first_decay_steps, t_mul, m_mul)
    return waves if known(alpha) and alpha == 0 else sum([waves, constant(floor)])
