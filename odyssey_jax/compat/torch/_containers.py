"""Schedulers of schedulers: one after another, and one on top of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odyssey_jax.compat._arguments import is_sequence, known, require_fresh, whole
from odyssey_jax.compat.torch._carried import check_rate, rate_of
from odyssey_jax.compat.torch._lambdas import cumulative, cumulative_from
from odyssey_jax.compat.torch._renewed import renewed
from odyssey_jax.compat.torch._swa import swa_from
from odyssey_jax.schedules import Schedule, join, product, scale

# How a scheduler makes its next rate in PyTorch, by what it is here. These multiply the rate that
# they find by a factor of their own, so that a chain of them is a product.
_MULTIPLY = (
    "constant",
    "exponential_decay",
    "linear",
    "multistep_decay",
    "piecewise_constant",
    "polynomial",
    "product",
    "step_decay",
)
# These set the rate, whatever it was.
_SET = ("cyclic", "restarts", "with_momentum")


def SequentialLR(
    base_lr: Any = None,
    schedulers: Sequence[Any] = (),
    milestones: Sequence[Any] = (),
    last_epoch: int = -1,
) -> Any:
    """One scheduler after another, as `torch.optim.lr_scheduler.SequentialLR`.

    It is `join`. Each starts from its own step 0 and the rate of the optimizer; but `SWALR` and
    `MultiplicativeLR` go on from the rate that the one before had come to. A milestone at 0 skips
    the first. A `SequentialLR` or `ChainedScheduler` among the schedulers is followed as it is
    written: PyTorch itself counts a step too many in them, or stops with an error.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters, with which the
            schedulers were built; it may be left out, and they are then given by name.
        schedulers: What this module's functions gave, or other schedules; at least one.
        milestones: Steps at which the next one begins, one fewer than the schedulers; whole
            numbers, sorted.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range, or `base_lr` is not what the schedulers
            were built with.

    Example:
        >>> from odyssey_jax.compat import torch
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
    require_fresh(last_epoch)
    steps = [whole("milestones", milestone) for milestone in milestones]
    return _of_each_group(base_lr, schedulers, lambda lr, pieces: _in_sequence(pieces, steps))


def ChainedScheduler(base_lr: Any = None, schedulers: Sequence[Any] = ()) -> Any:
    """Schedulers on top of one another, as `torch.optim.lr_scheduler.ChainedScheduler`.

    It is `product`, for the schedulers that multiply the rate they find: `StepLR`, `MultiStepLR`,
    `ExponentialLR`, `ConstantLR`, `LinearLR`, `PolynomialLR`, `MultiplicativeLR`. Others set the
    rate, whatever it was (`LambdaLR`, `CosineAnnealingWarmRestarts`, `CyclicLR`, `OneCycleLR`):
    last in a chain, they are all there is of it. Anywhere else they are refused, and so are
    `SWALR` and, with an `eta_min`, `CosineAnnealingLR` in company: what PyTorch makes of them is
    neither the product nor anything one would want. What one wants is `product`, `join` or
    `shift`. A `CosineAnnealingLR` that goes to 0 multiplies as well; when it climbs back past its
    end, the other factors begin anew there, as in PyTorch.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters, with which the
            schedulers were built. It may be left out (they are then given by name) if it shows
            in one of them; in a `LinearLR` it does not.
        schedulers: What this module's functions gave; at least one.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If there is no scheduler, or one that does not multiply; if `base_lr` is not
            what they were built with, or is left out and does not show in any.

    Example:
        >>> from odyssey_jax.compat import torch
        >>> schedule = torch.ChainedScheduler(
        ...     schedulers=[
        ...         torch.ConstantLR(base_lr=0.8, factor=0.5, total_iters=4),
        ...         torch.StepLR(base_lr=0.8, step_size=2, gamma=0.5),
        ...     ],
        ... )
        >>> print(schedule(0), schedule(2), schedule(4))
        0.4 0.2 0.2
    """
    return _of_each_group(base_lr, schedulers, _on_top)


