"""transformers' schedules (transformers.optimization, as of 5.23).

Nearly all of them are a linear warm-up from 0, and then something else. Not here is
`get_adafactor_schedule`: it shows the rate that the optimizer Adafactor found by itself, and is no
schedule for another one.
"""

from __future__ import annotations

import fractions
import functools
import warnings
from typing import TYPE_CHECKING

from odyssey_jax import schedules as ours
from odyssey_jax.compat import _common
from odyssey_jax.compat import torch as _torch

if TYPE_CHECKING:  # so that the names in this module are transformers'
    from collections.abc import Callable, Mapping
    from typing import Any

    from odyssey_jax.schedules import Schedule

_ARGUMENTS = {
    "num_warmup_steps": "Steps up; a whole number, at least 0.",
    "num_training_steps": "Steps in all; a whole number, at least 0.",
    "num_cycles": "Turns of the cosine; 0.5 goes from the peak to the floor.",
    "min_lr": "The floor; at least 0.",
    "min_lr_rate": "The floor as a part of the rate, in place of `min_lr`; at least 0.",
}
_documented = functools.partial(_common.documented, _ARGUMENTS, "transformers.optimization")
_scheduler = functools.partial(_common.scheduler, _ARGUMENTS, "transformers.optimization")


def _warmed_up(lr: Any, num_warmup_steps: Any, decay: Schedule) -> Schedule:
    """Join a linear warm-up from 0 to the rate and a decay."""
    warmup = _common.whole("num_warmup_steps", num_warmup_steps)
    return ours.join([ours.linear_warmup(lr, warmup), decay], [warmup])


def _steps_after(num_warmup_steps: Any, num_training_steps: Any, least: int = 0) -> Any:
    """Return the steps of the training without the warm-up, but at least so many."""
    warmup = _common.whole("num_warmup_steps", num_warmup_steps)
    steps = _common.whole("num_training_steps", num_training_steps) - warmup
    return max(steps, least) if _common.known(steps) else steps


def _waves(peak: Any, floor: Any, steps: Any, num_cycles: Any) -> Schedule:
    """Turn so many times along a cosine in so many steps, and on for ever.

    A cosine is its own mirror image where a half of a turn ends: so the curve is drawn up to such
    a place, and mirrored there.
    """
    if not _common.known(num_cycles, steps):
        return ours.cosine_decay(peak, steps / (2 * num_cycles), floor, past_end="mirror")
    if num_cycles == 0:
        return ours.constant(peak)
    turns = abs(2 * num_cycles)
    halves = fractions.Fraction(turns).limit_denominator(1000)
    total = steps * halves.denominator
    if abs(halves - turns) > 1e-12 or total > _common.LAST_STEP:
        return ours.cosine_decay(peak, steps / turns, floor, past_end="mirror")
    cycles = None if halves.numerator == 1 else halves.numerator / 2
    return ours.cosine_decay(peak, total, floor, num_cycles=cycles, past_end="mirror")


def _default_rate(base_lr: Any) -> Any:
    """Return the rate that the optimizer was made with: the first group's."""
    return base_lr[0] if _common.is_sequence(base_lr) else base_lr


@_scheduler()
def get_constant_schedule(base_lr: Any, last_epoch: int = -1) -> Any:
    """Give the same rate always.

    Equals `constant(base_lr)`.

    Example:
        >>> transformers.get_constant_schedule(base_lr=0.1)
        constant(value=0.1)
    """
    return ours.constant(base_lr)


@_scheduler()
def get_constant_schedule_with_warmup(
    base_lr: Any, num_warmup_steps: Any, last_epoch: int = -1
) -> Any:
    """Go up along a line from 0, and stay.

    Equals `linear_warmup(base_lr, num_warmup_steps)`.

    Example:
        >>> transformers.get_constant_schedule_with_warmup(base_lr=0.1, num_warmup_steps=10)
        linear_warmup(peak_value=0.1, warmup_steps=10)
    """
    return ours.linear_warmup(base_lr, _common.whole("num_warmup_steps", num_warmup_steps))


