"""Warm-up, stable, decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import known, require
from odyssey_jax.compat.timm._noise import Noise
from odyssey_jax.compat.timm._warmup import Warmup, scheduled
from odyssey_jax.schedules import (
    Schedule,
    clip,
    constant,
    cosine_decay,
    exponential_decay,
    from_python,
    inverse_sqrt,
    join,
    linear,
    polynomial,
    power_decay,
    product,
    scale,
    shift,
    sqrt_decay,
    sum,
)

_STABLE = ("constant", "rsqrt", "power")
_DECAY = ("linear", "1-sqrt", "cosine", "power", "exp")


def WSDLRScheduler(
    base_lr: Any,
    t_initial: Any,
    decay_t: Any,
    lr_min: Any = 0.0,
    stable_fn: str = "constant",
    stable_timescale: Any = None,
    stable_power: Any = 0.5,
    decay_fn: str | Callable[[float], float] = "1-sqrt",
    decay_power: Any = 0.5,
    decay_ratio: Any = 0.1,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
) -> Any:
    """Up, stable, and down over the last `decay_t` steps, as `timm.scheduler.WSDLRScheduler`.

    The warm-up comes before the `t_initial` steps. A stable phase that itself falls goes on
    falling under the decay, which is a factor on what is above the floor: a `product` then.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        t_initial: Steps of the stable phase and the decay; above 0.
        decay_t: Steps of the decay; above 0, at most `t_initial`.
        lr_min: The rate at the end; at least 0.
        stable_fn: "constant", "rsqrt" or "power".
        stable_timescale: The steps that the fall of the stable phase is measured in; above 0, or
            None for `warmup_t`.
        stable_power: The exponent of "power"; above 0.
        decay_fn: "linear", "1-sqrt", "cosine", "power" or "exp"; or a function from the part of
            the decay that is done to a factor, called on the host (see `from_python`).
        decay_power: The exponent of "power"; above 0.
        decay_ratio: The part to which "exp" would fall, before it is brought to 0; in (0, 1).
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
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
        >>> schedule = timm.WSDLRScheduler(
        ...     base_lr=0.8, t_initial=100, decay_t=20, decay_fn="linear", warmup_t=10
        ... )
        >>> print(schedule(5), schedule(90), schedule(100), schedule(110))
        0.4 0.8 0.4 0.0
    """
    require(lambda x: x > 0, "t_initial", t_initial, "above 0")
    within = lambda x: x > 0 and (not known(t_initial) or x <= t_initial)
    require(within, "decay_t", decay_t, f"above 0 and at most t_initial = {t_initial!r}")
    require(lambda x: x >= 0, "lr_min", lr_min, "at least 0")
    require(_STABLE.__contains__, "stable_fn", stable_fn, f"one of {_STABLE}")
    named = lambda x: callable(x) or x in _DECAY
    require(named, "decay_fn", decay_fn, f"one of {_DECAY}, or a function")
    require(lambda x: 0 < x < 1, "decay_ratio", decay_ratio, "in the range (0, 1)")
    require(lambda x: x > 0, "decay_power", decay_power, "above 0")
    require(lambda x: x > 0, "stable_power", stable_power, "above 0")
    if stable_fn != "constant":
        stable_timescale = warmup_t if stable_timescale is None else stable_timescale
        accepted = "above 0, and is given where there is no warm-up"
        require(lambda x: x > 0, "stable_timescale", stable_timescale, accepted)
    power = 0.5 if stable_fn == "rsqrt" else stable_power

    def curve(lr: Any) -> Schedule:
        fall = lambda top, floor: _fall(decay_fn, top, floor, decay_t, decay_power, decay_ratio)
        steady = [t_initial - decay_t]
        if stable_fn == "constant":
            top = _at_least(lr, lr_min)
            return join([constant(top), fall(top, lr_min)], steady)
        stable = clip(_stable(lr, stable_timescale, power), min_value=lr_min)
        part = join([constant(1.0), fall(1.0, 0.0)], steady)
        return sum([product([stable - constant(lr_min), part]), constant(lr_min)])

    return scheduled(
        base_lr,
        lambda lr: curve_from(lr, curve(lr), warmup_t, lr_min),
        Warmup(warmup_t, warmup_lr_init),
        Noise(noise_range_t, noise_pct, noise_std, noise_seed),
        t_in_epochs,
    )


def curve_from(lr: Any, curve: Schedule, warmup_t: Any, lr_min: Any) -> Schedule:
    """The curve; but the rate of step 0, if nothing warms it up, was set before there was one."""
    if known(lr) and known(lr_min) and lr < lr_min and known(warmup_t) and warmup_t == 0:
        return join([constant(lr), shift(curve, -1)], [1])
    return curve


def _at_least(lr: Any, lr_min: Any) -> Any:
    return max(lr, lr_min) if known(lr) and known(lr_min) else lr


def _stable(lr: Any, timescale: Any, power: Any) -> Schedule:
    if known(power) and power == 0.5:
        return inverse_sqrt(lr, timescale)
    return power_decay(lr, timescale, power)


def _fall(kind: Any, top: Any, floor: Any, steps: Any, power: Any, ratio: Any) -> Schedule:
    if callable(kind):
        factor = from_python(_OfPart(kind, steps))
        return sum([scale(factor, top - floor), constant(floor)])
    if kind == "linear":
        return linear(top, floor, steps)
    if kind == "1-sqrt":
        return sqrt_decay(top, steps, floor)
    if kind == "cosine":
        return cosine_decay(top, steps, floor)
    if kind == "power":
        return polynomial(top, floor, 1.0, steps, k_decay=power)
    # To `ratio` of a height that is chosen so that it falls by all of it.
    height = (top - floor) / (1 - ratio)
    fall = exponential_decay(height, steps, ratio, end_value=height * ratio)
    return sum([fall, constant(floor - height * ratio)])


class _OfPart:
    """A function of the part of the steps that is done, as one of the step."""

    def __init__(self, function: Callable[..., Any], steps: Any) -> None:
        self.function, self.steps = function, steps

    def __call__(self, step: float) -> float:
        return self.function(min(step / self.steps, 1.0))
