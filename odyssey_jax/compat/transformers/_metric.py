"""Rates that follow a metric: PyTorch's plateau by transformers' name, and greedy."""

from __future__ import annotations

from typing import Any

from odyssey_jax.compat._arguments import group_values, is_sequence, require
from odyssey_jax.compat._metric import metric_schedules, within
from odyssey_jax.compat.torch import ReduceLROnPlateau
from odyssey_jax.schedules import greedy


def get_reduce_on_plateau_schedule(base_lr: Any, **kwargs: Any) -> Any:
    """PyTorch's plateau, as `transformers.get_reduce_on_plateau_schedule`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        **kwargs: The arguments of `compat.torch.ReduceLROnPlateau`.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> plateau = transformers.get_reduce_on_plateau_schedule(base_lr=0.1, patience=3)
        >>> print(plateau.lr(plateau.init()))
        0.1
    """
    return ReduceLROnPlateau(base_lr, **kwargs)


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
    """Up while a metric improves, down while it does not: `transformers.optimization.GreedyLR`.

    It is `greedy`. A relative threshold is a share of the best value with its sign, as there.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        mode: Whether "min" or "max" is better.
        factor: What a cut multiplies by and a raise divides by; in (0, 1).
        patience: Good or bad values that change nothing yet; a whole number, at least 0.
        threshold: What an improvement has to exceed; at least 0.
        threshold_mode: "rel" for a share of the best value, "abs" for the difference itself.
        cooldown: Values after a cut that don't count; a whole number, at least 0.
        warmup: Values after a raise that don't count; a whole number, at least 0.
        min_lr: The least rate, or one for each group.
        max_lr: The greatest rate, or one for each group.
        eps: A change by no more than this is left out.
        smooth: Judge the mean of the last values.
        window_size: How many these are.
        reset_start: Cuts at the least rate after which all begins anew.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> rate = transformers.GreedyLR(base_lr=0.1, factor=0.5, patience=1)
        >>> state = rate.init()
        >>> for loss in [3.0, 2.0, 1.0]:
        ...     state = rate.update(state, loss)
        >>> print(rate.lr(state))
        0.2
    """
    words = ("rel", "abs")
    require(words.__contains__, "threshold_mode", threshold_mode, "'rel' or 'abs'")
    rule = greedy(
        _each("min_lr", min_lr, base_lr),
        _each("max_lr", max_lr, base_lr),
        factor,
        patience,
        rtol=threshold if threshold_mode == "rel" else 0.0,
        atol=threshold if threshold_mode == "abs" else 0.0,
        cooldown=cooldown,
        warmup=warmup,
        mode=mode,  # pyright: ignore[reportArgumentType]
        relative_to="value",
        init_scale=within(base_lr, min_lr, max_lr),
        eps=eps,
        window=window_size if smooth else 1,
        reset_start=max(reset_start, 1),
    )
    return metric_schedules(base_lr, rule)


def _each(name: str, x: Any, base_lr: Any) -> Any:
    """A bound for each group of parameters, or one for all."""
    if not is_sequence(x):
        return x
    values = group_values(name, x, len(base_lr) if is_sequence(base_lr) else 1)
    return values if is_sequence(base_lr) else values[0]


def get_greedy_schedule(base_lr: Any, **kwargs: Any) -> Any:
    """The same, as `transformers.get_greedy_schedule`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        **kwargs: The arguments of `GreedyLR`.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> rate = transformers.get_greedy_schedule(base_lr=0.1, patience=3)
        >>> print(rate.lr(rate.init()))
        0.1
    """
    return GreedyLR(base_lr, **kwargs)
