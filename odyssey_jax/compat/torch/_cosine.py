"""Cosines: one that climbs back past its end, and one that starts anew."""

from __future__ import annotations

from typing import Any

from odyssey_jax.compat._arguments import per_group, require, require_fresh, whole
from odyssey_jax.schedules import cosine_decay, cosine_restarts


def CosineAnnealingLR(base_lr: Any, T_max: Any, eta_min: Any = 0.0, last_epoch: int = -1) -> Any:
    """Down along a cosine, and up again past its end.

    As `torch.optim.lr_scheduler.CosineAnnealingLR`; it is `cosine_decay` with `past_end` set to
    "mirror".

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        T_max: Steps down; above 0.
        eta_min: The rate at the bottom.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.CosineAnnealingLR(base_lr=0.8, T_max=100)
        >>> print(schedule(0), schedule(100), schedule(200))
        0.8 0.0 0.8
    """
    require_fresh(last_epoch)
    T_max = whole("T_max", T_max, least=1)
    return per_group(base_lr, lambda lr: cosine_decay(lr, T_max, eta_min, past_end="mirror"))


def CosineAnnealingWarmRestarts(
    base_lr: Any, T_0: Any, T_mult: Any = 1, eta_min: Any = 0.0, last_epoch: int = -1
) -> Any:
    """Down along a cosine, over and over, each `T_mult` times as long as the one before.

    As `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`; it is `cosine_restarts`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        T_0: Steps of the first cosine; an integer, at least 1.
        T_mult: How many times longer the next one is; an integer, at least 1.
        eta_min: The rate at the bottom.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.CosineAnnealingWarmRestarts(base_lr=0.8, T_0=10, T_mult=2)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 30)]
        [0.8, 0.4, 0.8, 0.8]
    """
    require_fresh(last_epoch)
    is_integer = lambda x: isinstance(x, int) and x >= 1
    require(is_integer, "T_0", T_0, "a positive integer")
    require(is_integer, "T_mult", T_mult, "an integer of at least 1")
    return per_group(base_lr, lambda lr: cosine_restarts(lr, T_0, float(T_mult), end_value=eta_min))