def _of_each_group(base_lr: Any, schedulers: Any, build: Any) -> Any:
    """The pieces of each group of parameters, composed."""
    if not is_sequence(schedulers) or len(schedulers) == 0:
        raise ValueError(
            f"schedulers must be a sequence of at least one; got schedulers = {schedulers!r}."
        )
    rates = _rates(base_lr, schedulers)
    if not is_sequence(rates):
        return build(rates, _checked(rates, schedulers))
    for index, scheduler in enumerate(schedulers):
        if not is_sequence(scheduler) or len(scheduler) != len(rates):
            groups = f"base_lr = {base_lr!r}" if base_lr is not None else f"{len(rates)} rates"
            raise ValueError(
                f"schedulers[{index}] must have been built with {groups}, as the others; got "
                f"schedulers[{index}] = {scheduler!r}."
            )
    rows = zip(*schedulers, strict=True)
    return tuple(build(lr, _checked(lr, row)) for lr, row in zip(rates, rows, strict=True))


def _rates(base_lr: Any, schedulers: Sequence[Any]) -> Any:
    """One rate, or one for each group; None stands for one that is left out."""
    given = base_lr if is_sequence(base_lr) else [base_lr]
    if any(isinstance(lr, Schedule) or is_sequence(lr) for lr in given):
        raise ValueError(
            "base_lr must be a rate, or one for each group of parameters; schedulers are given "
            f"by name, schedulers=[...]; got base_lr = {base_lr!r}."
        )
    if base_lr is not None:
        return base_lr
    wide = next((scheduler for scheduler in schedulers if is_sequence(scheduler)), None)
    return None if wide is None else [None] * len(wide)


def _checked(lr: Any, pieces: Sequence[Any]) -> list[Schedule]:
    for index, piece in enumerate(pieces):
        if not isinstance(piece, Schedule):
            raise ValueError(
                f"schedulers[{index}] must be a schedule, and not one that a metric drives; got "
                f"schedulers[{index}] = {piece!r}."
            )
    if lr is not None:
        check_rate(lr, pieces)
    return list(pieces)


def _in_sequence(pieces: list[Schedule], milestones: list[Any]) -> Schedule:
    for index in range(1, min(len(pieces), len(milestones) + 1)):
        start = milestones[index - 1]
        if known(start) and start > 0:
            before = join(pieces[:index], milestones[: index - 1])
            pieces[index] = _continued(pieces[index], before, start)
    return join(pieces, milestones)


def _continued(piece: Schedule, before: Schedule, start: int) -> Schedule:
    """The piece as it is after others: two kinds go on from the rate that they find."""
    if swa_from(piece, 0.0) is None and cumulative(piece) is None:
        return piece
    rate = before(start - 1)
    rate = float(rate) if known(rate) else rate
    return swa_from(piece, rate) or cumulative_from(piece, rate)


def _on_top(lr: Any, pieces: list[Schedule]) -> Schedule:
    *others, last = pieces
    if _sets(last) or not others:
        return last
    waves = [i for i, piece in enumerate(pieces) if _is_wave(piece)]
    for index, piece in enumerate(pieces):
        if waves[:1] == [index]:
            continue
        if piece.name not in _MULTIPLY and cumulative(piece) is None:
            raise ValueError(
                f"schedulers[{index}] does not multiply the rate that it finds, so a chain with "
                "it is no product (use odyssey_jax.product, join or shift to say what is meant); "
                f"got schedulers[{index}] = {piece!r}."
            )
    if lr is None:
        lr = rate_of(pieces)
        check_rate(lr, pieces)
    if known(lr) and lr == 0:
        return last
    if waves:
        return _over_wave(lr, pieces, waves[0])
    return product([pieces[0], *(scale(piece, 1 / lr) for piece in pieces[1:])])


def _is_wave(piece: Schedule) -> bool:
    """What `CosineAnnealingLR` made, towards 0: up to there, it multiplies like others."""
    if piece.name != "cosine_decay":
        return False
    floor = piece.end_value  # pyright: ignore[reportAttributeAccessIssue]
    return known(floor) and floor == 0


def _over_wave(lr: Any, pieces: list[Schedule], wave: int) -> Schedule:
    """Past its end at 0 a cosine climbs back from there, and what the others did is forgotten."""
    cosine = pieces[wave]
    steps = cosine.decay_steps  # pyright: ignore[reportAttributeAccessIssue]
    factors = [
        renewed(scale(piece, 1 / lr), steps + 1, 2 * steps, late=int(index > wave))
        for index, piece in enumerate(pieces)
        if index != wave
    ]
    return product([cosine, *factors])


def _sets(piece: Schedule) -> bool:
    if piece.name == "piecewise_interpolate":  # OneCycleLR
        return swa_from(piece, 0.0) is None
    return piece.name in _SET or (piece.name == "scale" and cumulative(piece) is None)