@_scheduler()
def get_linear_schedule_with_warmup(
    base_lr: Any, num_warmup_steps: Any, num_training_steps: Any, last_epoch: int = -1
) -> Any:
    """Go up along a line from 0, and down along a line to 0.

    Equals the `join` of `linear_warmup` and `linear`. Where the warm-up is longer than the
    training, it is whole, and then 0.

    Example:
        >>> schedule = transformers.get_linear_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110
        ... )
        >>> print(schedule(5), schedule(10), schedule(60), schedule(110))
        0.4 0.8 0.4 0.0
    """
    steps = _steps_after(num_warmup_steps, num_training_steps)
    return _warmed_up(base_lr, num_warmup_steps, ours.linear(base_lr, 0.0, steps))


@_scheduler()
def get_cosine_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Go up along a line from 0, and along a cosine, which goes on past its end.

    Equals the `join` of `linear_warmup` and `cosine_decay(..., past_end="mirror")`.

    Example:
        >>> schedule = transformers.get_cosine_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110, 210)]
        [0.4, 0.8, 0.4, 0.0, 0.8]
    """
    steps = _steps_after(num_warmup_steps, num_training_steps, least=1)
    return _warmed_up(base_lr, num_warmup_steps, _waves(base_lr, 0.0, steps, num_cycles))


@_scheduler()
def get_cosine_with_hard_restarts_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 1,
    last_epoch: int = -1,
) -> Any:
    """Go up along a line from 0, and down along cosines, each from the peak; then 0.

    Equals the `join` of `linear_warmup` and `cosine_decay(..., hard_restarts=True)`.

    Args:
        num_cycles: How many cosines; above 0, and if it is no whole number, the last one is cut.

    Example:
        >>> schedule = transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, num_cycles=2
        ... )
        >>> [round(float(schedule(t)), 4) for t in (10, 35, 60, 110)]
        [0.8, 0.4, 0.8, 0.0]
    """
    _common.require_positive(num_cycles=num_cycles)
    steps = _steps_after(num_warmup_steps, num_training_steps)
    decay = ours.cosine_decay(base_lr, steps, num_cycles=num_cycles, hard_restarts=True)
    return _warmed_up(base_lr, num_warmup_steps, decay)


@_scheduler(split=False)
def get_polynomial_decay_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    lr_end: Any = 1e-7,
    power: Any = 1.0,
    last_epoch: int = -1,
) -> Any:
    """Go up along a line from 0, and down along a power to `lr_end`.

    Equals the `join` of `linear_warmup` and `polynomial(base_lr, lr_end, power, steps)`. `lr_end`
    is meant for the first group's rate, which is what the optimizer's default is taken to be: the
    others come to the same part of theirs.

    Args:
        lr_end: The rate at the end; less than the rate.
        power: The power; above 0.

    Example:
        >>> schedule = transformers.get_polynomial_decay_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, lr_end=0.0, power=2.0
        ... )
        >>> print(schedule(10), schedule(60), schedule(110))
        0.8 0.2 0.0
    """
    steps = _steps_after(num_warmup_steps, num_training_steps)
    default = _default_rate(base_lr)
    if _common.known(default, lr_end) and not default > lr_end:
        raise ValueError(
            f"lr_end must be less than base_lr; got lr_end = {lr_end!r}, base_lr = {base_lr!r}."
        )

    def build(lr: Any) -> Schedule:
        end = lr_end if lr is default else lr * (lr_end / default)
        return _warmed_up(lr, num_warmup_steps, ours.polynomial(lr, end, power, steps))

    return _common.per_group(base_lr, build)


@_scheduler()
def get_inverse_sqrt_schedule(
    base_lr: Any, num_warmup_steps: Any, timescale: Any = None, last_epoch: int = -1
) -> Any:
    """Go up along a line from 0, and down with the inverse square root of the step.

    Equals the `join` of `linear_warmup` and `inverse_sqrt(base_lr, timescale)`.

    Args:
        timescale: Steps after which the rate is its peak over the root of 2; above 0, or None for
            as many as the warm-up has, and 10,000 where it has none.

    Example:
        >>> schedule = transformers.get_inverse_sqrt_schedule(base_lr=0.8, num_warmup_steps=10)
        >>> print(schedule(5), schedule(10), schedule(40))
        0.4 0.8 0.4
    """
    if timescale is None:
        timescale = num_warmup_steps or 10_000
    _common.require_positive(timescale=timescale)
    return _warmed_up(base_lr, num_warmup_steps, ours.inverse_sqrt(base_lr, timescale))


@_scheduler(split=False)
def get_cosine_with_min_lr_schedule_with_warmup(
    base_lr: Any,
    num_warmup_steps: Any,
    num_training_steps: Any,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
    min_lr: Any = None,
    min_lr_rate: Any = None,
) -> Any:
    """Go up along a line from 0, and along a cosine above a floor, which goes on past its end.

    Equals the `join` of `linear_warmup` and `cosine_decay(..., past_end="mirror")`. `min_lr` is
    meant for the first group's rate, which is what the optimizer's default is taken to be.

    Raises:
        ValueError: If an argument is outside its range, or not one of the floors is given.

    Example:
        >>> schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.25
        ... )
        >>> print(schedule(10), schedule(60), schedule(110))
        0.8 0.5 0.2
    """
    steps = _steps_after(num_warmup_steps, num_training_steps, least=1)
    rate = _floor_rate(base_lr, min_lr, min_lr_rate)
    decay = lambda lr: _waves(lr, lr * rate, steps, num_cycles)
    return _common.per_group(base_lr, lambda lr: _warmed_up(lr, num_warmup_steps, decay(lr)))


def _floor_rate(base_lr: Any, min_lr: Any, min_lr_rate: Any) -> Any:
    """Return the floor as a part of the rate, whichever way it was given."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(
            "min_lr or min_lr_rate must be given, and not both; got "
            f"min_lr = {min_lr!r}, min_lr_rate = {min_lr_rate!r}."
        )
    if min_lr is None:
        _common.require_not_negative(min_lr_rate=min_lr_rate)
        return min_lr_rate
    _common.require_not_negative(min_lr=min_lr)
    return min_lr / _default_rate(base_lr)


