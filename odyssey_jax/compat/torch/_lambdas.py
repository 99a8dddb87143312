"""Any function of the step: as a factor of the rate, or as a factor from each step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import as_python, per_group, require, require_fresh
from odyssey_jax.schedules import Schedule, from_python, scale


def LambdaLR(base_lr: Any, lr_lambda: Any, last_epoch: int = -1) -> Any:
    """The rate times a function of the step, as `torch.optim.lr_scheduler.LambdaLR`.

    It is `scale` of `from_python`: the function is called on the host with the step as an int, as
    PyTorch calls it, and may be any Python. That costs more than a schedule that is compiled; so
    one of ours may take the function's place.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        lr_lambda: A function from the step to a factor, or one for each group.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.LambdaLR(base_lr=0.1, lr_lambda=lambda epoch: 0.5 ** (epoch // 30))
        >>> print(schedule(29), schedule(30))
        0.1 0.05
    """
    require_fresh(last_epoch)
    return per_group(base_lr, lambda lr, lr_lambda: scale(_function(lr_lambda), lr),
                     lr_lambda=lr_lambda)  # fmt: skip


def _function(lr_lambda: Any) -> Schedule:
    require(callable, "lr_lambda", lr_lambda, "a function, or a sequence of them")
    return as_python(lr_lambda)


def MultiplicativeLR(base_lr: Any, lr_lambda: Any, last_epoch: int = -1) -> Any:
    """The rate times a function of each step so far: `torch.optim.lr_scheduler.MultiplicativeLR`.

    The factor at step t is the product of the function at 1, 2 ... t. It is called on the host
    (see `from_python`), once for each step, in order: a first call far out, on a resumed run,
    takes as long as the steps before it. A factor that is always the same is `ExponentialLR`.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        lr_lambda: A function from the step to a factor, or one for each group.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.MultiplicativeLR(base_lr=1.0, lr_lambda=lambda epoch: 1 / epoch)
        >>> print(schedule(0), schedule(1), schedule(2), schedule(4))
        1.0 1.0 0.5 0.041666668
    """
    require_fresh(last_epoch)

    def build(lr: Any, lr_lambda: Any) -> Schedule:
        require(callable, "lr_lambda", lr_lambda, "a function, or a sequence of them")
        return scale(from_python(CumulativeProduct(lr_lambda)), lr)

    return per_group(base_lr, build, lr_lambda=lr_lambda)


def cumulative(schedule: Schedule) -> CumulativeProduct | None:
    """The product in what `MultiplicativeLR` made; None if it was made by something else."""
    function = getattr(getattr(schedule, "schedule", None), "function", None)
    return function if isinstance(function, CumulativeProduct) else None


def cumulative_from(schedule: Schedule, rate: Any) -> Schedule:
    """It again, from a rate that it finds at its step 0: then the function's value at 0 counts."""
    product = cumulative(schedule)
    assert product is not None
    return scale(from_python(product), rate * float(product.function(0)))


class CumulativeProduct:
    """`function(1) * function(2) * ... * function(step)`, one product kept of every thousand."""

    EVERY = 1000

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function
        self._kept = [1.0]
        self._last = (0, 1.0)

    def __call__(self, step: float) -> float:
        """The product up to a step; the products between are made on the way."""
        step = int(step)
        now, value = self._last
        known = min(step // self.EVERY, len(self._kept) - 1) * self.EVERY
        if not known <= now <= step:
            now, value = known, self._kept[known // self.EVERY]
        while now < step:
            now += 1
            value *= float(self.function(now))
            if now == self.EVERY * len(self._kept):
                self._kept.append(value)
        self._last = (now, value)
        return value
