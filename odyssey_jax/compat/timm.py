"""timm's schedulers (timm.scheduler, as of 1.0.31).

A step of a schedule is what timm's is: an epoch where `t_in_epochs` is true, which is its default
(`by_epoch` then runs the schedule in updates), and else an update. All of them but the plateau
are a curve that is written here, after a linear warm-up or under it, times noise.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from odyssey_jax import schedules as ours
from odyssey_jax.compat import _common
from odyssey_jax.compat import torch as _torch
from odyssey_jax.compat._timm_noise import timm_noise as timm_noise

if TYPE_CHECKING:  # so that the names in this module are timm's
    from collections.abc import Callable, Sequence
    from typing import Any

    from odyssey_jax.schedules import Schedule

_ARGUMENTS = {
    "t_initial": "Steps of the first cycle; above 0.",
    "lr_min": "The rate at the end of each cycle, and after the last; at least 0.",
    "cycle_mul": "How many times longer each next cycle is; above 0.",
    "cycle_decay": "What each next peak is multiplied by.",
    "cycle_limit": "How many cycles; an integer.",
    "k_decay": "The exponent of the time.",
    "decay_rate": "The factor of a cut; above 0.",
    "warmup_t": "Steps of the warm-up; at least 0.",
    "warmup_lr_init": "The rate at its start.",
    "warmup_prefix": "Whether the warm-up comes before the curve, or over its start.",
    "t_in_epochs": "Whether a step is an epoch (then `by_epoch` runs it in updates) or an update.",
    "noise_range_t": "The step from which there is noise, or that and the one where it ends.",
    "noise_pct": "The bound of the noise.",
    "noise_std": "Its deviation.",
    "noise_seed": "Its seed, None for 42: the numbers are timm's own.",
}
_SOURCE = "timm.scheduler"


def _scheduler(meets_curve: bool = False) -> Any:
    """Make a public scheduler of a function that gives the curve of one rate.

    Args:
        meets_curve: Whether a warm-up over the start of the curve rises to where it meets the
            curve, and not to the rate. Step 0 is then at the rate if there is no warm-up.
    """

    def decorate(curve: Any) -> Any:
        signature = inspect.signature(curve)

        @functools.wraps(curve)
        def build(base_lr: Any, **given: Any) -> Schedule:
            bound = signature.bind(base_lr, **given)
            bound.apply_defaults()
            arguments = bound.arguments
            warmup = {k: x for k, x in arguments.items() if k.startswith("warmup_")}
            warmed = _warmed_up(base_lr, curve(**arguments), meets_curve, **warmup)
            noise = _noise(**{k: x for k, x in arguments.items() if k.startswith("noise_")})
            return warmed if noise is None else ours.product([warmed, noise])

        return _common.scheduler(_ARGUMENTS, _SOURCE)(build)

    return decorate


def _warmed_up(
    lr: Any,
    curve: Schedule,
    meets_curve: bool,
    warmup_t: Any,
    warmup_lr_init: Any,
    warmup_prefix: bool = True,
) -> Schedule:
    """Join a linear warm-up to a curve: to its start, or to what is left of it."""
    peak = lr
    if meets_curve and _common.equals(warmup_t, 0):
        return _after_first_step(lr, curve)
    if meets_curve and not warmup_prefix:
        peak = curve(warmup_t)
        peak = float(peak) if _common.known(peak) else peak
    rest = curve if warmup_prefix else ours.shift(curve, -warmup_t)
    return ours.join([ours.linear_warmup(peak, warmup_t, warmup_lr_init), rest], [warmup_t])


def _after_first_step(lr: Any, curve: Schedule) -> Schedule:
    """Return a curve but for step 0, whose rate timm sets when the scheduler is made."""
    return ours.join([ours.constant(lr), ours.shift(curve, -1)], [1])


def _noise(
    noise_range_t: Any, noise_pct: Any, noise_std: Any, noise_seed: Any, noise_type: str = "normal"
) -> Schedule | None:
    """Return the noise as a factor; None where there is none."""
    if noise_range_t is None:
        return None
    wide = _common.is_sequence(noise_range_t)
    begin, end = noise_range_t[:2] if wide else (noise_range_t, None)
    # The rate of step 0 is set when the scheduler is made, without noise.
    begin, end = max(math.ceil(begin), 1), None if end is None else math.ceil(end)
    seed = 42 if noise_seed is None else noise_seed
    return timm_noise(begin, end, noise_pct, noise_std, seed, noise_type)


def _cycles(
    piece: Callable[[Any, Any], Schedule],
    lr: Any,
    t_initial: Any,
    lr_min: Any,
    cycle_mul: Any,
    cycle_decay: Any,
    cycle_limit: Any,
) -> Schedule:
    """Join `piece(peak, steps)` for each cycle, and then the floor."""
    _common.require_positive(t_initial=t_initial, cycle_mul=cycle_mul)
    _common.require_not_negative(lr_min=lr_min)
    _common.require(lambda x: isinstance(x, int), "cycle_limit", cycle_limit, "an integer")
    steps, peak, start = t_initial, lr, 0
    pieces, starts = [], []
    for _ in range(cycle_limit):
        pieces.append(piece(peak, steps))
        start = _tidy(start + steps)
        starts.append(start)
        steps, peak = _tidy(steps * cycle_mul), peak * cycle_decay
    floor = ours.constant(lr_min)
    return ours.join([*pieces, floor], starts) if pieces else _after_first_step(lr, floor)


def _tidy(x: Any) -> Any:
    """Return a sum of lengths without the rounding errors of its terms; an int if it is whole."""
    if not isinstance(x, float):
        return x
    x = round(x, 9)
    return int(x) if x.is_integer() else x


@_scheduler()
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
    """Go down along cosines from falling peaks.

    Equals the `join` of `cosine_decay(peak, steps, lr_min)` for each cycle. Without
    `warmup_prefix` the cosine has begun when the warm-up ends: the rate jumps down there.

    Example:
        >>> schedule = timm.CosineLRScheduler(
        ...     base_lr=0.8, t_initial=100, warmup_t=10, warmup_prefix=True
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 60, 110)]
        [0.4, 0.8, 0.4, 0.0]
    """
    power = None if _common.equals(k_decay, 1) else k_decay
    piece = lambda peak, steps: ours.cosine_decay(peak, steps, lr_min, k_decay=power)
    return _cycles(piece, base_lr, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)


@_scheduler()
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
    """Go down along powers from falling peaks.

    Equals the `join` of `polynomial(peak, lr_min, power, steps)` for each cycle.

    Args:
        power: The power of what is left; above 0.

    Example:
        >>> schedule = timm.PolyLRScheduler(base_lr=0.8, t_initial=100, power=2.0)
        >>> print(schedule(0), schedule(50), schedule(100))
        0.8 0.2 0.0
    """
    exponent = None if _common.equals(k_decay, 1) else k_decay
    piece = lambda peak, steps: ours.polynomial(peak, lr_min, power, steps, k_decay=exponent)
    return _cycles(piece, base_lr, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)


@_scheduler(meets_curve=True)
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
    """Go down along hyperbolic tangents from falling peaks.

    Equals the `join` of `tanh_decay(peak, steps, lr_min, lb, ub)` for each cycle. A tangent that
    starts at `lb` is a little below its peak there; without a warm-up, step 0 is at the peak all
    the same, as in timm, which sets that rate when the scheduler is made. Without `warmup_prefix`
    the warm-up rises to the curve where it meets it, and not to the peak.

    Args:
        lb: Where on the tangent a cycle starts.
        ub: Where it ends; above `lb`.
        lr_min: The rate that the tangent goes towards, and after the last cycle; at least 0.
        cycle_limit: How many cycles; at least 0.
        warmup_lr_init: The rate at its start; at least 0.

    Example:
        >>> schedule = timm.TanhLRScheduler(base_lr=0.8, t_initial=100)
        >>> print(schedule(0), schedule(70), schedule(100))
        0.8 0.4 0.0
    """
    if _common.known(lb, ub) and not lb < ub:
        raise ValueError(f"lb must be less than ub; got lb = {lb!r}, ub = {ub!r}.")
    _common.require_not_negative(
        cycle_limit=cycle_limit, warmup_t=warmup_t, warmup_lr_init=warmup_lr_init
    )
    piece = lambda peak, steps: ours.tanh_decay(peak, steps, lr_min, lb, ub)
    return _cycles(piece, base_lr, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)


@_scheduler()
def StepLRScheduler(
    base_lr: Any,
    decay_t: Any,
    decay_rate: Any = 1.0,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
) -> Any:
    """Multiply the rate by `decay_rate` every `decay_t` steps.

    Equals `step_decay(base_lr, decay_t, decay_rate)`.

    Args:
        decay_t: Steps between two cuts; at least 1, whole or not.

    Example:
        >>> schedule = timm.StepLRScheduler(base_lr=0.8, decay_t=30, decay_rate=0.5, warmup_t=10)
        >>> print(schedule(5), schedule(10), schedule(39), schedule(40))
        0.4 0.8 0.8 0.4
    """
    return ours.step_decay(base_lr, decay_t, decay_rate)


@_scheduler()
def MultiStepLRScheduler(
    base_lr: Any,
    decay_t: Sequence[Any],
    decay_rate: Any = 1.0,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = 42,
) -> Any:
    """Multiply the rate by `decay_rate` one step before each milestone.

    Equals `multistep_decay` with other milestones: m is in force from step m - 1 on; at step 0
    without a warm-up none is, as that rate is set when the scheduler is made.

    Args:
        decay_t: The milestones, smallest first.

    Example:
        >>> schedule = timm.MultiStepLRScheduler(base_lr=0.8, decay_t=[30, 60], decay_rate=0.5)
        >>> print(schedule(28), schedule(29), schedule(59))
        0.8 0.4 0.2
    """
    _common.require(lambda x: list(x) == sorted(x), "decay_t", decay_t, "sorted, smallest first")
    first = 1 if _common.equals(warmup_t, 0) else 0
    steps = [max(milestone - 1, first) for milestone in decay_t]
    return ours.multistep_decay(base_lr, steps, decay_rate) if steps else ours.constant(base_lr)


_STABLE = ("constant", "rsqrt", "power")
_DECAY = ("linear", "1-sqrt", "cosine", "power", "exp")


@_scheduler()
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
    """Go up, stay, and go down over the last `decay_t` steps.

    Equals the `join` of a `constant` and a decay. The warm-up comes before the `t_initial` steps.
    A stable phase that itself falls goes on falling under the decay, which is a factor on what is
    above the floor: a `product` then.

    Args:
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

    Example:
        >>> schedule = timm.WSDLRScheduler(
        ...     base_lr=0.8, t_initial=100, decay_t=20, decay_fn="linear", warmup_t=10
        ... )
        >>> print(schedule(5), schedule(90), schedule(100), schedule(110))
        0.4 0.8 0.4 0.0
    """
    _common.require_positive(t_initial=t_initial)
    within = lambda x: x > 0 and (not _common.known(t_initial) or x <= t_initial)
    _common.require(within, "decay_t", decay_t, f"above 0 and at most t_initial = {t_initial!r}")
    _common.require_not_negative(lr_min=lr_min)
    _common.require_word(_STABLE, "stable_fn", stable_fn)
    if not callable(decay_fn):
        _common.require_word(_DECAY, "decay_fn", decay_fn, more=", or a function")
    _common.require(lambda x: 0 < x < 1, "decay_ratio", decay_ratio, "in the range (0, 1)")
    _common.require_positive(decay_power=decay_power, stable_power=stable_power)
    fall = lambda top, floor: _fall(decay_fn, top, floor, decay_t, decay_power, decay_ratio)
    steady = [t_initial - decay_t]
    if stable_fn == "constant":
        top = max(base_lr, lr_min) if _common.known(base_lr, lr_min) else base_lr
        curve = ours.join([ours.constant(top), fall(top, lr_min)], steady)
    else:
        timescale = warmup_t if stable_timescale is None else stable_timescale
        accepted = "above 0, and is given where there is no warm-up"
        _common.require(lambda x: x > 0, "stable_timescale", timescale, accepted)
        stable = _stable(base_lr, timescale, 0.5 if stable_fn == "rsqrt" else stable_power)
        stable = ours.clip(stable, min_value=lr_min) - ours.constant(lr_min)
        part = ours.join([ours.constant(1.0), fall(1.0, 0.0)], steady)
        curve = ours.sum([ours.product([stable, part]), ours.constant(lr_min)])
    below = _common.known(base_lr, lr_min) and base_lr < lr_min
    return _after_first_step(base_lr, curve) if below and _common.equals(warmup_t, 0) else curve


def _stable(lr: Any, timescale: Any, power: Any) -> Schedule:
    if _common.equals(power, 0.5):
        return ours.inverse_sqrt(lr, timescale)
    return ours.power_decay(lr, timescale, power)


def _fall(kind: Any, top: Any, floor: Any, steps: Any, power: Any, ratio: Any) -> Schedule:
    if callable(kind):
        factor = ours.from_python(functools.partial(_of_part, kind, steps))
        return ours.sum([ours.scale(factor, top - floor), ours.constant(floor)])
    if kind == "linear":
        return ours.linear(top, floor, steps)
    if kind == "1-sqrt":
        return ours.sqrt_decay(top, steps, floor)
    if kind == "cosine":
        return ours.cosine_decay(top, steps, floor)
    if kind == "power":
        return ours.polynomial(top, floor, 1.0, steps, k_decay=power)
    # To `ratio` of a height that is chosen so that it falls by all of it.
    height = (top - floor) / (1 - ratio)
    fall = ours.exponential_decay(height, steps, ratio, end_value=height * ratio)
    return ours.sum([fall, ours.constant(floor - height * ratio)])


def _of_part(function: Callable[..., Any], steps: Any, step: float) -> float:
    return function(min(step / steps, 1.0))


class _PlateauState(typing.NamedTuple):
    """The state of `PlateauLRScheduler`.

    Attributes:
        rule: The state of `reduce_on_plateau`.
        epoch: int32 scalar, the values so far.
    """

    rule: Any
    epoch: jax.Array


@dataclasses.dataclass(frozen=True)
class _PlateauSchedule:
    """A rate that is warmed up and then follows a metric: pure functions.

    Attributes:
        plateau: What `compat.torch.ReduceLROnPlateau` gave.
        warmup: The warm-up, a schedule of the epoch.
        warmup_t: Its length.
        noise: The noise, a factor for each epoch; None where there is none.
    """

    plateau: _common.MetricSchedule
    warmup: Schedule
    warmup_t: Any
    noise: Schedule | None

    def init(self) -> _PlateauState:
        """Return the state of a scheduler that has seen no value."""
        return _PlateauState(self.plateau.init(), jnp.zeros((), jnp.int32))

    def update(self, state: _PlateauState, value: Any) -> _PlateauState:
        """Return the state after an epoch's metric, which does not count during the warm-up."""
        epoch = state.epoch + 1
        judged = self.plateau.update(state.rule, value)
        warm = epoch > self.warmup_t
        rule = jax.tree.map(lambda new, old: jnp.where(warm, new, old), judged, state.rule)
        return _PlateauState(rule, epoch)

    def lr(self, state: _PlateauState) -> jax.Array:
        """Return the rate in force; float32 scalar."""
        rate = self.plateau.lr(state.rule)
        if self.noise is not None:
            rate = rate * self.noise(state.epoch)
        return jnp.where(state.epoch > self.warmup_t, rate, self.warmup(state.epoch))


