"""How PyTorch's schedulers are put together: one after another, and one on top of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax import schedules as ours
from odyssey_jax.compat import _common
from odyssey_jax.schedules import Schedule, StepCount


class CumulativeProduct:
    """`function(1) * function(2) * ... * function(step)`, one product kept of every thousand."""

    EVERY = 1000

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function
        self._kept = [1.0]
        self._last = (0, 1.0)

    def __call__(self, step: float) -> float:
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


def of_each_group(base_lr: Any, schedulers: Any, build: Any) -> Any:
    """Compose the pieces of each group of parameters."""
    if not _common.is_sequence(schedulers) or len(schedulers) == 0:
        raise ValueError(
            f"schedulers must be a sequence of at least one; got schedulers = {schedulers!r}."
        )
    rates = _rates(base_lr, schedulers)
    if not _common.is_sequence(rates):
        return build(rates, _checked(rates, schedulers))
    for index, scheduler in enumerate(schedulers):
        if not _common.is_sequence(scheduler) or len(scheduler) != len(rates):
            groups = f"base_lr = {base_lr!r}" if base_lr is not None else f"{len(rates)} rates"
            raise ValueError(
                f"schedulers[{index}] must have been built with {groups}, as the others; got "
                f"schedulers[{index}] = {scheduler!r}."
            )
    rows = zip(*schedulers, strict=True)
    return tuple(build(lr, _checked(lr, row)) for lr, row in zip(rates, rows, strict=True))


def _rates(base_lr: Any, schedulers: Sequence[Any]) -> Any:
    """Return one rate, or one for each group; None stands for one that is left out."""
    given = base_lr if _common.is_sequence(base_lr) else [base_lr]
    if any(isinstance(lr, Schedule) or _common.is_sequence(lr) for lr in given):
        raise ValueError(
            "base_lr must be a rate, or one for each group of parameters; schedulers are given "
            f"by name, schedulers=[...]; got base_lr = {base_lr!r}."
        )
    if base_lr is not None:
        return base_lr
    wide = next((scheduler for scheduler in schedulers if _common.is_sequence(scheduler)), None)
    return None if wide is None else [None] * len(wide)


def _checked(lr: Any, pieces: Sequence[Any]) -> list[Any]:
    for index, piece in enumerate(pieces):
        if not isinstance(piece, Schedule):
            raise ValueError(
                f"schedulers[{index}] must be a schedule, and not one that a metric drives; got "
                f"schedulers[{index}] = {piece!r}."
            )
    if lr is not None:
        _check_rate(lr, pieces)
    return list(pieces)


def in_sequence(pieces: list[Any], milestones: list[Any]) -> Schedule:
    for index in range(1, min(len(pieces), len(milestones) + 1)):
        start, piece = milestones[index - 1], pieces[index]
        goes_on = _is_swa(piece) or _cumulative(piece) is not None
        if goes_on and _common.known(start) and start > 0:
            before = ours.join(pieces[:index], milestones[: index - 1])
            rate = before(start - 1)
            rate = float(rate) if _common.known(rate) else rate
            pieces[index] = _continued(piece, rate)
    return ours.join(pieces, milestones)


def _continued(piece: Any, rate: Any) -> Schedule:
    """Return what `SWALR` or `MultiplicativeLR` made, from a rate that it finds at its step 0."""
    if _is_swa(piece):
        return dataclasses.replace(piece, values=(rate, piece.values[1]))
    product: Any = _cumulative(piece)  # the function's value at 0 counts now
    return ours.scale(ours.from_python(product), rate * float(product.function(0)))


def _is_swa(piece: Any) -> bool:
    """Return whether `SWALR` made it."""
    return piece.name == "piecewise_interpolate" and len(piece.values) == 2


def _cumulative(piece: Any) -> CumulativeProduct | None:
    """Return the product in what `MultiplicativeLR` made; None if something else made it."""
    function = getattr(getattr(piece, "schedule", None), "function", None)
    return function if isinstance(function, CumulativeProduct) else None


# How a scheduler makes its next rate in PyTorch, by what it is here. These multiply the rate that
# they find by a factor of their own, so that a chain of them is a product. The first of them begin
# with the rate of the optimizer as their `init_value`; so does `cosine_decay`.
_BEGIN = ("exponential_decay", "multistep_decay", "polynomial", "step_decay")
_MULTIPLY = (*_BEGIN, "constant", "linear", "piecewise_constant", "product")
# These set the rate, whatever it was.
_SET = ("cyclic", "restarts", "with_momentum")


def on_top(lr: Any, pieces: list[Any]) -> Schedule:
    *others, last = pieces
    if _sets(last) or not others:
        return last
    # What `CosineAnnealingLR` made, towards 0: up to there, it multiplies like the others.
    is_wave = lambda piece: piece.name == "cosine_decay" and _common.equals(piece.end_value, 0)
    wave = next((i for i, piece in enumerate(pieces) if is_wave(piece)), None)
    for index, piece in enumerate(pieces):
        multiplies = piece.name in _MULTIPLY or _cumulative(piece) is not None
        if index != wave and not multiplies:
            raise ValueError(
                f"schedulers[{index}] does not multiply the rate that it finds, so a chain with "
                "it is no product (use product, join or shift of odyssey_jax.schedules to say "
                f"what is meant); got schedulers[{index}] = {piece!r}."
            )
    if lr is None:
        lr = _rate_of(pieces)
        _check_rate(lr, pieces)
    if _common.equals(lr, 0):
        return last
    if wave is None:
        return ours.product([pieces[0], *(ours.scale(piece, 1 / lr) for piece in pieces[1:])])
    factors = [
        renewed(ours.scale(piece, 1 / lr), pieces[wave].decay_steps, late=int(index > wave))
        for index, piece in enumerate(pieces)
        if index != wave
    ]
    return ours.product([pieces[wave], *factors])


def _sets(piece: Any) -> bool:
    if piece.name == "piecewise_interpolate":  # OneCycleLR
        return not _is_swa(piece)
    return piece.name in _SET or (piece.name == "scale" and _cumulative(piece) is None)


def _check_rate(base_lr: Any, pieces: Sequence[Any]) -> None:
    """Raise ValueError where a scheduler shows that it was built with another rate."""
    for index, piece in enumerate(pieces):
        rate = _first_value(piece)
        if rate is None or not _common.known(rate, base_lr):
            continue
        if not np.allclose(rate, base_lr, rtol=1e-6, atol=0.0):
            raise ValueError(
                f"schedulers[{index}] must have been built with the same base_lr as the others, "
                f"{base_lr!r} (or leave base_lr out); got schedulers[{index}] = {piece!r}."
            )


def _rate_of(pieces: Sequence[Any]) -> Any:
    """Return the rate with which schedulers that multiply were built."""
    for find in (_first_value, _other_value):
        for piece in pieces:
            rate = find(piece)
            if rate is not None:
                return rate
    raise ValueError(
        "base_lr must be given where no scheduler shows with which rate it was built; got "
        f"schedulers = {list(pieces)!r}."
    )


def _first_value(piece: Any) -> Any:
    return piece.init_value if piece.name in (*_BEGIN, "cosine_decay") else None


def _other_value(piece: Any) -> Any:
    """Return the rate of what might be something else as well, if it isn't from this module."""
    if _cumulative(piece) is not None:
        return piece.factor
    if piece.name == "product":
        return _first_value(piece.schedules[0]) or _other_value(piece.schedules[0])
    if piece.name != "piecewise_constant" or len(piece.values) != 2:
        return None
    if not _common.known(piece.values[1]):
        return None
    return piece.values[1] if piece.values[1] != 0 else piece.values[0]  # StepLR by a factor of 0


