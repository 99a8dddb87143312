"""The fields of schedules and of metric rules, each with the check of what it accepts.

Arguments are checked once, when a public function builds its schedule, and only where they are
known: not while they are traced, and not where JAX rebuilds a schedule from leaves of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from odyssey_jax.schedules._numbers import Wide, exact
from odyssey_jax.schedules._steps import LAST_STEP

Check = Callable[[str, Any], Any]
"""`(name, value) -> value`: raises ValueError, or returns the value as it is kept."""


class _Checked(Protocol):
    def check(self) -> None: ...


_Kind = TypeVar("_Kind", bound=_Checked)


def field(
    check: Check,
    *,
    optional: bool = False,
    static: bool = False,
    canonical: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare a field with its check.

    Args:
        check: What is accepted.
        optional: Accept None too, unchecked.
        static: Keep it out of the leaves: it is a choice, and no number.
        canonical: The function that prepares it for the formula, if not `canonical`.
    """
    metadata = {"check": check, "optional": optional, "static": static}
    if canonical is not None:
        metadata["canonical"] = canonical
    return dataclasses.field(metadata=metadata)


def choice(words: Any, *, optional: bool = False) -> Any:
    """Declare a static field that holds one of the words of a `Literal`."""
    accept = lambda name, value: require_choice(name, value, get_args(words))
    return field(accept, static=True, optional=optional)


def flag() -> Any:
    """Declare a static field that holds a bool."""
    return field(require_flag, static=True)


def checked(kind: type[_Kind], arguments: Mapping[str, Any]) -> _Kind:
    """Build an instance from the arguments of its public function.

    Args:
        kind: The class; its `check` raises ValueError where arguments don't fit each other.
        arguments: The value of each field, by name.

    Returns:
        The instance.

    Raises:
        ValueError: If an argument is not accepted.
    """
    values = {}
    for each in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        value, check = arguments[each.name], each.metadata["check"]
        absent = value is None and each.metadata["optional"]
        values[each.name] = value if absent else check(each.name, value)
    made = kind(**values)
    made.check()
    return made


def is_known(x: Any) -> bool:
    """Return whether a number's value can be looked at: it is not being traced."""
    return not isinstance(x, Tracer)


class Range(NamedTuple):
    """The check of a number, or of an array of them.

    Attributes:
        accepted: The range in words.
        low: The least number accepted.
        high: The greatest number accepted.
        above: Refuse the least number itself.
        counts: Return a whole float as an int, which is exact where a float32 is not.
        whole: Refuse what is not whole.
        steps: Refuse what lies between 0 and 1, which is meant as a share of something.
    """

    accepted: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    counts: bool = False
    whole: bool = False
    steps: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        if not is_known(value):
            return value
        x = _as_float64(value)
        if x is None:
            raise ValueError(f"{name} must be a number, {self.accepted}; got {name} = {value!r}.")
        inside = np.isfinite(x) & (x >= self.low) & (x <= self.high)
        if self.above:
            inside = inside & (x > self.low)
        if self.whole:
            inside = inside & (x == np.floor(x))
        if self.steps and np.any((x != 0) & (np.abs(x) < 1)):
            raise ValueError(
                f"{name} counts steps, and less than 1 is not one; got {name} = {value!r}. A share "
                f"of the run is fraction({value!r}), and a rate stands in another place."
            )
        if not np.all(inside):
            raise ValueError(f"{name} must be {self.accepted}; got {name} = {value!r}.")
        is_whole = self.counts and isinstance(value, float) and value.is_integer()
        return int(value) if is_whole else value


def within(low: float, high: float) -> Range:
    """Accept a number between two, or one of them."""
    return Range(f"in the range [{low:g}, {high:g}]", low, high)


def count(least: int = 0) -> Range:
    """Accept a whole number of something."""
    accepted = f"a whole number in the range [{least}, 2**31 - 1]"
    return Range(accepted, least, LAST_STEP, counts=True, whole=True)


FINITE = Range("finite")
POSITIVE = Range("finite and greater than 0", 0, above=True)
NOT_NEGATIVE = Range("finite and at least 0", 0)
AT_LEAST_ONE = Range("finite and at least 1", 1)
SHARE = Range("in the range [0, 1)", 0, float(np.nextafter(1.0, 0.0)))
OPEN_SHARE = Range("in the range (0, 1)", 0, SHARE.high, above=True)
CYCLES = within(0, 2**19)._replace(accepted="in the range [0, 2**19]")
STEPS = Range("in the range [0, 2**31 - 1] steps", 0, LAST_STEP, counts=True, steps=True)
SOME_STEPS = Range("in the range [1, 2**31 - 1] steps", 1, LAST_STEP, counts=True, steps=True)
STEPS_OF_EITHER_SIGN = Range(
    "in the range [-(2**31 - 1), 2**31 - 1] steps", -LAST_STEP, LAST_STEP, counts=True
)
FACTOR = Range("in the range [1e-6, 2**31 - 1]", 1e-6, LAST_STEP)


