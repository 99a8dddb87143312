"""Cuts by a factor: at regular steps, or at milestones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odyssey_jax.compat._arguments import known, require
from odyssey_jax.compat.timm._noise import Noise
from odyssey_jax.compat.timm._warmup import Warmup, scheduled
from odyssey_jax.schedules import Schedule, constant, multistep_decay, step_decay


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
    """The rate times `decay_rate` every `decay_t` steps, as `timm.scheduler.StepLRScheduler`.

    It is `step_decay`, and `linear_warmup` before it.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        decay_t: Steps between two cuts; at least 1, whole or not.
        decay_rate: The factor; above 0.
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
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
        >>> schedule = timm.StepLRScheduler(base_lr=0.8, decay_t=30, decay_rate=0.5, warmup_t=10)
        >>> print(schedule(5), schedule(10), schedule(39), schedule(40))
        0.4 0.8 0.8 0.4
    """
    return scheduled(
        base_lr,
        lambda lr: step_decay(lr, decay_t, decay_rate),
        Warmup(warmup_t, warmup_lr_init, warmup_prefix),
        Noise(noise_range_t, noise_pct, noise_std, noise_seed),
        t_in_epochs,
    )


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
    """The rate times `decay_rate` one step before each milestone.

    As `timm.scheduler.MultiStepLRScheduler`; it is `multistep_decay`, and `linear_warmup` before
    it. A milestone m is in force from step m - 1 on; at step 0 without a warm-up none is, as that
    rate is set when the scheduler is made.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        decay_t: The milestones, smallest first.
        decay_rate: The factor; above 0.
        warmup_t: Steps of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
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
        >>> schedule = timm.MultiStepLRScheduler(base_lr=0.8, decay_t=[30, 60], decay_rate=0.5)
        >>> print(schedule(28), schedule(29), schedule(59))
        0.8 0.4 0.2
    """
    require(lambda x: list(x) == sorted(x), "decay_t", decay_t, "sorted, smallest first")
    first = 1 if known(warmup_t) and warmup_t == 0 else 0
    steps = [max(milestone - 1, first) for milestone in decay_t]

    def curve(lr: Any) -> Schedule:
        return multistep_decay(lr, steps, decay_rate) if steps else constant(lr)

    return scheduled(
        base_lr,
        curve,
        Warmup(warmup_t, warmup_lr_init, warmup_prefix),
        Noise(noise_range_t, noise_pct, noise_std, noise_seed),
        t_in_epochs,
    )
