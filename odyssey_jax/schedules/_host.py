"""A plain Python function of the step, called on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._base import Schedule, builds
from ._callable import named
from ._moment import Moment
from ._node import node


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FromPython(Schedule):
    """A function that is static, and stays outside the compiled program; see `from_python`."""

    function: Callable[[Any], Any] = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """What the function gives for each step."""
        shape = jax.ShapeDtypeStruct(now.whole.shape, jnp.float32)
        parts = () if now.part is None else (jax.lax.stop_gradient(now.part),)
        return jax.pure_callback(self._values, shape, now.whole, *parts, vmap_method="expand_dims")

    def _values(self, whole: Any, part: Any = 0.0) -> np.ndarray:
        whole, part = np.broadcast_arrays(np.asarray(whole), np.asarray(part))
        steps = zip(whole.ravel().tolist(), part.ravel().tolist(), strict=True)
        values = [float(self.function(n + x if x else n)) for n, x in steps]
        return np.asarray(values, np.float32).reshape(whole.shape)

    def to_dict(self) -> dict[str, Any]:
        """Name the function: enough to see that another one differs, not to build it again."""
        return {"name": self.name, "function": named(self.function)}


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
    if not callable(function):
        raise ValueError(
            f"function must be a callable from a step to a value; got function = {function!r}."
        )
    return FromPython(function)