def _as_float64(value: Any) -> Any:
    """Return a real number or an array of them; None for anything else, bools included."""
    try:
        x = np.asarray(exact(value) if isinstance(value, Wide) else value)
        kinds = (np.integer, np.floating)
        if any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
            return x.astype(np.float64)
        # A Python int that no NumPy integer can hold is still a number.
        return np.float64(value) if x.dtype == object and isinstance(value, int) else None
    except (TypeError, ValueError, OverflowError):
        return None


def require_real(name: str, value: Any) -> None:
    """Raise ValueError unless value is a number; NaN and the infinities are."""
    if is_known(value) and _as_float64(value) is None:
        raise ValueError(f"{name} must be a number; got {name} = {value!r}.")


def require_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return one of a few words."""
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {words}; got {name} = {value!r}.")
    return value


def require_flag(name: str, value: Any) -> bool:
    """Return a bool; it is static, and so never an array."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {name} = {value!r}.")
    return value


def require_sequence(name: str, values: Any) -> tuple[Any, ...]:
    """Return the numbers of a list, a tuple, a range or a vector."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence; got {name} = {values!r}.")
    return tuple(values)


def require_values(name: str, values: Any) -> tuple[Any, ...]:
    """Return a sequence of at least one finite number."""
    values = require_sequence(name, values)
    if not values:
        raise ValueError(f"{name} must be at least one number; got {name} = [].")
    return tuple(FINITE(name, value) for value in values)


def require_boundaries(name: str, boundaries: Any) -> tuple[Any, ...]:
    """Return numbers of steps in order; equal ones skip the piece between them."""
    boundaries = require_sequence(name, boundaries)
    # One of several may lie within the first step, as in a short `one_cycle`; all are shares.
    part = STEPS._replace(steps=False)
    result = tuple(part(name, boundary) for boundary in boundaries)
    known = [float(b) for b in boundaries if is_known(b) and np.ndim(b) == 0]
    if len(known) == len(boundaries) and known and max(known) <= 1:
        for boundary in boundaries:
            STEPS(name, boundary)
    if len(known) == len(boundaries) and known != sorted(known):
        raise ValueError(
            f"{name} must be sorted, smallest first; got {name} = {list(boundaries)!r}."
        )
    return result


def require_one_between(boundaries: Sequence[Any], pieces: int, noun: str) -> None:
    """Raise ValueError unless there is a boundary between each two of the pieces."""
    if len(boundaries) != pieces - 1:
        fault = "few" if len(boundaries) < pieces - 1 else "many"
        raise ValueError(
            f"boundaries must be one fewer than the {noun}: too {fault} for {pieces} "
            f"{noun}; got boundaries = {list(boundaries)!r}."
        )


def require_order(small_name: str, small: Any, great_name: str, great: Any, why: str = "") -> None:
    """Raise ValueError unless the first of two numbers is at most the second."""
    if is_known(small) and is_known(great) and np.any(np.asarray(small) > np.asarray(great)):
        raise ValueError(
            f"{small_name} must be at most {great_name}{why}; "
            f"got {small_name} = {small!r}, {great_name} = {great!r}."
        )


def require_part(small_name: str, small: Any, great_name: str, great: Any) -> None:
    """Raise ValueError unless the first of two numbers of steps can be part of the second."""
    require_order(small_name, small, great_name, great, ", which includes it")


def refuse_optax_order(
    call: str, optax: str, steps_name: str, steps: Any, rate_name: str, rate: Any
) -> None:
    """Raise ValueError where a number of steps stands for a rate, and a rate for steps."""
    known = (is_known(x) and not np.ndim(x) and _as_float64(x) is not None for x in (steps, rate))
    if all(known) and float(rate) >= _NO_RATE and float(steps) <= _NO_STEPS:
        raise ValueError(
            f"{call} is not in the order of optax.{optax}: got {steps_name} = {steps!r}, a rate "
            f"where steps belong, and {rate_name} = {rate!r}, steps where a rate belongs. Name "
            "the arguments."
        )


# A rate of 100 and a schedule of 10 steps are both odd; together they are each other's.
_NO_RATE, _NO_STEPS = 100, 10


def require_progression(start_name: str, start: Any, end_name: str, end: Any) -> None:
    """Raise ValueError unless factors that float32 can hold lead from one value to the other."""
    POSITIVE(start_name, start)
    POSITIVE(end_name, end)
    if not (is_known(start) and is_known(end)):
        return
    x, y = np.asarray(start, np.float64), np.asarray(end, np.float64)
    for name, number in ((start_name, x), (end_name, y), (f"{end_name} / {start_name}", y / x)):
        if np.any((number < 1e-36) | (number > 1e36)):
            raise ValueError(
                f"{name} must be in the range [1e-36, 1e36], as float32 holds no more; "
                f"got {start_name} = {start!r}, {end_name} = {end!r}."
            )


def require_divisor(name: str, value: Any) -> None:
    """Raise ValueError unless a schedule or a length can be divided by a number."""
    if is_known(value) and not np.all(np.isfinite(value) & np.not_equal(value, 0)):
        raise ValueError(
            f"{name} can be divided by any finite number but 0; got {name} / {value!r}."
        )
