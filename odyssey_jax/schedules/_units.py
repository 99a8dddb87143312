"""Lengths of time in other units than steps: epochs, tokens, fractions of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._fields import (
    FACTOR,
    FINITE,
    SOME_STEPS,
    is_known,
    require_divisor,
    within,
)
from odyssey_jax.schedules._numbers import is_number


class Measures(NamedTuple):
    """How long each unit is in this run; None where that is not said."""

    steps_per_epoch: Any = None
    tokens_per_step: Any = None
    total_steps: Any = None

    def steps(self, amount: Any, unit: str) -> Any:
        """Return an amount of a unit as the nearest whole number of steps; None if not known."""
        if unit == "steps":
            return round(amount) if isinstance(amount, float) else amount
        if unit == "tokens":
            steps = None if self.tokens_per_step is None else amount / self.tokens_per_step
        else:
            measure = self.steps_per_epoch if unit == "epochs" else self.total_steps
            steps = None if measure is None else amount * measure
        if steps is None:
            return None
        return round(steps) if is_known(steps) else jnp.round(steps).astype(jnp.int32)


WAITS_FOR = {
    "epochs": "steps_per_epoch",
    "tokens": "tokens_per_step",
    "fraction": "total_steps",
}
"""For each unit, the argument of `Schedule.resolve` that says how long it is."""


def measures(steps_per_epoch: Any, tokens_per_step: Any, total_steps: Any) -> Measures:
    """Return what is known of the units, checked."""
    for name, value in (("steps_per_epoch", steps_per_epoch), ("tokens_per_step", tokens_per_step)):
        if value is not None:
            FACTOR(name, value)
    if total_steps is not None:
        total_steps = SOME_STEPS("total_steps", total_steps)
    return Measures(steps_per_epoch, tokens_per_step, total_steps)


@node
@dataclasses.dataclass(frozen=True, repr=False)
class Length:
    """A sum of amounts, each in its unit: what `epochs`, `tokens` and `fraction` give.

    Lengths, and whole numbers of steps, are added to and subtracted from each other; a length is
    multiplied and divided by numbers. Each term is rounded to whole steps by itself, so phases
    that were cut from one another fit together.

    Attributes:
        amounts: The numbers, which are leaves.
        units: The unit of each.
    """

    # NumPy's numbers leave `number * length` to the length.
    __array_ufunc__ = None

    amounts: tuple[Any, ...]
    units: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __add__(self, other: Any) -> Length:
        other = _as_length(other)
        return Length(self.amounts + other.amounts, self.units + other.units)

    def __radd__(self, other: Any) -> Length:
        return _as_length(other) + self

    def __neg__(self) -> Length:
        return Length(tuple(-amount for amount in self.amounts), self.units)

    def __sub__(self, other: Any) -> Length:
        return self + -_as_length(other)

    def __rsub__(self, other: Any) -> Length:
        return _as_length(other) + -self

    def __mul__(self, factor: Any) -> Length:
        if not is_number(factor):
            return NotImplemented
        FINITE("factor", factor)
        return self._each(lambda amount: amount * factor)

    def __rmul__(self, factor: Any) -> Length:
        return self * factor

    def __truediv__(self, divisor: Any) -> Length:
        if not is_number(divisor):
            return NotImplemented
        require_divisor("length", divisor)
        return self._each(lambda amount: amount / divisor)

    def _each(self, change: Callable[[Any], Any]) -> Length:
        amounts = tuple(map(change, self.amounts))
        for amount, unit in zip(amounts, self.units, strict=True):
            if unit == "fraction":
                within(-1, 1)("fraction", amount)
        return Length(amounts, self.units)

    def __repr__(self) -> str:
        text = ""
        for amount, unit in zip(map(_plain, self.amounts), self.units, strict=True):
            negative = is_known(amount) and amount < 0
            size = -amount if negative else amount
            sign = " - " if negative else " + "
            text += sign if text else sign.strip().replace("+", "")
            text += f"{size!r}" if unit == "steps" else f"{unit}({size!r})"
        return text

    def to_plain(self) -> dict[str, Any]:
        """Return the length as plain data."""
        terms = zip(self.units, map(_plain, self.amounts), strict=True)
        return {"length": [list(term) for term in terms]}

    @staticmethod
    def from_plain(data: Mapping[str, Any]) -> Length:
        """Return what `to_plain` returned, as a length."""
        units, amounts = zip(*data["length"], strict=True)
        return Length(tuple(amounts), tuple(units))

    def resolve(self, known: Measures) -> Any:
        """Return the length in steps, as far as its units are known.

        Args:
            known: How long each unit is.

        Returns:
            A whole number of steps, or a length if a unit is still not known.
        """
        steps, rest = 0, []
        for amount, unit in zip(self.amounts, self.units, strict=True):
            count = known.steps(amount, unit)
            if count is None:
                rest.append((amount, unit))
            else:
                steps = steps + count
        if not rest:
            return steps
        if not (is_known(steps) and steps == 0):
            rest.append((steps, "steps"))
        amounts, units = zip(*rest, strict=True)
        return Length(amounts, units)


Steps = ArrayLike | Length
"""What counts steps in a schedule: a number of them, or a length in another unit."""
Boundaries = Sequence[Steps] | jax.Array | np.ndarray
"""Steps at which the pieces of a schedule end."""


def _plain(amount: Any) -> Any:
    """Return a number of NumPy's or JAX's as Python's."""
    arrays = (np.generic, np.ndarray, jax.Array)
    return amount.tolist() if is_known(amount) and isinstance(amount, arrays) else amount