@ours.node
class Renewed(Schedule):
    """A factor since it was last forgotten; see `renewed`."""

    schedule: Schedule
    steps: Any
    late: int = dataclasses.field(metadata={"static": True})

    def at(self, now: StepCount) -> jax.Array:
        """Return the factor over what it was when it was last forgotten, unless that is 0."""
        steps = jnp.asarray(self.steps, jnp.int32)
        begun = now.whole > steps
        laps = jnp.maximum(now.whole - steps - 1, 0) // 2 // steps  # 2 * steps might be too large
        last = steps + 1 + laps * 2 * steps - self.late
        then = self.schedule.at(now._replace(whole=jnp.where(begun, last, 0), part=None))
        some = begun & (then != 0)
        value = self.schedule.at(now) / jnp.where(some, then, 1.0)
        return jnp.where(begun & ~some, 1.0, value)


@ours.builds(Renewed)
def renewed(schedule: Schedule, steps: Any, late: int = 0) -> Any:
    r"""Take a factor anew whenever a cosine, in the same chain, has climbed back from 0.

    Past its end a cosine of PyTorch's finds a rate of 0, climbs back from there, and what the
    other factors did is forgotten.

    $$g(t) = f(t), \quad t \le n; \qquad
      g(t) = \frac{f(t)}{f(a + 2 n \lfloor (t - a) / 2 n \rfloor - l)}, \quad t \ge a = n + 1$$

    Args:
        schedule: The factor $f$.
        steps: Steps $n$ of the cosine.
        late: How many steps $l$ before that the factor is 1: 0 or 1.
    """
    return Renewed(schedule, steps, late)
