"""From whatever rate is in force to that of weight averaging."""

from __future__ import annotations

import dataclasses
from typing import Any

from odyssey_jax.compat._arguments import per_group, require, require_fresh
from odyssey_jax.schedules import Schedule, piecewise_interpolate


def SWALR(
    base_lr: Any,
    swa_lr: Any,
    anneal_epochs: Any = 10,
    anneal_strategy: str = "cos",
    last_epoch: int = -1,
) -> Any:
    """To the rate of stochastic weight averaging, and stay: `torch.optim.swa_utils.SWALR`.

    It is `piecewise_interpolate`. In `SequentialLR` it starts from the rate that the scheduler
    before it had come to, as in PyTorch.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        swa_lr: The rate to go to, or one for each group.
        anneal_epochs: Steps until it is reached; an integer, at least 0.
        anneal_strategy: "cos" or "linear".
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.SWALR(base_lr=0.8, swa_lr=0.2, anneal_epochs=4)
        >>> [round(float(schedule(t)), 4) for t in (0, 2, 4, 5)]
        [0.8, 0.5, 0.2, 0.2]
    """
    require_fresh(last_epoch)
    words = ("cos", "linear")
    require(words.__contains__, "anneal_strategy", anneal_strategy, "'cos' or 'linear'")
    is_count = lambda x: isinstance(x, int) and x >= 0
    require(is_count, "anneal_epochs", anneal_epochs, "an integer of at least 0")

    shape: Any = {"cos": "cosine", "linear": "linear"}[anneal_strategy]
    return per_group(
        base_lr,
        lambda lr, swa_lr: piecewise_interpolate([lr, swa_lr], [anneal_epochs], shape),
        swa_lr=swa_lr,
    )


def swa_from(schedule: Schedule, rate: Any) -> Schedule | None:
    """What `SWALR` made, from another rate; None for what something else made."""
    values = getattr(schedule, "values", ())
    if schedule.name != "piecewise_interpolate" or len(values) != 2:
        return None
    fields = {"values": (rate, values[1])}
    return dataclasses.replace(schedule, **fields)  # pyright: ignore[reportArgumentType]
