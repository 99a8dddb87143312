"""Hyper-parameters are checked once, when a schedule is built, and only where they are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from odyssey_jax.schedules._numbers import Wide, exact
from odyssey_jax.schedules._steps import LAST_STEP


def is_known(x: Any) -> bool:
    """Whether a number's value can be looked at: it is not a value being traced."""
    return not isinstance(x, Tracer)


def _as_float64(value: Any) -> Any:
    """A real number or an array of them; None for anything else, truth values included."""
    try:
        x = np.asarray(exact(value) if isinstance(value, Wide) else value)
        kinds = (np.integer, np.floating)
        if any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
            return x.astype(np.float64)
        # A Python int that no NumPy integer can hold is still a number.
        return np.float64(value) if x.dtype == object and isinstance(value, int) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _require(
    name: str, value: Any, accepted: str, low: float, high: float, *, open_low: bool = False
) -> None:
    if not is_known(value):
        return
    x = _as_float64(value)
    if x is None:
        raise ValueError(f"{name} must be a number, {accepted}; got {name} = {value!r}.")
    inside = np.isfinite(x) & (x <= high) & ((x > low) if open_low else (x >= low))
    if not np.all(inside):
        raise ValueError(f"{name} must be {accepted}; got {name} = {value!r}.")


def require_real(name: str, value: Any) -> None:
    """Any number, NaN and the infinities included."""
    if is_known(value) and _as_float64(value) is None:
        raise ValueError(f"{name} must be a number; got {name} = {value!r}.")


def require_range(name: str, value: Any, low: float, high: float) -> None:
    """A number between two, or one of them."""
    _require(name, value, f"in the range [{low:g}, {high:g}]", low, high)


def require_finite(name: str, value: Any) -> None:
    """A value: any finite number."""
    _require(name, value, "finite", -math.inf, math.inf)


def require_positive(name: str, value: Any) -> None:
    """A rate or a power: above 0."""
    _require(name, value, "finite and greater than 0", 0, math.inf, open_low=True)


def require_not_negative(name: str, value: Any) -> None:
    """A margin or a bound: 0 or above."""
    _require(name, value, "finite and at least 0", 0, math.inf)


def require_share(name: str, value: Any, *, open_low: bool = False) -> None:
    """A factor that makes smaller: below 1."""
    accepted = "in the range (0, 1)" if open_low else "in the range [0, 1)"
    _require(name, value, accepted, 0, np.nextafter(1.0, 0.0), open_low=open_low)


def require_count(name: str, value: Any, least: int = 0) -> Any:
    """How many of something: a whole number."""
    accepted = f"a whole number in the range [{least}, 2**31 - 1]"
    _require(name, value, accepted, least, LAST_STEP)
    value = _whole(value)
    if is_known(value) and not np.all(np.equal(np.mod(np.asarray(value), 1), 0)):
        raise ValueError(f"{name} must be {accepted}; got {name} = {value!r}.")
    return value


def require_at_least_one(name: str, value: Any) -> None:
    """A factor of growth."""
    _require(name, value, "finite and at least 1", 1, math.inf)


def require_length(name: str, value: Any) -> Any:
    """A number of steps, 0 included: a phase of length 0 is skipped."""
    _require(name, value, "in the range [0, 2**31 - 1] steps", 0, LAST_STEP)
    return _whole(value)


def require_unit(name: str, value: Any) -> Any:
    """A number of steps to divide by: at least 1."""
    _require(name, value, "in the range [1, 2**31 - 1] steps", 1, LAST_STEP)
    return _whole(value)


def require_offset(name: str, value: Any) -> Any:
    """A number of steps of either sign."""
    _require(name, value, "in the range [-(2**31 - 1), 2**31 - 1] steps", -LAST_STEP, LAST_STEP)
    return _whole(value)


def require_factor(name: str, value: Any) -> None:
    """A number to divide steps by that may be below 1."""
    _require(name, value, "in the range [1e-6, 2**31 - 1]", 1e-6, LAST_STEP)


def require_one(name: str, values: Any) -> None:
    """A sequence that is not empty."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) == 0:
        raise ValueError(
            f"{name} must be a sequence of at least one schedule; got {name} = {values!r}."
        )


def require_cycles(name: str, value: Any) -> None:
    """A number of cycles, whole or not."""
    _require(name, value, "in the range [0, 2**19]", 0, 2**19)


def _whole(value: Any) -> Any:
    """A whole number of steps as an int, which is exact where a float32 is not."""
    return int(value) if isinstance(value, float) and float(value).is_integer() else value


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """One of a few words."""
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {words}; got {name} = {value!r}.")


def require_flag(name: str, value: Any) -> None:
    """A choice between two, which is static and so never an array."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {name} = {value!r}.")


def require_sequence(name: str, values: Any) -> tuple[Any, ...]:
    """Several numbers in a list, a tuple, a range or a vector."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence; got {name} = {values!r}.")
    return tuple(values)


def require_boundaries(
    boundaries: Any, pieces: int | None = None, noun: str = "schedules"
) -> tuple[Any, ...]:
    """Boundaries in order, one between each two of the pieces where these are counted.

    Equal ones skip the piece between them.
    """
    boundaries = require_sequence("boundaries", boundaries)
    if pieces is not None and len(boundaries) != pieces - 1:
        fault = "few" if len(boundaries) < pieces - 1 else "many"
        raise ValueError(
            f"boundaries must be one fewer than the {noun}: too {fault} for {pieces} "
            f"{noun}; got boundaries = {list(boundaries)!r}."
        )
    checked = tuple(require_length("boundaries", boundary) for boundary in boundaries)
    known = [float(b) for b in boundaries if is_known(b) and np.ndim(b) == 0]
    if len(known) == len(boundaries) and known != sorted(known):
        raise ValueError(
            f"boundaries must be sorted, smallest first; got boundaries = {list(boundaries)!r}."
        )
    return checked


def require_order(small_name: str, small: Any, great_name: str, great: Any) -> None:
    """Two numbers of steps of which the first is part of the second."""
    if is_known(small) and is_known(great) and np.any(np.asarray(small) > np.asarray(great)):
        raise ValueError(
            f"{small_name} must be at most {great_name}, which includes it; "
            f"got {small_name} = {small!r}, {great_name} = {great!r}."
        )


def require_sum(name: str, x: Any, other_name: str, other: Any) -> None:
    """Two numbers of steps that together are a number of steps to divide by."""
    if is_known(x) and is_known(other):
        total = np.asarray(x, np.float64) + np.asarray(other, np.float64)
        if np.any((total < 1) | (total > LAST_STEP)):
            raise ValueError(
                f"{name} + {other_name} must be in the range [1, 2**31 - 1] steps; "
                f"got {name} = {x!r}, {other_name} = {other!r}."
            )


def require_progression(start_name: str, start: Any, end_name: str, end: Any) -> None:
    """Two values above 0 from one of which factors that float32 can hold lead to the other."""
    require_positive(start_name, start)
    require_positive(end_name, end)
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
    """What a schedule or a length can be divided by."""
    if is_known(value) and not np.all(np.isfinite(value) & np.not_equal(value, 0)):
        raise ValueError(
            f"{name} can be divided by any finite number but 0; got {name} / {value!r}."
        )


def require_bounds(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Two values in order."""
    if is_known(low) and is_known(high) and np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(
            f"{low_name} must be at most {high_name}; "
            f"got {low_name} = {low!r}, {high_name} = {high!r}."
        )
