"""A linear warm-up from 0, and then something else: nearly all of transformers' schedules."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from odyssey_jax.compat._arguments import known, per_group, require, require_fresh, whole
from odyssey_jax.schedules import (
    Schedule,
    constant,
    cosine_decay,
    inverse_sqrt,
    join,
    linear,
    linear_warmup,
    polynomial,
    shift,
)

LAST_STEP = 2**31 - 1


def get_constant_schedule(base_lr: Any, last_epoch: int = -1) -> Any:
    """The same rate always, as `transformers.get_constant_schedule`; it is `constant`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> transformers.get_constant_schedule(base_lr=0.1)
        constant(value=0.1)
    """
    require_fresh(last_epoch)
    return per_group(base_lr, constant)


def get_constant_schedule_with_warmup(
    base_lr: Any, num_warmup_steps: Any, last_epoch: int = -1
) -> Any:
    """Up along a line from 0, and then constant.

    As `transformers.get_constant_schedule_with_warmup`; it is `linear_warmup`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> transformers.get_constant_schedule_with_warmup(base_lr=0.1, num_warmup_steps=10)
        linear_warmup(peak_value=0.1, warmup_steps=10)
    """
    require_fresh(last_epoch)
    warmup = whole("num_warmup_steps", num_warmup_steps)
    return per_group(base_lr, lambda lr: linear_warmup(lr, warmup))


def warmed_up(
    base_lr: Any, num_warmup_steps: Any, last_epoch: Any, decay: Callable[[Any], Schedule]
) -> Any:
    """A linear warm-up from 0, and then the decay of each rate."""
    require_fresh(last_epoch)
    warmup = whole("num_warmup_steps", num_warmup_steps)
    return per_group(base_lr, lambda lr: join([linear_warmup(lr, warmup), decay(lr)], [warmup]))


def steps_after(num_warmup_steps: Any, num_training_steps: Any, least: int = 0) -> Any:
    """Steps of the decay: of the training without the warm-up, but at least so many."""
    warmup = whole("num_warmup_steps", num_warmup_steps)
    total = whole("num_training_steps", num_training_steps)
    steps = total - warmup
    return max(steps, least) if known(steps) else steps


def get_linear_schedule_with_warmup(
    base_lr: Any, num_warmup_steps: Any, num_training_steps: Any, last_epoch: int = -1
) -> Any:
    """Up along a line from 0, and down along a line to 0.

    As `transformers.get_linear_schedule_with_warmup`; it is `join` of `linear_warmup` and
    `linear`. Where the warm-up is longer than the training, it is whole, and then 0.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_linear_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110
        ... )
        >>> print(schedule(5), schedule(10), schedule(60), schedule(110))
        0.4 0.8 0.4 0.0
    """
    steps = steps_after(num_warmup_steps, num_training_steps)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, lambda lr: linear(lr, 0.0, steps))


def get_cosine_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Up along a line from 0, and along a cosine, which goes on past its end.

    As `transformers.get_cosine_schedule_with_warmup`; it is `join` of `linear_warmup` and
    `cosine_decay` with `past_end` set to "mirror".

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        num_cycles: Turns of the cosine; 0.5 goes from the peak to 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_cosine_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110, 210)]
        [0.4, 0.8, 0.4, 0.0, 0.8]
    """
    steps = steps_after(num_warmup_steps, num_training_steps, least=1)
    decay = lambda lr: waves(lr, 0.0, steps, num_cycles)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, decay)


def waves(peak: Any, floor: Any, steps: Any, num_cycles: Any) -> Schedule:
    """So many turns of a cosine in so many steps, and on for ever.

    A cosine is its own mirror image where a half of a turn ends: so the curve is drawn up to such
    a place, and mirrored there.
    """
    if not known(num_cycles) or not known(steps):
        return cosine_decay(peak, steps / (2 * num_cycles), floor, past_end="mirror")
    if num_cycles == 0:
        return constant(peak)
    halves = Fraction(abs(2 * num_cycles)).limit_denominator(1000)
    if abs(halves - abs(2 * num_cycles)) > 1e-12 or steps * halves.denominator > LAST_STEP:
        return cosine_decay(peak, steps / abs(2 * num_cycles), floor, past_end="mirror")
    cycles = None if halves.numerator == 1 else halves.numerator / 2
    total = steps * halves.denominator
    return cosine_decay(peak, total, floor, num_cycles=cycles, past_end="mirror")


def get_cosine_with_hard_restarts_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 1,
    last_epoch: int = -1,
) -> Any:
    """Up along a line from 0, and down along cosines, each from the peak; then 0.

    As `transformers.get_cosine_with_hard_restarts_schedule_with_warmup`; it is `join` of
    `linear_warmup` and `cosine_decay` with `hard_restarts`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        num_cycles: How many cosines; above 0, and if it is no whole number, the last one is cut.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, num_cycles=2
        ... )
        >>> [round(float(schedule(t)), 4) for t in (10, 35, 60, 110)]
        [0.8, 0.4, 0.8, 0.0]
    """
    require(lambda x: x > 0, "num_cycles", num_cycles, "above 0")
    steps = steps_after(num_warmup_steps, num_training_steps)

    decay = lambda lr: cosine_decay(lr, steps, num_cycles=num_cycles, hard_restarts=True)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, decay)


