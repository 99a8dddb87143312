"""A rate that is cut when a metric stops improving."""

from __future__ import annotations

from typing import Any

from odyssey_jax.compat._arguments import group_values, is_sequence, require
from odyssey_jax.compat._metric import metric_schedules, within
from odyssey_jax.schedules import reduce_on_plateau


def ReduceLROnPlateau(
    base_lr: Any,
    mode: str = "min",
    factor: Any = 0.1,
    patience: Any = 10,
    threshold: Any = 1e-4,
    threshold_mode: str = "rel",
    cooldown: Any = 0,
    min_lr: Any = 0.0,
    eps: Any = 1e-8,
) -> Any:
    """The rate times `factor` on a plateau, as `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    It is `reduce_on_plateau` by PyTorch's rule. A relative threshold is a share of the best value
    with its sign, as in PyTorch: on a negative metric that asks for nothing but a little loss.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        mode: Whether "min" or "max" is better.
        factor: The factor of a cut; in [0, 1).
        patience: Bad values that are put up with; a whole number, at least 0.
        threshold: What an improvement has to exceed; at least 0.
        threshold_mode: "rel" for a share of the best value, "abs" for the difference itself.
        cooldown: Values after a cut that are never bad; a whole number, at least 0.
        min_lr: The least rate, or one for each group.
        eps: A cut by no more than this is left out.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> plateau = torch.ReduceLROnPlateau(base_lr=0.1, factor=0.5, patience=1)
        >>> state = plateau.init()
        >>> for loss in [3.0, 2.0, 2.0, 2.0]:
        ...     state = plateau.update(state, loss)
        >>> print(plateau.lr(state))
        0.05
    """
    words = ("rel", "abs")
    require(words.__contains__, "threshold_mode", threshold_mode, "'rel' or 'abs'")
    if is_sequence(min_lr):
        min_lr = group_values("min_lr", min_lr, len(base_lr) if is_sequence(base_lr) else 1)
        min_lr = min_lr if is_sequence(base_lr) else min_lr[0]
    rule = reduce_on_plateau(
        factor,
        patience,
        rtol=threshold if threshold_mode == "rel" else 0.0,
        atol=threshold if threshold_mode == "abs" else 0.0,
        cooldown=cooldown,
        mode=mode,  # pyright: ignore[reportArgumentType]
        relative_to="value",
        patience_rule="torch",
        init_scale=within(base_lr, min_lr),
        min_scale=min_lr,
        eps=eps,
    )
    return metric_schedules(base_lr, rule)
