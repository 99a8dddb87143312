"""Any other function of the step, taken into the house as a schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import require_one
from ._moment import Moment
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FromCallable(Schedule):
    """A function that is static; see `from_callable`."""

    function: Callable[[Any], Any] = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """What the function gives for the step."""
        step = now.whole if now.part is None else now.real()
        return jnp.asarray(self.function(step)).astype(jnp.float32)

    def to_dict(self) -> dict[str, Any]:
        """Name the function: enough to see that another one differs, not to build it again."""
        return {"name": self.name, "function": named(self.function)}


def named(function: Callable[[Any], Any]) -> str:
    """A function by where it was defined."""
    where = getattr(function, "__module__", "?")
    return f"{where}.{getattr(function, '__qualname__', repr(function))}"


@builds(FromCallable)
def from_callable(function: Callable[[Any], Any]) -> FromCallable:
    """Take a plain function of the step, such as an Optax schedule, as a schedule.

    The function gets a step that is never negative, int32 (float32 if steps are fractional),
    and its result is taken as float32. Everything else is its own: it is static, so each
    function is a compilation, its numbers are not leaves, it compares by identity, and its JSON
    form names it without being able to build it. `join` and the other compositions do this by
    themselves.

    Args:
        function: Step to a real number, of the step's shape or a scalar.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If it is not callable.

    Example:
        >>> import optax
        >>> from odyssey_jax.schedules import from_callable
        >>> print(from_callable(optax.linear_schedule(1.0, 0.0, 10))(5))
        0.5
    """
    if not callable(function):
        raise ValueError(
            f"function must be a callable from a step to a value (to build a schedule that was "
            f"one, give the function itself); got function = {function!r}."
        )
    return FromCallable(function)


def as_schedule(name: str, x: Any) -> Schedule:
    """A schedule as it is, another callable taken in."""
    if isinstance(x, Schedule):
        return x
    if callable(x):
        return FromCallable(x)
    raise ValueError(
        f"{name} must be a schedule, or a function of the step; got {name} = {x!r}. "
        "A number is a schedule as constant(number)."
    )


def as_schedules(name: str, xs: Any) -> tuple[Schedule, ...]:
    """A sequence of at least one, each taken in as `as_schedule` does."""
    require_one(name, xs)
    return tuple(as_schedule(f"{name}[{i}]", x) for i, x in enumerate(xs))
