"""Values of single train steps, every n-th, kept in the carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Samples = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What of the train steps is kept; see `sampling`."""

    every: int
    outputs: tuple[str, ...]
    capacity: int

    def empty(self) -> Samples:
        """Makes room: name to float32 [capacity]."""
        return {name: jnp.zeros(self.capacity, jnp.float32) for name in self.outputs}

    def put(self, samples: Samples, step: jax.Array, outputs: Mapping[str, jax.Array]) -> Samples:
        """Takes the samples past a train step, whose index is `step`.

        Each step writes to the row of its window, and the last one of it stays: so no step has
        to ask whether it is sampled.
        """
        row = jnp.minimum(step // self.every, self.capacity - 1)
        return {
            name: lax.dynamic_update_index_in_dim(column, _scalar(name, outputs), row, axis=0)
            for name, column in samples.items()
        }

    def length(self, step: int) -> int:
        """The rows that are complete after so many train steps."""
        return min(step // self.every, self.capacity)


def _scalar(name: str, outputs: Mapping[str, jax.Array]) -> jax.Array:
    scalars = {k: v for k, v in outputs.items() if jnp.ndim(v) == 0}
    if name not in scalars:
        raise ValueError(
            f"{name!r} can't be sampled; the scalar outputs of a train step are: "
            f"{', '.join(sorted(scalars))}."
        )
    return jnp.asarray(scalars[name], jnp.float32)


def sampling(every: int, outputs: Sequence[str], capacity: int) -> Sampling:
    """Keeps outputs of every n-th train step: step n - 1, 2 n - 1 and so on, counted from 0.

    Args:
        every: train steps from one row to the next, at least 1.
        outputs: names of scalar outputs of a train step: "loss", those of the loss function,
            "learning_rate", "grad_norm", "update_norm", "param_norm" or "update_ratio".
        capacity: the rows there is room for, at least 1.

    Returns:
        The static part, for `make_loop`; the samples are `Carry.samples`.

    Raises:
        ValueError: an argument is out of its range; or, when the loop is traced, there is no such
            output.

    Example:
        >>> import jax.numpy as jnp
        >>> kept = sampling(every=2, outputs=["loss"], capacity=3)
        >>> samples = kept.empty()
        >>> for step in range(5):
        ...     samples = kept.put(samples, jnp.int32(step), {"loss": jnp.float32(step)})
        >>> samples["loss"][: kept.length(5)].tolist()
        [1.0, 3.0]
    """
    for name, value in (("every", every), ("capacity", capacity)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    if isinstance(outputs, str) or not outputs or len(set(outputs)) < len(outputs):
        raise ValueError(f"outputs must be different names, at least one, got {outputs!r}.")
    return Sampling(every, tuple(outputs), capacity)