def get_polynomial_decay_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    lr_end: Any = 1e-7,
    power: Any = 1.0,
    last_epoch: int = -1,
) -> Any:
    """Up along a line from 0, and down along a power to `lr_end`.

    As `transformers.get_polynomial_decay_schedule_with_warmup`; it is `join` of `linear_warmup`
    and `polynomial`. `lr_end` is meant for the first group's rate, which is what the optimizer's
    default is taken to be: the others come to the same part of theirs.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        lr_end: The rate at the end; less than the rate.
        power: The power; above 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_polynomial_decay_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, lr_end=0.0, power=2.0
        ... )
        >>> print(schedule(10), schedule(60), schedule(110))
        0.8 0.2 0.0
    """
    steps = steps_after(num_warmup_steps, num_training_steps)
    default = default_rate(base_lr)
    if known(default) and known(lr_end) and not default > lr_end:
        raise ValueError(
            f"lr_end must be less than base_lr; got lr_end = {lr_end!r}, base_lr = {base_lr!r}."
        )
    decay = lambda lr: polynomial(lr, part_of(lr, lr_end, default), power, steps)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, decay)


def default_rate(base_lr: Any) -> Any:
    """The rate that the optimizer was made with: the first group's."""
    return base_lr[0] if isinstance(base_lr, (list, tuple)) else base_lr


def part_of(lr: Any, value: Any, default: Any) -> Any:
    """A value that is meant for the default rate, for another rate."""
    return value if lr is default else lr * (value / default)


def get_inverse_sqrt_schedule(
    base_lr: Any, num_warmup_steps: Any, timescale: Any = None, last_epoch: int = -1
) -> Any:
    """Up along a line from 0, and down with the inverse square root of the step.

    As `transformers.get_inverse_sqrt_schedule`; it is `join` of `linear_warmup` and
    `inverse_sqrt`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        timescale: Steps after which the rate is its peak over the root of 2; above 0, or None for
            as many as the warm-up has, and 10,000 where it has none.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_inverse_sqrt_schedule(base_lr=0.8, num_warmup_steps=10)
        >>> print(schedule(5), schedule(10), schedule(40))
        0.4 0.8 0.4
    """
    if timescale is None:
        timescale = num_warmup_steps or 10_000
    require(lambda x: x > 0, "timescale", timescale, "above 0")
    decay = lambda lr: inverse_sqrt(lr, timescale)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, decay)


def get_cosine_with_min_lr_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
    min_lr: Any = None,
    min_lr_rate: Any = None,
) -> Any:
    """Up along a line from 0, and along a cosine above a floor, which goes on past its end.

    As `transformers.get_cosine_with_min_lr_schedule_with_warmup`; it is `join` of
    `linear_warmup` and `cosine_decay` with `past_end` set to "mirror". `min_lr` is meant for
    the first group's rate, which is what the optimizer's default is taken to be.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        num_cycles: Turns of the cosine; 0.5 goes from the peak to the floor.
        last_epoch: -1.
        min_lr: The floor; at least 0.
        min_lr_rate: The floor as a part of the rate, in place of `min_lr`; at least 0.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range, or not one of the floors is given.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.25
        ... )
        >>> print(schedule(10), schedule(60), schedule(110))
        0.8 0.5 0.2
    """
    steps = steps_after(num_warmup_steps, num_training_steps, least=1)
    rate = floor_rate(base_lr, min_lr, min_lr_rate)
    decay = lambda lr: waves(lr, lr * rate, steps, num_cycles)
    return warmed_up(base_lr, num_warmup_steps, last_epoch, decay)


def floor_rate(base_lr: Any, min_lr: Any, min_lr_rate: Any) -> Any:
    """The floor as a part of the rate, whichever way it was given."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(
            "min_lr or min_lr_rate must be given, and not both; got "
            f"min_lr = {min_lr!r}, min_lr_rate = {min_lr_rate!r}."
        )
    name, value = ("min_lr", min_lr) if min_lr_rate is None else ("min_lr_rate", min_lr_rate)
    require(lambda x: x >= 0, name, value, "at least 0")
    return min_lr_rate if min_lr is None else min_lr / default_rate(base_lr)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
    min_lr: Any = None,
    min_lr_rate: Any = None,
    warmup_lr_rate: Any = None,
) -> Any:
    """The same a step ahead: the floor is reached at the last step of the training.

    As `transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate`. The warm-up starts
    above 0, and reaches the peak at its last step: at 1 / `num_warmup_steps` of it, or at
    `warmup_lr_rate`. The cosine is one step into its course when it takes over.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number, at least 0.
        num_cycles: Turns of the cosine; 0.5 goes from the peak to the floor.
        last_epoch: -1.
        min_lr: The floor; at least 0.
        min_lr_rate: The floor as a part of the rate, in place of `min_lr`; at least 0.
        warmup_lr_rate: The start of the warm-up as a part of the rate.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range, or not one of the floors is given.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.25
        ... )
        >>> print(schedule(0), schedule(9), schedule(59), schedule(109))
        0.08 0.8 0.5 0.2
    """
    require_fresh(last_epoch)
    warmup = whole("num_warmup_steps", num_warmup_steps)
    steps = steps_after(num_warmup_steps, num_training_steps, least=1)
    rate = floor_rate(base_lr, min_lr, min_lr_rate)

    def build(lr: Any) -> Schedule:
        decay = shift(waves(lr, lr * rate, steps, num_cycles), -1)
        return join([_early(lr, warmup, warmup_lr_rate), decay], [warmup])

    return per_group(base_lr, build)


def _early(lr: Any, warmup: Any, warmup_lr_rate: Any) -> Schedule:
    """A warm-up that is at its peak at its last step."""
    start = 1 / warmup if known(warmup) and warmup else 1.0
    if warmup_lr_rate is not None:
        start = warmup_lr_rate
    if known(warmup) and warmup < 2:
        return constant(lr * start)
    return linear_warmup(lr, warmup - 1, lr * start)
