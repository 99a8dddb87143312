"""One-cycle and cyclic rates, each with the momentum that goes the other way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import (
    as_python,
    is_sequence,
    per_group,
    require,
    require_fresh,
)
from odyssey_jax.schedules import (
    Schedule,
    cyclic,
    piecewise_interpolate,
    shift,
    with_momentum,
)


def OneCycleLR(
    base_lr: Any,
    max_lr: Any,
    total_steps: Any = None,
    epochs: Any = None,
    steps_per_epoch: Any = None,
    pct_start: Any = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: Any = 0.85,
    max_momentum: Any = 0.95,
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
    three_phase: bool = False,
    last_epoch: int = -1,
) -> Any:
    """One cycle up to `max_lr` and down, as `torch.optim.lr_scheduler.OneCycleLR`.

    It is `piecewise_interpolate`, with its end at `total_steps - 1`. PyTorch raises an error when
    it is stepped further; here the end is held. The rate of the optimizer is not used, as in
    PyTorch, but for how many groups there are.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        max_lr: The rate at the peak, or one for each group.
        total_steps: Steps in the cycle; an integer, at least 1.
        epochs: Epochs in the cycle, in place of `total_steps`.
        steps_per_epoch: Steps in an epoch, with `epochs`.
        pct_start: The part of the cycle that rises; a float in [0, 1].
        anneal_strategy: "cos" or "linear".
        cycle_momentum: Whether the result has the momentum as `.momentum`.
        base_momentum: The momentum at the peak of the rate, or one for each group.
        max_momentum: The momentum at both ends, or one for each group.
        div_factor: The peak over the first rate.
        final_div_factor: The first rate over the last one.
        three_phase: Down as far as up, and from there to the last rate.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, pct_start=0.5)
        >>> [round(float(x), 3) for x in (schedule(0), schedule(10), schedule.momentum(0))]
        [0.04, 0.0, 0.95]
    """
    require_fresh(last_epoch)
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    is_share = lambda x: isinstance(x, float) and 0 <= x <= 1
    require(is_share, "pct_start", pct_start, "a float in the range [0, 1]")
    _require_strategy(anneal_strategy)
    shape: Any = {"cos": "cosine", "linear": "linear"}[anneal_strategy]
    ends = _ends(steps, pct_start, three_phase)

    def build(lr: Any, max_lr: Any, base_momentum: Any, max_momentum: Any) -> Schedule:
        del lr
        first = max_lr / div_factor
        last = first / final_div_factor
        middle = [first] if three_phase else []
        rate = _phases([first, max_lr, *middle, last], ends, shape)
        if not cycle_momentum:
            return rate
        middle = [max_momentum] if three_phase else []
        momenta = [max_momentum, base_momentum, *middle, max_momentum]
        return with_momentum(rate, _phases(momenta, ends, shape))

    return per_group(
        base_lr,
        build,
        max_lr=max_lr,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
    )


def _ends(steps: Any, pct_start: Any, three_phase: bool) -> list[Any]:
    """The last step of each phase, whole or not."""
    up = 1.0 * pct_start * steps - 1
    return [up, 2 * up, steps - 1] if three_phase else [up, steps - 1]


def _phases(values: list[Any], ends: list[Any], shape: Any) -> Schedule:
    """From value to value, each reached at its end: phases that end before step 0 are over.

    The phase after them starts where they end, and so is already under way at step 0; those that
    would end after the last one do not happen.
    """
    start, last = 0, ends[-1]
    while ends[0] < 0:
        start, ends, values = ends[0], ends[1:], values[1:]
    count = next(i for i, end in enumerate(ends, 1) if end >= last)
    boundaries = [end - start for end in ends[:count]]
    if count == 1:  # a single phase is how SWALR is known
        values, boundaries = [*values[:2], values[1]], boundaries * 2
    phases = piecewise_interpolate(values[: len(boundaries) + 1], boundaries, shape)
    return shift(phases, start) if start else phases


def _total_steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> Any:
    is_positive = lambda x: isinstance(x, int) and x > 0
    if total_steps is not None:
        require(is_positive, "total_steps", total_steps, "a positive integer")
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            "total_steps, or epochs and steps_per_epoch, must be given; got total_steps = None, "
            f"epochs = {epochs!r}, steps_per_epoch = {steps_per_epoch!r}."
        )
    require(is_positive, "epochs", epochs, "a positive integer")
    require(is_positive, "steps_per_epoch", steps_per_epoch, "a positive integer")
    return epochs * steps_per_epoch


def _require_strategy(anneal_strategy: Any) -> None:
    words = ("cos", "linear")
    require(words.__contains__, "anneal_strategy", anneal_strategy, "'cos' or 'linear'")


def CyclicLR(
    base_lr: Any,
    max_lr: Any,
    step_size_up: Any = 2000,
    step_size_down: Any = None,
    mode: str = "triangular",
    gamma: Any = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: Any = 0.8,
    max_momentum: Any = 0.9,
    last_epoch: int = -1,
) -> Any:
    """Up and down between two rates, as `torch.optim.lr_scheduler.CyclicLR`.

    It is `cyclic`. `base_lr` is PyTorch's own argument of that name, the lower rate: the one of
    the optimizer is not used there. A `scale_fn` is given the number of the cycle, from 1, or,
    with `scale_mode` "iterations", the step, and is called on the host (see `from_python`) unless
    it is a schedule.

    Args:
        base_lr: The rate at the bottom, or one for each group of parameters.
        max_lr: The rate at the peak of the first cycle, or one for each group.
        step_size_up: Steps up; above 0.
        step_size_down: Steps down; None for as many as up.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: The factor of "exp_range".
        scale_fn: The height as a function, in place of `mode`.
        scale_mode: What it is given: the "cycle" or the "iterations".
        cycle_momentum: Whether the result has the momentum as `.momentum`.
        base_momentum: The momentum at the peak, or one for each group.
        max_momentum: The momentum at the bottom, or one for each group.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.CyclicLR(base_lr=0.1, max_lr=0.5, step_size_up=4)
        >>> [round(float(x), 3) for x in (schedule(2), schedule(4), schedule.momentum(4))]
        [0.3, 0.5, 0.8]
    """
    require_fresh(last_epoch)
    steps = (step_size_up, step_size_down)
    require(lambda x: x > 0, "step_size_up", step_size_up, "above 0")
    height = _height(mode, gamma, scale_fn, scale_mode)

    def build(lr: Any, max_lr: Any, base_momentum: Any, max_momentum: Any) -> Schedule:
        rate = cyclic(lr, max_lr, *steps, **height)
        if not cycle_momentum:
            return rate
        return with_momentum(rate, cyclic(max_momentum, base_momentum, *steps, **height))

    others = {"max_lr": max_lr, "base_momentum": base_momentum, "max_momentum": max_momentum}
    wide = [x for x in others.values() if is_sequence(x)]
    if wide and not is_sequence(base_lr):
        base_lr = [base_lr] * len(wide[0])
    return per_group(base_lr, build, **others)


def _height(mode: str, gamma: Any, scale_fn: Any, scale_mode: str) -> dict[str, Any]:
    """The arguments of `cyclic` that say how high a cycle is."""
    if scale_fn is None:
        modes = ("triangular", "triangular2", "exp_range")
        require(modes.__contains__, "mode", mode, "one of " + ", ".join(map(repr, modes)))
        return {"mode": mode, "gamma": gamma} if mode == "exp_range" else {"mode": mode}
    words = ("cycle", "iterations")
    require(words.__contains__, "scale_mode", scale_mode, "'cycle' or 'iterations'")
    require(callable, "scale_fn", scale_fn, "a function")
    amplitude = as_python(scale_fn)
    if scale_mode == "iterations":
        return {"amplitude": amplitude, "amplitude_of": "step"}
    return {"amplitude": shift(amplitude, -1)}  # PyTorch counts cycles from 1