@_common.scheduler(_ARGUMENTS, _SOURCE, split=False, returns=_common.METRIC_SCHEDULE)
def PlateauLRScheduler(
    base_lr: Any,
    decay_rate: Any = 0.1,
    patience_t: Any = 10,
    threshold: Any = 1e-4,
    cooldown_t: Any = 0,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    lr_min: Any = 0.0,
    mode: str = "max",
    noise_range_t: Any = None,
    noise_type: str = "normal",
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = None,
) -> Any:
    """Multiply the rate by `decay_rate` on a plateau.

    Follows `compat.torch.ReduceLROnPlateau` after a `linear_warmup`; values seen during the warm-up
    do not count. Epochs count from 1 at the first value, as timm's own training script has them.

    Args:
        decay_rate: The factor of a cut; in [0, 1).
        patience_t: Bad values that are put up with; a whole number, at least 0.
        threshold: What an improvement has to exceed, as a share of the best value; at least 0.
        cooldown_t: Values after a cut that are never bad; a whole number, at least 0.
        lr_min: The least rate, or one for each group.
        noise_type: "normal" or "uniform".

    Example:
        >>> plateau = timm.PlateauLRScheduler(base_lr=0.8, decay_rate=0.5, patience_t=1, warmup_t=2)
        >>> state = plateau.init()
        >>> for accuracy in [0.1, 0.2, 0.3, 0.3, 0.3]:
        ...     state = plateau.update(state, accuracy)
        ...     print(plateau.lr(state), end=" ")
        0.4 0.8 0.8 0.8 0.4
    """
    plateaus = _torch.ReduceLROnPlateau(
        base_lr, mode, decay_rate, patience_t, threshold, cooldown=cooldown_t, min_lr=lr_min
    )
    noise = _noise(noise_range_t, noise_pct, noise_std, noise_seed, noise_type)

    def build(lr: Any, plateau: Any) -> _PlateauSchedule:
        start = lr if _common.equals(warmup_t, 0) else warmup_lr_init
        return _PlateauSchedule(plateau, ours.linear_warmup(lr, warmup_t, start), warmup_t, noise)

    return _common.per_group(base_lr, build, plateau=plateaus)


