"""Plain functions of the step as schedules: traced by JAX, or called on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._fields import checked, field
from odyssey_jax.schedules._steps import StepCount


def _require_callable(name: str, value: Any) -> Callable[[Any], Any]:
    if not callable(value):
        raise ValueError(
            f"{name} must be a callable from a step to a value (to build a schedule that was "
            f"one, give the function itself); got {name} = {value!r}."
        )
    return value


@node
class FromCallable(Schedule):
    """A function that is static; see `from_callable`."""

    function: Callable[[Any], Any] = field(_require_callable, static=True)

    def at(self, now: StepCount) -> jax.Array:
        """Return what the function returns for the step."""
        step = now.whole if now.part is None else now.real()
        return jnp.asarray(self.function(step)).astype(jnp.float32)

    def to_dict(self) -> dict[str, Any]:
        """Name the function: enough to see that another one differs, not to build it again."""
        return {"name": self.name, "function": named(self.function)}


def named(function: Callable[[Any], Any]) -> str:
    """Return a function by where it was defined."""
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
    return checked(FromCallable, locals())


def as_schedule(name: str, x: Any) -> Schedule:
    """Return a schedule as it is, another callable taken in."""
    if isinstance(x, Schedule):
        return x
    if callable(x):
        return FromCallable(x)
    raise ValueError(
        f"{name} must be a schedule, or a function of the step; got {name} = {x!r}. "
        "A number is a schedule as constant(number)."
    )


def as_schedules(name: str, xs: Any) -> tuple[Schedule, ...]:
    """Return a sequence of at least one, each taken in as `as_schedule` does."""
    if not isinstance(xs, Sequence) or isinstance(xs, str) or len(xs) == 0:
        raise ValueError(
            f"{name} must be a sequence of at least one schedule; got {name} = {xs!r}."
        )
    return tuple(as_schedule(f"{name}[{i}]", x) for i, x in enumerate(xs))


@node
class FromPython(FromCallable):
    """A function that is static, and stays outside the compiled program; see `from_python`."""

    def at(self, now: StepCount) -> jax.Array:
        """Return what the function returns for each step."""
        shape = jax.ShapeDtypeStruct(now.whole.shape, jnp.float32)
        parts = () if now.part is None else (jax.lax.stop_gradient(now.part),)
        return jax.pure_callback(self._values, shape, now.whole, *parts, vmap_method="expand_dims")

    def _values(self, whole: Any, part: Any = 0.0) -> np.ndarray:
        whole, part = np.broadcast_arrays(np.asarray(whole), np.asarray(part))
        steps = zip(whole.ravel().tolist(), part.ravel().tolist(), strict=True)
        values = [float(self.function(n + x if x else n)) for n, x in steps]
        return np.asarray(values, np.float32).reshape(whole.shape)


@builds(FromPython)
def from_python(function: Callable[[Any], Any]) -> FromPython:
    """Take a plain Python function of the step as a schedule, by calling it on the host.

    The function gets a Python number, the step (an int where it is whole), and may do with it
    what JAX can't trace: `if`, `float`, `math.exp`, integers of any size. It is called each time
    a compiled program gets to it, which costs about as much as a hundred small operations and
    keeps the program from running ahead; `from_callable` is for functions that JAX traces, at no
    such cost. It has to give the same value for the same step every time. It has no derivative
    for the step, compares by identity, and its JSON form names it without being able to build it.

    Args:
        function: A Python number to a real number.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If it is not callable.

    Source:
        `torch.optim.lr_scheduler.LambdaLR`, whose functions are such.

    Example:
        >>> from odyssey_jax.schedules import from_python
        >>> schedule = from_python(lambda step: 0.5 if step < 10 else 2.0 ** -step)
        >>> print(schedule(9), schedule(10))
        0.5 0.0009765625
    """
    return checked(FromPython, locals())
