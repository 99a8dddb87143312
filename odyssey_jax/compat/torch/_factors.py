"""The schedulers that multiply: step, multistep, exponential, constant, linear, polynomial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from odyssey_jax.compat._arguments import known, per_group, require, require_fresh, whole
from odyssey_jax.schedules import (
    Schedule,
    constant,
    exponential_decay,
    linear,
    multistep_decay,
    piecewise_constant,
    polynomial,
    step_decay,
)


def StepLR(base_lr: Any, step_size: Any, gamma: Any = 0.1, last_epoch: int = -1) -> Any:
    """The rate times `gamma` every `step_size` steps, as `torch.optim.lr_scheduler.StepLR`.

    It is `step_decay`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        step_size: Steps between two cuts; a whole number, at least 1.
        gamma: The factor; at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> torch.StepLR(base_lr=0.1, step_size=30)
        step_decay(init_value=0.1, step_size=30)
    """
    require_fresh(last_epoch)
    step_size = whole("step_size", step_size, least=1)
    return per_group(base_lr, lambda lr: powers(lr, step_size, gamma))


def powers(lr: Any, step_size: Any, gamma: Any) -> Schedule:
    """A staircase of powers; those of 0 are 1 and then 0."""
    require(lambda x: x >= 0, "gamma", gamma, "at least 0")
    if known(gamma) and gamma == 0:
        return piecewise_constant([lr, 0.0], [step_size])
    return step_decay(lr, step_size, gamma)


def MultiStepLR(
    base_lr: Any, milestones: Iterable[Any], gamma: Any = 0.1, last_epoch: int = -1
) -> Any:
    """The rate times `gamma` at each milestone, as `torch.optim.lr_scheduler.MultiStepLR`.

    It is `multistep_decay`. The milestones may come in any order; one that is given twice counts
    twice, and one at 0 is there at the first update.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        milestones: Steps from which on there is one factor more; whole numbers, at least 0.
        gamma: The factor; at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.MultiStepLR(base_lr=0.8, milestones=[60, 30], gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(60))
        0.8 0.4 0.2
    """
    require_fresh(last_epoch)
    steps = sorted(whole("milestones", milestone) for milestone in milestones)
    return per_group(base_lr, lambda lr: milestone_powers(lr, steps, gamma))


def milestone_powers(lr: Any, milestones: list[Any], gamma: Any) -> Schedule:
    """A factor for each milestone; without one, a constant."""
    require(lambda x: x >= 0, "gamma", gamma, "at least 0")
    if not milestones:
        return constant(lr)
    if known(gamma) and gamma == 0:
        return piecewise_constant([lr, 0.0], [milestones[0]])
    return multistep_decay(lr, milestones, gamma)


def ExponentialLR(base_lr: Any, gamma: Any, last_epoch: int = -1) -> Any:
    """The rate times `gamma` at every step, as `torch.optim.lr_scheduler.ExponentialLR`.

    It is `exponential_decay` with a transition of 1 step.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        gamma: The factor; at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> torch.ExponentialLR(base_lr=0.1, gamma=0.9)
        exponential_decay(init_value=0.1, transition_steps=1, decay_rate=0.9)
    """
    require_fresh(last_epoch)

    def build(lr: Any) -> Schedule:
        if known(gamma) and gamma == 0:
            return powers(lr, 1, gamma)
        require(lambda x: x > 0, "gamma", gamma, "at least 0")
        return exponential_decay(lr, 1, gamma)

    return per_group(base_lr, build)


def ConstantLR(
    base_lr: Any, factor: Any = 1.0 / 3, total_iters: Any = 5, last_epoch: int = -1
) -> Any:
    """A part of the rate, and all of it after `total_iters` steps.

    As `torch.optim.lr_scheduler.ConstantLR`; it is `piecewise_constant`. With `total_iters` 0,
    PyTorch never gives the whole rate, and neither does this.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        factor: The part; in (0, 1]. PyTorch takes 0 too, and then divides by it.
        total_iters: Steps of it; a whole number, at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.ConstantLR(base_lr=0.8, factor=0.5, total_iters=5)
        >>> print(schedule(4), schedule(5))
        0.4 0.8
    """
    require_fresh(last_epoch)
    require(lambda x: 0 < x <= 1, "factor", factor, "in the range (0, 1]")
    total_iters = whole("total_iters", total_iters)
    if known(total_iters) and total_iters == 0:
        return per_group(base_lr, lambda lr: constant(lr * factor))
    return per_group(base_lr, lambda lr: piecewise_constant([lr * factor, lr], [total_iters]))


def LinearLR(
    base_lr: Any,
    start_factor: Any = 1.0 / 3,
    end_factor: Any = 1.0,
    total_iters: Any = 5,
    last_epoch: int = -1,
) -> Any:
    """From one part of the rate to another along a line, as `torch.optim.lr_scheduler.LinearLR`.

    It is `linear`. With `total_iters` 0, PyTorch stays at the start factor, and so does this.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        start_factor: The part at step 0; in (0, 1].
        end_factor: The part from `total_iters` on; in [0, 1].
        total_iters: Steps between them; a whole number, at least 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> torch.LinearLR(base_lr=0.1, start_factor=0.5, total_iters=10)
        linear(init_value=0.05, end_value=0.1, transition_steps=10)
    """
    require_fresh(last_epoch)
    require(lambda x: 0 < x <= 1, "start_factor", start_factor, "in the range (0, 1]")
    require(lambda x: 0 <= x <= 1, "end_factor", end_factor, "in the range [0, 1]")
    total_iters = whole("total_iters", total_iters)
    if known(total_iters) and total_iters == 0:
        end_factor = start_factor
    return per_group(base_lr, lambda lr: linear(lr * start_factor, lr * end_factor, total_iters))


def PolynomialLR(base_lr: Any, total_iters: Any = 5, power: Any = 1.0, last_epoch: int = -1) -> Any:
    """From the rate to 0 along a power, as `torch.optim.lr_scheduler.PolynomialLR`.

    It is `polynomial`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        total_iters: Steps to 0; a whole number, at least 1.
        power: The power; above 0.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> torch.PolynomialLR(base_lr=0.1, total_iters=10, power=2.0)
        polynomial(init_value=0.1, end_value=0.0, power=2.0, transition_steps=10)
    """
    require_fresh(last_epoch)
    total_iters = whole("total_iters", total_iters, least=1)
    return per_group(base_lr, lambda lr: polynomial(lr, 0.0, power, total_iters))
