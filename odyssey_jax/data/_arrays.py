"""Data that lives on the device: every batch is a pure function of the key and the step."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odyssey_jax._checks import check_flag
from odyssey_jax._types import Batch, PyTree


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

    Raises:
        ValueError: If there is no array, or a scalar, or arrays of different lengths, something
            that is no number, 64-bit integers that don't fit in 32 bits (unless JAX's x64 is
            enabled), or the batch size is out of its range.

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

    @jax.transfer_guard("allow")  # to move arrays is what it is for
    def __post_init__(self) -> None:
        _check_dtypes(self.data)
        _check_lengths(self.data)
        object.__setattr__(self, "data", jax.tree.map(jnp.asarray, self.data))
        size, examples = self.batch_size, len(self)
        is_bool = isinstance(size, (bool, np.bool_))
        if is_bool or not hasattr(size, "__index__") or not 1 <= size <= examples:
            raise ValueError(
                f"batch_size must be an integer from 1 to the number of examples, {examples}; "
                f"got {size!r}."
            )
        object.__setattr__(self, "batch_size", operator.index(size))
        check_flag("shuffle", self.shuffle)
        check_flag("drop_remainder", self.drop_remainder)

    def tree_flatten_with_keys(self):
        """Return the arrays as the one child, and the rest as static."""
        static = (self.batch_size, self.shuffle, self.drop_remainder)
        return ((jax.tree_util.GetAttrKey("data"), self.data),), static

    @classmethod
    def tree_unflatten(cls, static, children):
        """Rebuild without the checks: JAX fills pytrees with tracers, shapes and sentinels."""
        self = object.__new__(cls)
        names = ("data", "batch_size", "shuffle", "drop_remainder")
        for name, value in zip(names, (*children, *static), strict=True):
            object.__setattr__(self, name, value)
        return self

    def __repr__(self) -> str:
        arrays = jax.tree.map(_Form, self.data)
        options = "".join(f", {x}=True" for x in ("shuffle", "drop_remainder") if getattr(self, x))
        return f"ArrayDataset({arrays!r}, batch_size={self.batch_size!r}{options})"

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


class _Form:
    """An array, which prints as its dtype and shape."""

    def __init__(self, x: Any) -> None:
        known = hasattr(x, "dtype") and hasattr(x, "shape")
        self.text = f"{x.dtype}{list(x.shape)}" if known else repr(x)

    def __repr__(self) -> str:
        return self.text


def _check_dtypes(data: PyTree) -> None:
    """Raise ValueError unless each leaf is of numbers that the device's dtypes hold."""
    leaves = jax.tree_util.tree_leaves_with_path(data, is_leaf=lambda x: x is None)
    for path, x in leaves:
        if isinstance(x, jax.Array):
            continue
        name = f"data{jax.tree_util.keystr(path)}"
        if x is None:
            raise ValueError(f"{name} is None: leave it out, or give an array [examples, ...].")
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of numbers: {error}.") from error
        if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
            remedy = _REMEDIES.get(x.dtype.kind, _ELSE)
            raise ValueError(
                f"{name} must be an array of numbers or bools, got dtype {x.dtype}: {remedy}."
            )
        _check_fits(name, x)


_TEXT = "encode text as integers, such as token ids or np.unique(labels, return_inverse=True)[1]"
_TIME = "make times numbers, such as x.astype('datetime64[s]').astype(np.int64) less the first"
_ELSE = "stack it into an array of one numeric dtype, or leave it out"
_REMEDIES = {"U": _TEXT, "S": _TEXT, "T": _TEXT, "M": _TIME, "m": _TIME}


def _check_fits(name: str, x: np.ndarray) -> None:
    """Raise ValueError for integers that JAX, which keeps 32 bits of them, would wrap."""
    kept = jax.dtypes.canonicalize_dtype(x.dtype)
    if kept == x.dtype or not jnp.issubdtype(x.dtype, jnp.integer) or x.size == 0:
        return
    bounds = jnp.iinfo(kept)
    for value in (x.min(), x.max()):
        if not bounds.min <= int(value) <= bounds.max:
            raise ValueError(
                f"{name} holds {int(value)}, as {x.dtype}, which JAX would wrap to {kept}: make "
                "the numbers smaller (an index in place of an id, two columns of 32 bits), or "
                "enable 64 bits with jax.config.update('jax_enable_x64', True)."
            )


def _check_lengths(data: PyTree) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(data)
    shapes = {jax.tree_util.keystr(path) or "data": np.shape(x) for path, x in leaves}
    if not shapes or any(not shape for shape in shapes.values()):
        raise ValueError(f"data must hold arrays [examples, ...], got shapes {shapes}.")
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays differ in their number of examples: {lengths}.")