@_scheduler(split=False)
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
    """Go along `get_cosine_with_min_lr_schedule_with_warmup` a step ahead.

    The warm-up starts above 0, at 1 / `num_warmup_steps` of the peak or at `warmup_lr_rate`, and
    reaches the peak at its last step. The cosine is one step into its course when it takes over,
    and is at the floor at the last step of the training.

    Args:
        warmup_lr_rate: The start of the warm-up as a part of the rate.

    Raises:
        ValueError: If an argument is outside its range, or not one of the floors is given.

    Example:
        >>> schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        ...     base_lr=0.8, num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.25
        ... )
        >>> print(schedule(0), schedule(9), schedule(59), schedule(109))
        0.08 0.8 0.5 0.2
    """
    warmup = _common.whole("num_warmup_steps", num_warmup_steps)
    steps = _steps_after(num_warmup_steps, num_training_steps, least=1)
    rate = _floor_rate(base_lr, min_lr, min_lr_rate)
    start = 1 / warmup if _common.known(warmup) and warmup else 1.0
    start = start if warmup_lr_rate is None else warmup_lr_rate

    def build(lr: Any) -> Schedule:
        rise = ours.constant(lr * start)
        if not _common.known(warmup) or warmup > 1:
            rise = ours.linear_warmup(lr, warmup - 1, lr * start)
        decay = ours.shift(_waves(lr, lr * rate, steps, num_cycles), -1)
        return ours.join([rise, decay], [warmup])

    return _common.per_group(base_lr, build)


_WARMUPS = {
    "linear": ours.linear_warmup,
    "cosine": ours.cosine_warmup,
    "1-sqrt": ours.sqrt_warmup,
}