_CYCLES = {"cosine": CosineLRScheduler, "tanh": TanhLRScheduler, "poly": PolyLRScheduler}
_WSD = {"wsd": ("constant", "1-sqrt"), "rsqrt": ("rsqrt", "linear")}
_NAMES = (*_CYCLES, "step", "constant", "multistep", "plateau", *_WSD, "none")


@_common.documented(
    _ARGUMENTS, _SOURCE, "What the scheduler of that name gives, and the number of epochs to train."
)
def create_scheduler_v2(
    base_lr: Any,
    sched: str = "cosine",
    num_epochs: int = 300,
    decay_epochs: float | None = None,
    decay_milestones: Sequence[int] = (90, 180, 270),
    cooldown_epochs: int = 0,
    patience_epochs: int = 10,
    decay_rate: float = 0.1,
    min_lr: float = 0.0,
    warmup_lr: float = 1e-5,
    warmup_epochs: int = 0,
    warmup_prefix: bool = False,
    noise: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int = 42,
    cycle_mul: float = 1.0,
    cycle_decay: float = 0.1,
    cycle_limit: int = 1,
    k_decay: float = 1.0,
    decay_fn: str | None = None,
    stable_timescale: float | None = None,
    plateau_mode: str = "max",
    step_on_epochs: bool = True,
    updates_per_epoch: int = 0,
) -> tuple[Any, int]:
    """Make a schedule by its name, and say how many epochs to train.

    As in timm, an argument that the named schedule does not use makes no difference. For "none",
    timm gives no scheduler and leaves the rate as it is; here that is `constant`.

    Args:
        sched: "cosine", "tanh", "poly", "step", "constant", "multistep", "plateau", "wsd",
            "rsqrt" or "none".
        num_epochs: Epochs of the schedule.
        decay_epochs: Epochs between two cuts (90), or of the decay of "wsd" and "rsqrt", or, below
            1, that as a part of the schedule (0.2).
        decay_milestones: The milestones of "multistep", in epochs.
        cooldown_epochs: Epochs to train after the schedule.
        patience_epochs: The patience of "plateau".
        decay_rate: The factor of a cut; for "poly", the power.
        min_lr: The least rate.
        warmup_lr: The rate at the start of the warm-up.
        warmup_epochs: Epochs of the warm-up.
        noise: Where noise begins, or begins and ends, as parts of the schedule.
        decay_fn: The decay of "wsd" and "rsqrt".
        stable_timescale: The timescale of "rsqrt", in epochs.
        plateau_mode: Whether "min" or "max" is better.
        step_on_epochs: Whether a step is an epoch, or an update.
        updates_per_epoch: Updates in an epoch, where a step is an update.

    Raises:
        ValueError: If there is no such name, or an argument is outside its range.

    Example:
        >>> schedule, epochs = timm.create_scheduler_v2(
        ...     base_lr=0.8, sched="step", num_epochs=90, decay_epochs=30, decay_rate=0.5
        ... )
        >>> print(schedule(29), schedule(30), epochs)
        0.8 0.4 90
    """
    _common.require_word(_NAMES, "sched", sched)
    _common.require_flags(step_on_epochs=step_on_epochs, warmup_prefix=warmup_prefix)
    unit = 1
    if not step_on_epochs:
        _common.require_positive(updates_per_epoch=updates_per_epoch)
        unit = updates_per_epoch
    total, warm = num_epochs * unit, warmup_epochs * unit
    if decay_epochs is None:
        decay_epochs = 0.2 if sched in _WSD else 90
    steps = None
    if noise is not None:
        steps = [x * total for x in noise] if _common.is_sequence(noise) else noise * total
        steps = steps[0] if _common.is_sequence(steps) and len(steps) == 1 else steps
    shared: dict[str, Any] = {
        "warmup_t": warm,
        "warmup_lr_init": warmup_lr,
        "noise_range_t": steps,
        "noise_pct": noise_pct,
        "noise_std": noise_std,
        "noise_seed": noise_seed,
    }
    timed = {**shared, "t_in_epochs": step_on_epochs}
    placed = {**timed, "warmup_prefix": warmup_prefix}
    length = None
    if sched in _CYCLES:
        special: dict[str, Any] = {} if sched == "tanh" else {"k_decay": k_decay}
        if sched == "poly":
            special["power"] = decay_rate
        cycles = {"cycle_mul": cycle_mul, "cycle_decay": cycle_decay, "cycle_limit": cycle_limit}
        built = _CYCLES[sched](base_lr, total, lr_min=min_lr, **cycles, **special, **placed)
        length = _length(total, cycle_mul, cycle_limit) + (warm if warmup_prefix else 0)
    elif sched in _WSD:
        held = total if warmup_prefix else total - warm
        fall = round(decay_epochs * (held if 0 < decay_epochs < 1 else unit))
        stable, usual = _WSD[sched]
        scale = None if stable_timescale is None else stable_timescale * unit
        shape = {"stable_fn": stable, "stable_timescale": scale, "decay_fn": decay_fn or usual}
        built = WSDLRScheduler(base_lr, held, fall, lr_min=min_lr, **shape, **timed)
        length = held + warm
    elif sched == "step":
        built = StepLRScheduler(base_lr, decay_epochs * unit, decay_rate, **placed)
    elif sched == "constant":
        built = StepLRScheduler(base_lr, 1, 1.0, **placed)
    elif sched == "multistep":
        milestones = [milestone * unit for milestone in decay_milestones]
        built = MultiStepLRScheduler(base_lr, milestones, decay_rate, **placed)
    elif sched == "plateau":
        _common.require(bool, "step_on_epochs", step_on_epochs, "True for 'plateau'")
        bounds = {"lr_min": min_lr, "mode": plateau_mode}
        built = PlateauLRScheduler(base_lr, decay_rate, patience_epochs, **bounds, **shared)
    else:
        built = _common.per_group(base_lr, ours.constant)
    if length is None:
        return built, num_epochs + (warmup_epochs if warmup_prefix else 0)
    return built, (length + cooldown_epochs * unit) // unit


def _length(first: int, factor: float, cycles: int) -> int:
    """Return the steps in so many cycles, at least one."""
    cycles = max(1, cycles)
    if factor == 1:
        return first * cycles
    return int(first * (factor**cycles - 1) / (factor - 1))
