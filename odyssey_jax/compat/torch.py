"""PyTorch's schedulers (torch.optim.lr_scheduler and torch.optim.swa_utils, as of 2.13)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from odyssey_jax import schedules as ours
from odyssey_jax.compat import _common
from odyssey_jax.compat import _torch_chains as _chains

if TYPE_CHECKING:  # so that the names in this module are PyTorch's
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from odyssey_jax.schedules import Schedule

_ARGUMENTS = {
    "gamma": "The factor; at least 0.",
    "eta_min": "The rate at the bottom.",
    "anneal_strategy": '"cos" or "linear".',
    "lr_lambda": "A function from the step to a factor, or one for each group.",
    "max_lr": "The rate at the peak, or one for each group.",
    "cycle_momentum": "Whether the result has the momentum as `.momentum`.",
    "base_momentum": "The momentum at the peak of the rate, or one for each group.",
    "max_momentum": "The momentum where the rate is lowest, or one for each group.",
}
_scheduler = functools.partial(_common.scheduler, _ARGUMENTS, "torch.optim.lr_scheduler")
_SHAPES: dict[str, Any] = {"cos": "cosine", "linear": "linear"}


@_scheduler()
def StepLR(base_lr: Any, step_size: Any, gamma: Any = 0.1, last_epoch: int = -1) -> Any:
    """Multiply the rate by `gamma` every `step_size` steps.

    Equals `step_decay(base_lr, step_size, gamma)`.

    Args:
        step_size: Steps between two cuts; a whole number, at least 1.

    Example:
        >>> torch.StepLR(base_lr=0.1, step_size=30)
        step_decay(init_value=0.1, step_size=30)
    """
    step_size = _common.whole("step_size", step_size, least=1)
    return _to_zero(base_lr, gamma, step_size) or ours.step_decay(base_lr, step_size, gamma)


def _to_zero(lr: Any, gamma: Any, first: Any) -> Schedule | None:
    """Return the curve of a factor of 0, whose powers are 1 and then 0; else None."""
    _common.require_not_negative(gamma=gamma)
    return ours.piecewise_constant([lr, 0.0], [first]) if _common.equals(gamma, 0) else None


@_scheduler()
def MultiStepLR(
    base_lr: Any, milestones: Iterable[Any], gamma: Any = 0.1, last_epoch: int = -1
) -> Any:
    """Multiply the rate by `gamma` at each milestone.

    Equals `multistep_decay(base_lr, milestones, gamma)`. The milestones may come in any order; one
    that is given twice counts twice, and one at 0 is there at the first update.

    Args:
        milestones: Steps from which on there is one factor more; whole numbers, at least 0.

    Example:
        >>> schedule = torch.MultiStepLR(base_lr=0.8, milestones=[60, 30], gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(60))
        0.8 0.4 0.2
    """
    steps = sorted(_common.whole("milestones", milestone) for milestone in milestones)
    zero = _to_zero(base_lr, gamma, min(steps, default=1))
    if not steps:
        return ours.constant(base_lr)
    return zero or ours.multistep_decay(base_lr, steps, gamma)


@_scheduler()
def ExponentialLR(base_lr: Any, gamma: Any, last_epoch: int = -1) -> Any:
    """Multiply the rate by `gamma` at every step.

    Equals `exponential_decay(base_lr, 1, gamma)`.

    Example:
        >>> torch.ExponentialLR(base_lr=0.1, gamma=0.9)
        exponential_decay(init_value=0.1, transition_steps=1, decay_rate=0.9)
    """
    return _to_zero(base_lr, gamma, 1) or ours.exponential_decay(base_lr, 1, gamma)


@_scheduler()
def ConstantLR(
    base_lr: Any, factor: Any = 1.0 / 3, total_iters: Any = 5, last_epoch: int = -1
) -> Any:
    """Give a part of the rate, and all of it after `total_iters` steps.

    Equals `piecewise_constant([base_lr * factor, base_lr], [total_iters])`. With `total_iters` 0,
    PyTorch never gives the whole rate, and neither does this.

    Args:
        factor: The part; in (0, 1]. PyTorch takes 0 too, and then divides by it.
        total_iters: Steps of it; a whole number, at least 0.

    Example:
        >>> schedule = torch.ConstantLR(base_lr=0.8, factor=0.5, total_iters=5)
        >>> print(schedule(4), schedule(5))
        0.4 0.8
    """
    _common.require(lambda x: 0 < x <= 1, "factor", factor, "in the range (0, 1]")
    total_iters = _common.whole("total_iters", total_iters)
    if _common.equals(total_iters, 0):
        return ours.constant(base_lr * factor)
    return ours.piecewise_constant([base_lr * factor, base_lr], [total_iters])


@_scheduler()
def LinearLR(
    base_lr: Any,
    start_factor: Any = 1.0 / 3,
    end_factor: Any = 1.0,
    total_iters: Any = 5,
    last_epoch: int = -1,
) -> Any:
    """Go from one part of the rate to another along a line.

    Equals `linear(base_lr * start_factor, base_lr * end_factor, total_iters)`. With `total_iters`
    0, PyTorch stays at the start factor, and so does this.

    Args:
        start_factor: The part at step 0; in (0, 1].
        end_factor: The part from `total_iters` on; in [0, 1].
        total_iters: Steps between them; a whole number, at least 0.

    Example:
        >>> torch.LinearLR(base_lr=0.1, start_factor=0.5, total_iters=10)
        linear(init_value=0.05, end_value=0.1, transition_steps=10)
    """
    _common.require(lambda x: 0 < x <= 1, "start_factor", start_factor, "in the range (0, 1]")
    _common.require(lambda x: 0 <= x <= 1, "end_factor", end_factor, "in the range [0, 1]")
    total_iters = _common.whole("total_iters", total_iters)
    if _common.equals(total_iters, 0):
        end_factor = start_factor
    return ours.linear(base_lr * start_factor, base_lr * end_factor, total_iters)


@_scheduler()
def PolynomialLR(base_lr: Any, total_iters: Any = 5, power: Any = 1.0, last_epoch: int = -1) -> Any:
    """Go from the rate to 0 along a power.

    Equals `polynomial(base_lr, 0.0, power, total_iters)`.

    Args:
        total_iters: Steps to 0; a whole number, at least 1.
        power: The power; above 0.

    Example:
        >>> torch.PolynomialLR(base_lr=0.1, total_iters=10, power=2.0)
        polynomial(init_value=0.1, end_value=0.0, power=2.0, transition_steps=10)
    """
    total_iters = _common.whole("total_iters", total_iters, least=1)
    return ours.polynomial(base_lr, 0.0, power, total_iters)


@_scheduler()
def CosineAnnealingLR(base_lr: Any, T_max: Any, eta_min: Any = 0.0, last_epoch: int = -1) -> Any:
    """Go down along a cosine, and up again past its end.

    Equals `cosine_decay(base_lr, T_max, eta_min, past_end="mirror")`.

    Args:
        T_max: Steps down; a whole number, at least 1.

    Example:
        >>> schedule = torch.CosineAnnealingLR(base_lr=0.8, T_max=100)
        >>> print(schedule(0), schedule(100), schedule(200))
        0.8 0.0 0.8
    """
    T_max = _common.whole("T_max", T_max, least=1)
    return ours.cosine_decay(base_lr, T_max, eta_min, past_end="mirror")


@_scheduler()
def CosineAnnealingWarmRestarts(
    base_lr: Any, T_0: Any, T_mult: Any = 1, eta_min: Any = 0.0, last_epoch: int = -1
) -> Any:
    """Go down along a cosine, over and over, each `T_mult` times as long as the one before.

    Equals `cosine_restarts(base_lr, T_0, T_mult, end_value=eta_min)`.

    Args:
        T_0: Steps of the first cosine; an integer, at least 1.
        T_mult: How many times longer the next one is; an integer, at least 1.

    Example:
        >>> schedule = torch.CosineAnnealingWarmRestarts(base_lr=0.8, T_0=10, T_mult=2)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 30)]
        [0.8, 0.4, 0.8, 0.8]
    """
    _common.require(_is_positive_integer, "T_0", T_0, "a positive integer")
    _common.require(_is_positive_integer, "T_mult", T_mult, "an integer of at least 1")
    return ours.cosine_restarts(base_lr, T_0, float(T_mult), end_value=eta_min)


def _is_positive_integer(x: Any) -> bool:
    return isinstance(x, int) and x > 0


@_scheduler("max_lr", "base_momentum", "max_momentum")
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
    """Go up to `max_lr` and down, once.

    Equals a `piecewise_interpolate` that ends at `total_steps - 1`. PyTorch raises an error when
    it is stepped further; here the end is held. The rate of the optimizer is not used, as in
    PyTorch, but for how many groups there are.

    Args:
        total_steps: Steps in the cycle; an integer, at least 1.
        epochs: Epochs in the cycle, in place of `total_steps`.
        steps_per_epoch: Steps in an epoch, with `epochs`.
        pct_start: The part of the cycle that rises; a float in [0, 1].
        div_factor: The peak over the first rate.
        final_div_factor: The first rate over the last one.
        three_phase: Whether the rate goes down as far as up, and from there to the last rate.

    Example:
        >>> schedule = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, pct_start=0.5)
        >>> [round(float(x), 3) for x in (schedule(0), schedule(10), schedule.momentum(0))]
        [0.04, 0.0, 0.95]
    """
    steps = _total_steps(total_steps, epochs, steps_per_epoch)
    is_share = lambda x: isinstance(x, float) and 0 <= x <= 1
    _common.require(is_share, "pct_start", pct_start, "a float in the range [0, 1]")
    _common.require_word(_SHAPES, "anneal_strategy", anneal_strategy)
    up = 1.0 * pct_start * steps - 1
    ends = [up, 2 * up, steps - 1] if three_phase else [up, steps - 1]

    def phases(first: Any, top: Any, last: Any) -> Schedule:
        values = [first, top, *([first] if three_phase else []), last]
        return _phases(values, ends, _SHAPES[anneal_strategy])

    first = max_lr / div_factor
    rate = phases(first, max_lr, first / final_div_factor)
    if not cycle_momentum:
        return rate
    return ours.with_momentum(rate, phases(max_momentum, base_momentum, max_momentum))


def _total_steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> Any:
    given = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    if total_steps is not None:
        given = {"total_steps": total_steps}
    elif None in given.values():
        raise ValueError(
            "total_steps, or epochs and steps_per_epoch, must be given; got total_steps = None, "
            f"epochs = {epochs!r}, steps_per_epoch = {steps_per_epoch!r}."
        )
    for name, value in given.items():
        _common.require(_is_positive_integer, name, value, "a positive integer")
    return total_steps if total_steps is not None else epochs * steps_per_epoch


def _phases(values: list[Any], ends: list[Any], shape: Any) -> Schedule:
    """Go from value to value, each reached at the last step of its phase, whole or not.

    Phases that end before step 0 are over: the one after them starts where they end, and so is
    already under way at step 0. Those that would end after the last one do not happen.
    """
    start, last = 0, ends[-1]
    while ends[0] < 0:
        start, ends, values = ends[0], ends[1:], values[1:]
    count = next(i for i, end in enumerate(ends, 1) if end >= last)
    boundaries = [end - start for end in ends[:count]]
    if count == 1:  # a single phase is how SWALR is known
        values, boundaries = [*values[:2], values[1]], boundaries * 2
    phases = ours.piecewise_interpolate(values[: len(boundaries) + 1], boundaries, shape)
    return ours.shift(phases, start) if start else phases


@_scheduler(split=False)
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
    """Go up and down between two rates.

    Equals `cyclic(base_lr, max_lr, step_size_up, step_size_down, mode=mode)`. `base_lr` is
    PyTorch's own argument of that name, the lower rate: the one of the optimizer is not used
    there. A `scale_fn` is called on the host (see `from_python`) unless it is a schedule.

    Args:
        base_lr: The rate at the bottom, or one for each group of parameters.
        max_lr: The rate at the peak of the first cycle, or one for each group.
        step_size_up: Steps up; above 0.
        step_size_down: Steps down; None for as many as up.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: The factor of "exp_range".
        scale_fn: The height as a function, in place of `mode`.
        scale_mode: What it is given: the number of the "cycle", from 1, or the "iterations".

    Example:
        >>> schedule = torch.CyclicLR(base_lr=0.1, max_lr=0.5, step_size_up=4)
        >>> [round(float(x), 3) for x in (schedule(2), schedule(4), schedule.momentum(4))]
        [0.3, 0.5, 0.8]
    """
    steps = (step_size_up, step_size_down)
    _common.require_positive(step_size_up=step_size_up)
    height = _height(mode, gamma, scale_fn, scale_mode)

    def build(lr: Any, max_lr: Any, base_momentum: Any, max_momentum: Any) -> Schedule:
        rate = ours.cyclic(lr, max_lr, *steps, **height)
        if not cycle_momentum:
            return rate
        momentum = ours.cyclic(max_momentum, base_momentum, *steps, **height)
        return ours.with_momentum(rate, momentum)

    others = {"max_lr": max_lr, "base_momentum": base_momentum, "max_momentum": max_momentum}
    wide = [x for x in others.values() if _common.is_sequence(x)]
    if wide and not _common.is_sequence(base_lr):
        base_lr = [base_lr] * len(wide[0])
    return _common.per_group(base_lr, build, **others)


def _height(mode: str, gamma: Any, scale_fn: Any, scale_mode: str) -> dict[str, Any]:
    """Return the arguments of `cyclic` that say how high a cycle is."""
    if scale_fn is None:
        _common.require_word(("triangular", "triangular2", "exp_range"), "mode", mode)
        return {"mode": mode, "gamma": gamma} if mode == "exp_range" else {"mode": mode}
    _common.require_word(("cycle", "iterations"), "scale_mode", scale_mode)
    amplitude = _common.as_python("scale_fn", scale_fn)
    if scale_mode == "iterations":
        return {"amplitude": amplitude, "amplitude_of": "step"}
    return {"amplitude": ours.shift(amplitude, -1)}  # PyTorch counts cycles from 1


@_scheduler("lr_lambda")
def LambdaLR(base_lr: Any, lr_lambda: Any, last_epoch: int = -1) -> Any:
    """Multiply the rate by a function of the step.

    Equals `scale(from_python(lr_lambda), base_lr)`: the function is called on the host with the
    step as an int, as PyTorch calls it, and may be any Python. That costs more than a schedule
    that is compiled; so one of ours may take the function's place.

    Example:
        >>> schedule = torch.LambdaLR(base_lr=0.1, lr_lambda=lambda epoch: 0.5 ** (epoch // 30))
        >>> print(schedule(29), schedule(30))
        0.1 0.05
    """
    function = _common.as_python("lr_lambda", lr_lambda, "a function, or a sequence of them")
    return ours.scale(function, base_lr)


@_scheduler("lr_lambda")
def MultiplicativeLR(base_lr: Any, lr_lambda: Any, last_epoch: int = -1) -> Any:
    """Multiply the rate by a function of each step so far.

    The factor at step t is the product of the function at 1, 2 ... t. The function is called on
    the host (see `from_python`), once for each step, in order: a first call far out, on a resumed
    run, takes as long as the steps before it. A factor that is always the same is `ExponentialLR`.

    Example:
        >>> schedule = torch.MultiplicativeLR(base_lr=1.0, lr_lambda=lambda epoch: 1 / epoch)
        >>> print(schedule(0), schedule(1), schedule(2), schedule(4))
        1.0 1.0 0.5 0.041666668
    """
    _common.require(callable, "lr_lambda", lr_lambda, "a function, or a sequence of them")
    return ours.scale(ours.from_python(_chains.CumulativeProduct(lr_lambda)), base_lr)


@_scheduler("swa_lr")
def SWALR(
    base_lr: Any,
    swa_lr: Any,
    anneal_epochs: Any = 10,
    anneal_strategy: str = "cos",
    last_epoch: int = -1,
) -> Any:
    """Go to the rate of stochastic weight averaging, and stay.

    Equals `piecewise_interpolate([base_lr, swa_lr], [anneal_epochs])`. In `SequentialLR` it starts
    from the rate that the scheduler before it had come to, as in PyTorch.

    Args:
        swa_lr: The rate to go to, or one for each group.
        anneal_epochs: Steps until it is reached; an integer, at least 0.

    Source:
        `torch.optim.swa_utils.SWALR`.

    Example:
        >>> schedule = torch.SWALR(base_lr=0.8, swa_lr=0.2, anneal_epochs=4)
        >>> [round(float(schedule(t)), 4) for t in (0, 2, 4, 5)]
        [0.8, 0.5, 0.2, 0.2]
    """
    _common.require_word(_SHAPES, "anneal_strategy", anneal_strategy)
    is_count = lambda x: isinstance(x, int) and x >= 0
    _common.require(is_count, "anneal_epochs", anneal_epochs, "an integer of at least 0")
    shape = _SHAPES[anneal_strategy]
    return ours.piecewise_interpolate([base_lr, swa_lr], [anneal_epochs], shape)


@_scheduler(split=False, returns=_common.METRIC_SCHEDULE)
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
    """Multiply the rate by `factor` on a plateau.

    Follows `reduce_on_plateau(factor, patience)` by PyTorch's rule. A relative threshold is a share
    of the best value with its sign, as in PyTorch: on a negative metric that asks for nothing but
    a little loss.

    Example:
        >>> plateau = torch.ReduceLROnPlateau(base_lr=0.1, factor=0.5, patience=1)
        >>> state = plateau.init()
        >>> for loss in [3.0, 2.0, 2.0, 2.0]:
        ...     state = plateau.update(state, loss)
        >>> print(plateau.lr(state))
        0.05
    """
    rule = functools.partial(
        ours.reduce_on_plateau,
        factor,
        patience,
        **_common.margins(threshold, threshold_mode),
        cooldown=cooldown,
        mode=mode,  # pyright: ignore[reportArgumentType]
        patience_rule="torch",
        eps=eps,
    )
    return _common.metric_schedules(base_lr, rule, min_lr)


@_scheduler(split=False)
def SequentialLR(
    base_lr: Any = None,
    schedulers: Sequence[Any] = (),
    milestones: Sequence[Any] = (),
    last_epoch: int = -1,
) -> Any:
    """Follow one scheduler after another.

    Equals `join(schedulers, milestones)`. Each starts from its own step 0 and the rate of the
    optimizer; but `SWALR` and `MultiplicativeLR` go on from the rate that the one before had come
    to. A milestone at 0 skips the first. A `SequentialLR` or `ChainedScheduler` among the
    schedulers is followed as it is written: PyTorch itself counts a step too many in them, or
    stops with an error.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters, with which the
            schedulers were built; it may be left out, and they are then given by name.
        schedulers: What this module's functions gave, or other schedules; at least one.
        milestones: Steps at which the next one begins, one fewer than the schedulers; whole
            numbers, sorted.

    Raises:
        ValueError: If an argument is outside its range, or `base_lr` is not what the schedulers
            were built with.

    Example:
        >>> schedule = torch.SequentialLR(
        ...     schedulers=[
        ...         torch.ConstantLR(base_lr=0.8, factor=0.25, total_iters=20),
        ...         torch.StepLR(base_lr=0.8, step_size=5, gamma=0.5),
        ...     ],
        ...     milestones=[10],
        ... )
        >>> print(schedule(9), schedule(10), schedule(15))
        0.2 0.8 0.4
    """
    steps = [_common.whole("milestones", milestone) for milestone in milestones]
    in_sequence = lambda lr, pieces: _chains.in_sequence(pieces, steps)
    return _chains.of_each_group(base_lr, schedulers, in_sequence)


@_scheduler(split=False)
def ChainedScheduler(base_lr: Any = None, schedulers: Sequence[Any] = ()) -> Any:
    """Put schedulers on top of one another.

    Equals the `product` of their factors, for the schedulers that multiply the rate they find:
    `StepLR`, `MultiStepLR`, `ExponentialLR`, `ConstantLR`, `LinearLR`, `PolynomialLR`,
    `MultiplicativeLR`. Others set the rate, whatever it was (`LambdaLR`,
    `CosineAnnealingWarmRestarts`, `CyclicLR`, `OneCycleLR`): last in a chain, they are all there
    is of it. Anywhere else they are refused, and so are `SWALR` and, with an `eta_min`,
    `CosineAnnealingLR` in company: what PyTorch makes of them is neither the product nor anything
    one would want. What one wants is `product`, `join` or `shift`. A `CosineAnnealingLR` that goes
    to 0 multiplies as well; when it climbs back past its end, the other factors begin anew there,
    as in PyTorch.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters, with which the
            schedulers were built. It may be left out (they are then given by name) if it shows
            in one of them; in a `LinearLR` it does not.
        schedulers: What this module's functions gave; at least one.

    Raises:
        ValueError: If there is no scheduler, or one that does not multiply; if `base_lr` is not
            what they were built with, or is left out and does not show in any.

    Example:
        >>> schedule = torch.ChainedScheduler(
        ...     schedulers=[
        ...         torch.ConstantLR(base_lr=0.8, factor=0.5, total_iters=4),
        ...         torch.StepLR(base_lr=0.8, step_size=2, gamma=0.5),
        ...     ],
        ... )
        >>> print(schedule(0), schedule(2), schedule(4))
        0.4 0.2 0.2
    """
    return _chains.of_each_group(base_lr, schedulers, _chains.on_top)
