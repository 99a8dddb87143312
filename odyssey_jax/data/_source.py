"""The protocol of data: what a source of batches promises."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax

from odyssey_jax._types import Batch


@runtime_checkable
class Source(Protocol):
    """A source of batches, in passes of a known length.

    Where the batches come from is one of three kinds: *indexed*, traced on the device
    (`IndexedSource`); *random access* on the host, where a batch is a function of the step; or
    *streamed*, an iterator whose state is saved with the run. This much the shell knows of each.
    """

    @property
    def batch_size(self) -> int:
        """Examples in a whole batch."""
        ...

    @property
    def full_batches(self) -> int:
        """Whole batches in a pass."""
        ...

    @property
    def remainder(self) -> int:
        """Examples in a pass's last, smaller batch; 0 where there is none."""
        ...

    @property
    def steps_per_pass(self) -> int:
        """Batches in a pass."""
        ...

    def signature(self) -> dict[str, Any]:
        """Return what decides which batch belongs to a step, as JSON: a resume compares it."""
        ...


@runtime_checkable
class IndexedSource(Source, Protocol):
    """A source whose batches are traced: a pytree of device arrays, cut by the compiled program.

    `ArrayDataset` is one.
    """

    def order(self, key: jax.Array, index: Any) -> jax.Array | None:
        """Return the order of a pass (traced), or None where it is the data's own."""
        ...

    def batch(self, order: jax.Array | None, index: Any) -> Batch:
        """Return a whole batch of a pass (traced)."""
        ...

    def last_batch(self, order: jax.Array | None) -> Batch:
        """Return a pass's last, smaller batch (traced)."""
        ...