@_scheduler(split=False)
def get_wsd_schedule(
    base_lr: Any,
    num_warmup_steps: Any,
    num_decay_steps: Any,
    num_training_steps: Any = None,
    num_stable_steps: Any = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: Any = 0,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Go up to the rate, stay, and go down.

    Equals the `join` of a warm-up, a `constant`, a decay and the floor. The warm-up starts from the
    floor, and not from 0. Where the phases are longer than the training, the decay is already
    under way when the warm-up ends.

    Args:
        num_decay_steps: Steps down; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number.
        num_stable_steps: Steps between up and down, in place of `num_training_steps`, which is
            not used (and a warning given) where both are there.
        warmup_type: "linear", "cosine" or "1-sqrt".
        decay_type: "linear", "cosine" or "1-sqrt".
        min_lr_ratio: The floor as a part of the rate; at least 0.
        num_cycles: Turns of the "cosine" decay.

    Example:
        >>> schedule = transformers.get_wsd_schedule(
        ...     base_lr=0.8, num_warmup_steps=10, num_stable_steps=80, num_decay_steps=20
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 89, 100, 110)]
        [0.4, 0.8, 0.8, 0.4, 0.0]
    """
    warmup = _common.whole("num_warmup_steps", num_warmup_steps)
    fall = _common.whole("num_decay_steps", num_decay_steps)
    if num_stable_steps is not None:
        stable = _common.whole("num_stable_steps", num_stable_steps)
        if num_training_steps is not None:
            warnings.warn(
                "Both num_training_steps and num_stable_steps are given; num_stable_steps is used.",
                stacklevel=3,  # the caller of the decorated function
            )
    elif num_training_steps is not None:
        stable = _common.whole("num_training_steps", num_training_steps) - warmup - fall
    else:
        raise ValueError(
            "num_training_steps or num_stable_steps must be given; got neither of them."
        )
    for name, word in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        _common.require_word(_WARMUPS, name, word)
    _common.require_not_negative(min_lr_ratio=min_lr_ratio)

    def build(lr: Any) -> Schedule:
        floor = lr * min_lr_ratio
        rise = _WARMUPS[warmup_type](lr, warmup, floor)
        if decay_type == "linear":
            decay = ours.linear(lr, floor, fall)
        elif decay_type == "1-sqrt":
            decay = ours.sqrt_decay(lr, fall, floor)
        else:
            decay = _waves(lr, floor, fall, num_cycles)
        end, rest = warmup + stable + fall, ours.constant(floor)
        if _common.known(stable) and stable < 0:  # it goes down before the warm-up is over
            pieces = [rise, ours.shift(decay, stable), rest]
            return ours.join(pieces, [warmup, max(end, warmup)])
        pieces = [rise, ours.constant(lr), decay, rest]
        return ours.join(pieces, [warmup, warmup + stable, end])

    return _common.per_group(base_lr, build)


@_documented(_common.METRIC_SCHEDULE)
def get_reduce_on_plateau_schedule(base_lr: Any, **kwargs: Any) -> Any:
    """Multiply the rate by a factor on a plateau.

    Equals `compat.torch.ReduceLROnPlateau(base_lr, **kwargs)`.

    Args:
        **kwargs: The arguments of `compat.torch.ReduceLROnPlateau`.

    Example:
        >>> plateau = transformers.get_reduce_on_plateau_schedule(base_lr=0.1, patience=3)
        >>> print(plateau.lr(plateau.init()))
        0.1
    """
    return _torch.ReduceLROnPlateau(base_lr, **kwargs)


@_scheduler(split=False, returns=_common.METRIC_SCHEDULE)
def GreedyLR(
    base_lr: Any,
    mode: str = "min",
    factor: Any = 0.95,
    patience: Any = 10,
    threshold: Any = 1e-6,
    threshold_mode: str = "abs",
    cooldown: Any = 0,
    warmup: Any = 0,
    min_lr: Any = 1e-3,
    max_lr: Any = 1.0,
    eps: Any = 1e-8,
    smooth: bool = False,
    window_size: int = 50,
    reset_start: Any = 500,
) -> Any:
    """Raise the rate while a metric improves, and cut it while it does not.

    Follows `greedy(min_lr, max_lr, factor, patience)`. A relative threshold is a share of the best
    value with its sign, as in transformers.

    Args:
        factor: What a cut multiplies by and a raise divides by; in (0, 1).
        patience: Good or bad values that change nothing yet; a whole number, at least 0.
        cooldown: Values after a cut that don't count; a whole number, at least 0.
        warmup: Values after a raise that don't count; a whole number, at least 0.
        min_lr: The least rate, or one for each group.
        max_lr: The greatest rate, or one for each group.
        smooth: Judge the mean of the last values.
        window_size: How many these are.
        reset_start: Cuts at the least rate after which all begins anew.

    Example:
        >>> rate = transformers.GreedyLR(base_lr=0.1, factor=0.5, patience=1)
        >>> state = rate.init()
        >>> for loss in [3.0, 2.0, 1.0]:
        ...     state = rate.update(state, loss)
        >>> print(rate.lr(state))
        0.2
    """
    rule = functools.partial(
        ours.greedy,
        factor=factor,
        patience=patience,
        **_common.margins(threshold, threshold_mode),
        cooldown=cooldown,
        warmup=warmup,
        mode=mode,  # pyright: ignore[reportArgumentType]
        eps=eps,
        window=window_size if smooth else 1,
        reset_start=max(reset_start, 1),
    )
    return _common.metric_schedules(base_lr, rule, min_lr, max_lr)


@_documented(_common.METRIC_SCHEDULE)
def get_greedy_schedule(base_lr: Any, **kwargs: Any) -> Any:
    """Raise the rate while a metric improves, and cut it while it does not.

    Equals `GreedyLR(base_lr, **kwargs)`.

    Args:
        **kwargs: The arguments of `GreedyLR`.

    Example:
        >>> rate = transformers.get_greedy_schedule(base_lr=0.1, patience=3)
        >>> print(rate.lr(rate.init()))
        0.1
    """
    return GreedyLR(base_lr, **kwargs)


TYPE_TO_SCHEDULER_FUNCTION: dict[str, Callable[..., Any]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
    "reduce_lr_on_plateau": get_reduce_on_plateau_schedule,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "cosine_warmup_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    "warmup_stable_decay": get_wsd_schedule,
    "greedy": get_greedy_schedule,
}
"""The functions by name."""

# What each is called with, besides the rate and what is specific to it.
_USES_NOTHING = ("constant", "reduce_lr_on_plateau", "greedy")
_USES_WARMUP = ("constant_with_warmup", "inverse_sqrt")
_TAKES_NOTHING_MORE = ("constant", "constant_with_warmup")


@_documented("What the function of that name gives.")
def get_scheduler(
    name: str,
    base_lr: Any,
    num_warmup_steps: Any = None,
    num_training_steps: Any = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Make a schedule by its name.

    As in transformers, a schedule that does not use the warm-up or the length of the training is
    not given them; what is in `scheduler_specific_kwargs` is never left out.

    Args:
        name: One of the words in `TYPE_TO_SCHEDULER_FUNCTION`.
        scheduler_specific_kwargs: The other arguments of the schedule.

    Raises:
        ValueError: If there is no such name, or a number of steps is missing.

    Example:
        >>> transformers.get_scheduler("constant_with_warmup", base_lr=0.1, num_warmup_steps=10)
        linear_warmup(peak_value=0.1, warmup_steps=10)
    """
    name = getattr(name, "value", name)  # transformers' own enumeration has the word as its value
    _common.require_word(TYPE_TO_SCHEDULER_FUNCTION, "name", name)
    given: dict[str, Any] = dict(scheduler_specific_kwargs or {})
    if given and name in _TAKES_NOTHING_MORE:
        raise ValueError(
            f"scheduler_specific_kwargs must be left out for {name!r}; got "
            f"scheduler_specific_kwargs = {given!r}."
        )
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for argument, value in steps.items():
        skipped = argument == "num_training_steps" and name in _USES_WARMUP
        if name in _USES_NOTHING or skipped:
            continue
        if argument == "num_warmup_steps" or name != "warmup_stable_decay":
            _common.require(lambda x: x is not None, argument, value, f"given for {name!r}")
        given[argument] = value
    return TYPE_TO_SCHEDULER_FUNCTION[name](base_lr, **given)
