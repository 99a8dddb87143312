"""Schedules by the names that timm's training script has for them, in epochs or in updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odyssey_jax.compat._arguments import is_sequence, per_group, require
from odyssey_jax.compat.timm._cycles import CosineLRScheduler, PolyLRScheduler, TanhLRScheduler
from odyssey_jax.compat.timm._plateau import PlateauLRScheduler
from odyssey_jax.compat.timm._steps import MultiStepLRScheduler, StepLRScheduler
from odyssey_jax.compat.timm._wsd import WSDLRScheduler
from odyssey_jax.schedules import constant

_CYCLES = {"cosine": CosineLRScheduler, "tanh": TanhLRScheduler, "poly": PolyLRScheduler}
_WSD = {"wsd": ("constant", "1-sqrt"), "rsqrt": ("rsqrt", "linear")}
_NAMES = (*_CYCLES, "step", "constant", "multistep", "plateau", *_WSD, "none")


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
    """A schedule by its name, and the epochs to train: `timm.scheduler.create_scheduler_v2`.

    As there, an argument that the named schedule does not use makes no difference. For "none",
    timm gives no scheduler and leaves the rate as it is; here that is `constant`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
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
        warmup_prefix: Whether the warm-up comes before the curve, or over its start.
        noise: Where noise begins, or begins and ends, as parts of the schedule.
        noise_pct: The bound of the noise.
        noise_std: Its deviation.
        noise_seed: Its seed.
        cycle_mul: How many times longer each next cycle is.
        cycle_decay: What each next peak is multiplied by.
        cycle_limit: How many cycles.
        k_decay: The exponent of the time.
        decay_fn: The decay of "wsd" and "rsqrt".
        stable_timescale: The timescale of "rsqrt", in epochs.
        plateau_mode: Whether "min" or "max" is better.
        step_on_epochs: Whether a step is an epoch, or an update.
        updates_per_epoch: Updates in an epoch, where a step is an update.

    Returns:
        What the scheduler of that name gives, and the number of epochs to train.

    Raises:
        ValueError: If there is no such name, or an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> schedule, epochs = timm.create_scheduler_v2(
        ...     base_lr=0.8, sched="step", num_epochs=90, decay_epochs=30, decay_rate=0.5
        ... )
        >>> print(schedule(29), schedule(30), epochs)
        0.8 0.4 90
    """
    require(_NAMES.__contains__, "sched", sched, "one of " + ", ".join(map(repr, _NAMES)))
    unit = 1
    if not step_on_epochs:
        require(lambda x: x > 0, "updates_per_epoch", updates_per_epoch, "above 0")
        unit = updates_per_epoch
    total, warm = num_epochs * unit, warmup_epochs * unit
    if decay_epochs is None:
        decay_epochs = 0.2 if sched in _WSD else 90
    rise = {"warmup_t": warm, "warmup_lr_init": warmup_lr}
    shared = {**rise, **_noise(noise, total, noise_pct, noise_std, noise_seed)}
    in_epochs: dict[str, Any] = {"t_in_epochs": step_on_epochs}
    cuts = {"decay_rate": decay_rate, "warmup_prefix": warmup_prefix, **in_epochs}
    length = None
    if sched in _CYCLES:
        more = {} if sched == "tanh" else {"k_decay": k_decay}
        if sched == "poly":
            more["power"] = decay_rate
        cycles = {"cycle_mul": cycle_mul, "cycle_decay": cycle_decay, "cycle_limit": cycle_limit}
        arguments = {"lr_min": min_lr, "warmup_prefix": warmup_prefix, **cycles, **in_epochs}
        built = _CYCLES[sched](base_lr, total, **arguments, **more, **shared)
        length = _length(total, cycle_mul, cycle_limit) + (warm if warmup_prefix else 0)
    elif sched in _WSD:
        held = total if warmup_prefix else total - warm
        fall = decay_epochs * (held if 0 < decay_epochs < 1 else unit)
        stable, usual = _WSD[sched]
        scale = None if stable_timescale is None else stable_timescale * unit
        shape = {"stable_fn": stable, "stable_timescale": scale, "decay_fn": decay_fn or usual}
        arguments = {"lr_min": min_lr, **shape, **in_epochs}
        built = WSDLRScheduler(base_lr, held, round(fall), **arguments, **shared)
        length = held + warm
    elif sched == "step":
        built = StepLRScheduler(base_lr, decay_epochs * unit, **cuts, **shared)
    elif sched == "constant":
        built = StepLRScheduler(base_lr, 1, **{**cuts, "decay_rate": 1.0}, **shared)
    elif sched == "multistep":
        milestones = [milestone * unit for milestone in decay_milestones]
        built = MultiStepLRScheduler(base_lr, milestones, **cuts, **shared)
    elif sched == "plateau":
        require(lambda x: x, "step_on_epochs", step_on_epochs, "True for 'plateau'")
        bounds = {"lr_min": min_lr, "mode": plateau_mode, "patience_t": patience_epochs}
        built = PlateauLRScheduler(base_lr, decay_rate, **bounds, **shared)
    else:
        built = per_group(base_lr, constant)
    if length is None:
        return built, num_epochs + (warmup_epochs if warmup_prefix else 0)
    return built, (length + cooldown_epochs * unit) // unit


def _noise(noise: Any, total: int, pct: float, std: float, seed: int) -> dict[str, Any]:
    """The arguments about noise, where it is in parts of the schedule."""
    steps = None
    if noise is not None:
        parts = [x * total for x in noise] if is_sequence(noise) else [noise * total]
        steps = parts if len(parts) > 1 else parts[0]
    return {"noise_range_t": steps, "noise_pct": pct, "noise_std": std, "noise_seed": seed}


def _length(first: int, factor: float, cycles: int) -> int:
    """Steps in so many cycles, at least one."""
    cycles = max(1, cycles)
    if factor == 1:
        return first * cycles
    return int(first * (factor**cycles - 1) / (factor - 1))
