"""Data that lives on the device: every batch is a pure function of the key and the step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax

from odyssey_jax._checks import check_flag
from odyssey_jax._types import Batch, PyTree, Transform
from odyssey_jax.data._leaves import (
    as_array,
    check_batch_size,
    check_lengths,
    map_leaves,
    on_device_dtype,
    shown,
)
from odyssey_jax.data._source import check_transform


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    r"""Arrays on the device, cut into batches; shuffled there, anew for every pass.

    Pass $p$ goes through the examples in the order `permutation(fold_in(key, p))`, so the batch
    of any step is a pure function of `(key, step)` and a resume needs no replay.

    Attributes:
        data: Pytree of arrays [examples, ...] of any dtype, numpy's or JAX's; a batch has the
            same structure with leaves [batch_size, ...].
        batch_size: Examples in a batch, from 1 to the number of examples.
        shuffle: Whether every pass has its own random order.
        drop_remainder: Whether the examples that fill no whole batch are left out of a pass
            (shuffled, they are others each time) or come as a last, smaller batch. A smaller
            batch is a second shape, for which the step is compiled a second time.
        transform: Pure function `(batch, key) -> batch` that is part of the compiled step, for
            augmentation and masking; without a key (None) in validation.

    Raises:
        ValueError: If there is no array, or a scalar, or arrays of different lengths, something
            that is no number, 64-bit integers that don't fit in 32 bits (unless JAX's x64 is
            enabled), or the batch size is out of its range.
        TypeError: If `transform` is no function of a batch and a key.

    Example:
        >>> import numpy as np, odyssey_jax as ody
        >>> data = ody.ArrayDataset({"x": np.arange(10.0)}, batch_size=4)
        >>> len(data), data.steps_per_pass, data.remainder
        (10, 3, 2)
    """

    data: PyTree
    batch_size: int
    _: dataclasses.KW_ONLY
    shuffle: bool = False
    drop_remainder: bool = False
    transform: Transform | None = None

    @jax.transfer_guard("allow")  # to move arrays is what it is for
    def __post_init__(self) -> None:
        data = map_leaves(
            "data", lambda path, x: on_device_dtype(path, as_array(path, x)), self.data
        )
        check_lengths("data", data)
        object.__setattr__(self, "data", jax.tree.map(_put, data))
        object.__setattr__(self, "batch_size", check_batch_size(self.batch_size, len(self)))
        check_flag("shuffle", self.shuffle)
        check_flag("drop_remainder", self.drop_remainder)
        check_transform(self.transform)

    def tree_flatten_with_keys(self):
        """Return the arrays as the one child, and the rest as static."""
        static = (self.batch_size, self.shuffle, self.drop_remainder, self.transform)
        return ((jax.tree_util.GetAttrKey("data"), self.data),), static

    @classmethod
    def tree_unflatten(cls, static, children):
        """Rebuild without the checks: JAX fills pytrees with tracers, shapes and sentinels."""
        self = object.__new__(cls)
        names = ("data", "batch_size", "shuffle", "drop_remainder", "transform")
        for name, value in zip(names, (*children, *static), strict=True):
            object.__setattr__(self, name, value)
        return self

    def __repr__(self) -> str:
        return shown(self)

    def __len__(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]

    @property
    def full_batches(self) -> int:
        """Whole batches in a pass."""
        return len(self) // self.batch_size

    @property
    def remainder(self) -> int:
        """Examples in a pass's last, smaller batch; 0 where there is none."""
        return 0 if self.drop_remainder else len(self) % self.batch_size

    @property
    def steps_per_pass(self) -> int:
        """Batches in a pass."""
        return self.full_batches + (self.remainder > 0)

    def signature(self) -> dict[str, Any]:
        """Return what decides which batch belongs to a step, as JSON."""
        return {
            "examples": len(self),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_remainder": self.drop_remainder,
        }

    def order(self, key: jax.Array, index: Any) -> jax.Array | None:
        """Return the order of a pass.

        Args:
            key: Typed PRNG key of the run's shuffles.
            index: Int32 scalar, which pass.

        Returns:
            int32 [examples], or None where the data is not shuffled.
        """
        if not self.shuffle:
            return None
        return jax.random.permutation(jax.random.fold_in(key, index), len(self))

    def batch(self, order: jax.Array | None, index: Any) -> Batch:
        """Return a whole batch of a pass.

        Args:
            order: What `order` gave for the pass.
            index: Int32 scalar, from 0 to `full_batches - 1`.

        Returns:
            Pytree with leaves [batch_size, ...].
        """
        return self._slice(order, index * self.batch_size, self.batch_size)

    def last_batch(self, order: jax.Array | None) -> Batch:
        """Return a pass's last, smaller batch.

        Args:
            order: What `order` gave for the pass.

        Returns:
            Pytree with leaves [remainder, ...].
        """
        return self._slice(order, len(self) - self.remainder, self.remainder)

    def _slice(self, order: jax.Array | None, start: Any, size: int) -> Batch:
        if order is None:
            return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), self.data)
        index = lax.dynamic_slice_in_dim(order, start, size)
        return jax.tree.map(
            lambda x: x.at[index].get(mode="promise_in_bounds", unique_indices=True), self.data
        )


def _put(x: Any) -> jax.Array:
    """Copy an array of NumPy's to the device; `jnp.asarray` would compile that for each shape.

    A copy of our own is given: JAX may go on to read what it is given, or alias it (on a CPU, also
    with `may_alias=False`), and the caller may write to the other.
    """
    return x if isinstance(x, jax.Array) else jax.device_put(np.array(x))
