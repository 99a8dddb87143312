"""A source that is read, as the compiled side sees it before there is any data."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._types import Batch
from odyssey_jax.data import HostSource, transform_of


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StandIn:
    """The form of a `HostSource`, where a program is traced before there is any data.

    Attributes:
        form: The structure of a batch.
        arrays: The shape and dtype of each of its arrays, over all processes.
        batch_size: As in `Source`, over all processes, like the others.
        full_batches: As in `Source`.
        remainder: As in `Source`.
        steps_per_pass: As in `Source`.
        transform: As in `Source`.
        source: What it stands for.
    """

    form: Any
    arrays: tuple[tuple[tuple[int, ...], Any], ...]
    batch_size: int
    full_batches: int
    remainder: int
    steps_per_pass: int | None
    transform: Any
    source: HostSource = dataclasses.field(compare=False, repr=False)

    @classmethod
    def of(cls, source: HostSource) -> StandIn:
        """Make the one for a source, of which every process reads a share."""
        leaves, form = jax.tree.flatten(source.spec)
        times = jax.process_count()
        arrays = tuple(((times * x.shape[0], *x.shape[1:]), x.dtype) for x in leaves)
        return cls(
            form,
            arrays,
            times * source.batch_size,
            source.full_batches,
            times * source.remainder,
            source.steps_per_pass,
            transform_of(source),
            source,
        )

    def signature(self) -> dict[str, Any]:
        """Return what decides which batch belongs to a step, as JSON."""
        return {k: v for k, v in self.source.signature().items() if k != "fingerprint"}

    def order(self, key: jax.Array, index: Any) -> None:
        """Return no order."""

    def batch(self, order: Any, index: Any) -> Batch:
        """Return an empty batch: for its shapes."""
        del order, index
        return jax.tree.unflatten(self.form, [jnp.zeros(*x) for x in self.arrays])

    def last_batch(self, order: Any) -> Batch:
        """Return a smaller batch: for its shapes."""
        return jax.tree.map(lambda x: x[: self.remainder], self.batch(order, 0))
