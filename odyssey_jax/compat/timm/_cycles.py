"""Curves down that come again: cosine, hyperbolic tangent and polynomial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import known, per_group, require
from odyssey_jax.compat.timm._noise import Noise
from odyssey_jax.compat.timm._warmup import Warmup, require_unit_of_time, scheduled
from odyssey_jax.schedules import (
    Schedule,
    constant,
    cosine_decay,
    join,
    polynomial,
    shift,
    tanh_decay,
)


def cycles(
    piece: Callable[[Any, Any], Schedule],
    t_initial: Any,
    lr_min: Any,
    cycle_mul: Any,
    cycle_decay: Any,
    cycle_limit: Any,
) -> Callable[[Any], Schedule]:
    """`piece(peak, steps)` for each cycle, and then the floor, as a function of the first peak."""
    require(lambda x: x > 0, "t_initial", t_initial, "above 0")
    require(lambda x: x >= 0, "lr_min", lr_min, "at least 0")
    require(lambda x: x > 0, "cycle_mul", cycle_mul, "above 0")
    require(lambda x: isinstance(x, int), "cycle_limit", cycle_limit, "an integer")

    def build(lr: Any) -> Schedule:
        steps, peak, start = t_initial, lr, 0
        pieces, starts = [], []
        for _ in range(cycle_limit):
            pieces.append(piece(peak, steps))
            start = _tidy(start + steps)
            starts.append(start)
            steps, peak = _tidy(steps * cycle_mul), peak * cycle_decay
        if not pieces:  # the rate of step 0 is set when the scheduler is made
            return join([constant(lr), constant(lr_min)], [1])
        return join([*pieces, constant(lr_min)], starts)

    return build


def _tidy(x: Any) -> Any:
    """A sum of lengths without the rounding errors of its terms; whole ones are integers."""
    if not isinstance(x, float):
        return x
    x = round(x, 9)
    return int(x) if x.is_integer() else x


def CosineLRScheduler(
    base_lr: Any,
    t_initial: Any,
    lr_min: Any = 0.0,
    cycle_mul: Any = 1.0,
    cycle_decay: Any = 1.0,
    cycle_limit: int = 1,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
    k_decay: Any = 1.0,
) -> Any:
    """Cosines down from falling peaks, as `timm.scheduler.CosineLRScheduler`.

    It is `join` of `cosine_decay`, and of `linear_warmup` before them. Without `warmup_prefix`
    the cosine has begun when the warm-up ends: the rate jumps down there.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        t_initial: Steps of the first cycle; above 0.
        lr_min: The rate at the end of each, and after the last; at least 0.
        cycle_mul: How many times longer each next cycle is; above 0.
        cycle_decay: What each next peak is multiplied by.
        cycle_limit: How many cycles.
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
        warmup_prefix: Whether the warm-up comes before the curve, or over its start.
        t_in_epochs: Whether a step is an epoch (then `by_epoch` runs it in updates) or an update.
        noise_range_t: The step from which there is noise, or that and the one where it ends.
        noise_pct: The bound of the noise.
        noise_std: Its deviation.
        noise_seed: Its seed: the numbers are timm's own.
        k_decay: The exponent of the time.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> schedule = timm.CosineLRScheduler(
        ...     base_lr=0.8, t_initial=100, warmup_t=10, warmup_prefix=True
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110)]
        [0.4, 0.8, 0.4, 0.0]
    """
    power = None if known(k_decay) and k_decay == 1 else k_decay
    piece = lambda peak, steps: cosine_decay(peak, steps, lr_min, k_decay=power)
    return scheduled(
        base_lr,
        cycles(piece, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit),
        Warmup(warmup_t, warmup_lr_init, warmup_prefix),
        Noise(noise_range_t, noise_pct, noise_std, noise_seed),
        t_in_epochs,
    )


def PolyLRScheduler(
    base_lr: Any,
    t_initial: Any,
    power: Any = 0.5,
    lr_min: Any = 0.0,
    cycle_mul: Any = 1.0,
    cycle_decay: Any = 1.0,
    cycle_limit: int = 1,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
    k_decay: Any = 1.0,
) -> Any:
    """Powers down from falling peaks, as `timm.scheduler.PolyLRScheduler`.

    It is `join` of `polynomial`, and of `linear_warmup` before them.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        t_initial: Steps of the first cycle; above 0.
        power: The power of what is left; above 0.
        lr_min: The rate at the end of each, and after the last; at least 0.
        cycle_mul: How many times longer each next cycle is; above 0.
        cycle_decay: What each next peak is multiplied by.
        cycle_limit: How many cycles.
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
        warmup_prefix: Whether the warm-up comes before the curve, or over its start.
        t_in_epochs: Whether a step is an epoch (then `by_epoch` runs it in updates) or an update.
        noise_range_t: The step from which there is noise, or that and the one where it ends.
        noise_pct: The bound of the noise.
        noise_std: Its deviation.
        noise_seed: Its seed: the numbers are timm's own.
        k_decay: The exponent of the time.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> schedule = timm.PolyLRScheduler(base_lr=0.8, t_initial=100, power=2.0)
        >>> print(schedule(0), schedule(50), schedule(100))
        0.8 0.2 0.0
    """
    exponent = None if known(k_decay) and k_decay == 1 else k_decay
    piece = lambda peak, steps: polynomial(peak, lr_min, power, steps, k_decay=exponent)
    return scheduled(
        base_lr,
        cycles(piece, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit),
        Warmup(warmup_t, warmup_lr_init, warmup_prefix),
        Noise(noise_range_t, noise_pct, noise_std, noise_seed),
        t_in_epochs,
    )


def TanhLRScheduler(
    base_lr: Any,
    t_initial: Any,
    lb: Any = -7.0,
    ub: Any = 3.0,
    lr_min: Any = 0.0,
    cycle_mul: Any = 1.0,
    cycle_decay: Any = 1.0,
    cycle_limit: int = 1,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
) -> Any:
    """Hyperbolic tangents down from falling peaks, as `timm.scheduler.TanhLRScheduler`.

    It is `join` of `tanh_decay`, and of `linear_warmup` before them. A tangent that starts at
    `lb` is a little below its peak there; without a warm-up, step 0 is at the peak all the same,
    as in timm, which sets that rate when the scheduler is made. Without `warmup_prefix` the
    warm-up rises to the curve where it meets it, and not to the peak.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        t_initial: Steps of the first cycle; above 0.
        lb: Where on the tangent a cycle starts.
        ub: Where it ends; above `lb`.
        lr_min: The rate that the tangent goes towards, and after the last cycle; at least 0.
        cycle_mul: How many times longer each next cycle is; above 0.
        cycle_decay: What each next peak is multiplied by.
        cycle_limit: How many cycles; at least 0.
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start; at least 0.
        warmup_prefix: Whether the warm-up comes before the curve, or over its start.
        t_in_epochs: Whether a step is an epoch (then `by_epoch` runs it in updates) or an update.
        noise_range_t: The step from which there is noise, or that and the one where it ends.
        noise_pct: The bound of the noise.
        noise_std: Its deviation.
        noise_seed: Its seed: the numbers are timm's own.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> schedule = timm.TanhLRScheduler(base_lr=0.8, t_initial=100)
        >>> print(schedule(0), schedule(70), schedule(100))
        0.8 0.4 0.0
    """
    require_unit_of_time(t_in_epochs)
    if known(lb) and known(ub) and not lb < ub:
        raise ValueError(f"lb must be less than ub; got lb = {lb!r}, ub = {ub!r}.")
    for name, number in (
        ("cycle_limit", cycle_limit),
        ("warmup_t", warmup_t),
        ("warmup_lr_init", warmup_lr_init),
    ):
        require(lambda x: x >= 0, name, number, "at least 0")
    piece = lambda peak, steps: tanh_decay(peak, steps, lr_min, lb, ub)
    curve = cycles(piece, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    warmup = Warmup(warmup_t, warmup_lr_init, warmup_prefix)
    noise = Noise(noise_range_t, noise_pct, noise_std, noise_seed)

    def build(lr: Any) -> Schedule:
        body = curve(lr)
        if known(warmup_t) and warmup_t == 0:
            return noise.on(join([constant(lr), shift(body, -1)], [1]))
        peak = lr
        if not warmup_prefix:
            peak = body(warmup_t)
            peak = float(peak) if known(peak) else peak
        return noise.on(warmup.into(body, peak))

    return per_group(base_lr, build)