def _as_length(x: Any) -> Length:
    return x if isinstance(x, Length) else Length((x,), ("steps",))


def epochs(number: Any) -> Length:
    """Return a length in epochs, for any argument of a schedule that counts steps.

    `Schedule.resolve(steps_per_epoch=...)` makes it steps, and `fit` does so by itself.

    Args:
        number: How many epochs, whole or not; scalar, in [0, 2**31 - 1].

    Returns:
        A length. Resolved, it is the nearest whole number of steps, and of two the even one.

    Raises:
        ValueError: If it is outside its range.

    Example:
        >>> from odyssey_jax.schedules import epochs, warmup_cosine
        >>> schedule = warmup_cosine(0.1, epochs(5), epochs(90))
        >>> schedule.resolve(steps_per_epoch=312)
        join(schedules=[linear_warmup(peak_value=0.1, warmup_steps=1560),
        cosine_decay(init_value=0.1, decay_steps=26520)], boundaries=[1560])
    """
    within(0, 2**31 - 1)("epochs", number)
    return Length((number,), ("epochs",))


def tokens(number: Any) -> Length:
    """Return a length in tokens, for any argument of a schedule that counts steps.

    `Schedule.resolve(tokens_per_step=...)` makes it steps.

    Args:
        number: How many tokens; scalar, in [0, 1e18].

    Returns:
        A length. Resolved, it is the nearest whole number of steps, and of two the even one.

    Raises:
        ValueError: If it is outside its range.

    Example:
        >>> from odyssey_jax.schedules import linear_warmup, tokens
        >>> linear_warmup(3e-4, tokens(2e9)).resolve(tokens_per_step=2**22)
        linear_warmup(peak_value=0.0003, warmup_steps=477)
    """
    within(0, 1e18)("tokens", number)
    return Length((number,), ("tokens",))


def fraction(number: Any) -> Length:
    """Return a length as a fraction of the run, for any argument of a schedule that counts steps.

    `Schedule.resolve(total_steps=...)` makes it steps, and `fit` does so by itself.

    Args:
        number: The fraction; scalar, in [0, 1]. `fraction(1)` is the whole run.

    Returns:
        A length. Resolved, it is the nearest whole number of steps, and of two the even one.

    Raises:
        ValueError: If it is outside its range.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, fraction
        >>> cosine_decay(0.1, fraction(1) - fraction(0.25)).resolve(total_steps=1_001)
        cosine_decay(init_value=0.1, decay_steps=751)
    """
    within(0, 1)("fraction", number)
    return Length((number,), ("fraction",))
