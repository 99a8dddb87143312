"""What a call of the compiled program trains on: batches, one after another, on the device."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax._types import Batch, PyTree, Transform
from odyssey_jax.data import Calendar, IndexedSource, on_device_dtype, transform_of
from odyssey_jax.train import Keys

# At most, however small the batches are: enough that leaving and entering the program costs
# nothing. And at least: of a single one XLA knows the place, and rounds otherwise.
_MOST_BATCHES, _LEAST_BATCHES = 256, 2
# Chunks there are at a time: two that the device works through and one that it is about to be
# given, one ready, one being filled.
_CHUNKS = 5


@node
class Stacked:
    """Batches one after another on the device.

    Attributes:
        batches: Pytree with leaves [batches, batch_size, ...].
        first: Int32 scalar, the step that the first of them belongs to.
        transform: The source's (static).
    """

    batches: PyTree
    first: Any
    transform: Transform | None = dataclasses.field(default=None, metadata={"static": True})

    def batch(self, step: Any) -> Batch:
        """Return the batch of a step (traced)."""
        return jax.tree.map(lambda x: x[step - self.first], self.batches)


@node
class OfPass:
    """The whole batches of one pass over data on the device.

    Attributes:
        data: The data.
        order: The pass's order, or None.
        first: Int32 scalar, the step at which the pass begins.
    """

    data: IndexedSource
    order: Any
    first: Any

    @property
    def transform(self) -> Transform | None:
        """The data's."""
        return transform_of(self.data)

    def batch(self, step: Any) -> Batch:
        """Return the batch of a step (traced)."""
        return self.data.batch(self.order, step - self.first)


class Chunk(NamedTuple):
    """What a call of the compiled program trains on.

    Attributes:
        first: The first step that it has a batch for.
        end: The step after its last.
        batches: `Stacked` or `OfPass`.
        block: Steps in a block: a call ends between two of them.
        mark: Where a reader can go on, at or before `first`: a step and the reader's state; None
            where it needs none.
    """

    first: int
    end: int
    batches: Any
    block: int = 1
    mark: tuple[int, Any] | None = None


class Cut:
    """Gives the batches of data that lies on the device, a pass at a time.

    Args:
        data: The data.
        calendar: How its run is cut.
        key: The run's root key.
        seed: Made of it.
    """

    marks = ()

    def __init__(self, data: IndexedSource, calendar: Calendar, key: jax.Array, seed: int):
        self._data, self._calendar, self._seed = data, calendar, seed
        self._key = Keys.of(key).shuffle
        self._pass: tuple[int, Any] | None = None

    def covers(self, seed: int, step: int) -> bool:
        """Return whether the batch of this step can be had: of one run, each can."""
        del step
        return seed == self._seed

    def chunk(self, step: int, wait: float | None = None) -> Chunk:
        """Return the chunk that holds the batch of a step."""
        del wait
        calendar = self._calendar
        index, position = divmod(step, calendar.data_pass)
        if self._pass is None or self._pass[0] != index:
            self._pass = index, _order(self._data, self._key, int32(index))
        order, first = self._pass[1], index * calendar.data_pass
        if position < calendar.full:
            end = first + calendar.full
            return Chunk(first, end, OfPass(self._data, order, int32(first)), calendar.block)
        return one_batch(step, self._data, order)

    def drop(self, step: int) -> None:
        """Forget what is done: nothing is held."""

    def close(self) -> None:
        """Give back threads and files: there are none."""


@jax.jit
def _order(data: IndexedSource, key: jax.Array, index: jax.Array) -> Any:
    return data.order(key, index)


def one_batch(step: int, data: IndexedSource, order: Any) -> Chunk:
    """Return the chunk of a pass's last, smaller batch."""
    last = jax.tree.map(lambda x: x[None], _last_batch(data, order))
    return Chunk(step, step + 1, Stacked(last, int32(step), transform_of(data)))


@jax.jit
def _last_batch(data: IndexedSource, order: Any) -> Batch:
    return data.last_batch(order)


def int32(value: int | list[int]) -> jax.Array:
    """Return integers on the device: together, as moving them takes longer than a dispatch."""
    return jax.device_put(np.asarray(value, np.int32))  # explicitly, for `jax.transfer_guard`


class Rows:
    """Batches stacked as they come, in memory of their own: a source may reuse its own."""

    def __init__(self, size: int):
        self._size, self.count = size, 0
        self._columns: list[Any] = []
        self._form: Any = None

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another batch."""
        return self.count == self._size

    def add(self, batch: Batch) -> None:
        """Copy a batch behind the others."""
        leaves, self._form = jax.tree.flatten(batch)
        self._columns = self._columns or [None] * len(leaves)
        for number, x in enumerate(leaves):
            column = self._columns[number]
            if isinstance(x, jax.Array):  # stays on the device
                self._columns[number] = [*(column or ()), x]
                continue
            x = np.asarray(x)
            if column is None:
                column = _aligned((self._size, *x.shape), jax.dtypes.canonicalize_dtype(x.dtype))
                self._columns[number] = column
            if column.dtype != x.dtype:
                x = on_device_dtype("a batch", x)
            column[self.count] = x
        self.count += 1

    def stacked(self) -> PyTree:
        """Return them; where there are fewer than there is room for, the rest is anything."""
        columns = [
            jnp.stack([*x, *[x[-1]] * (self._size - len(x))]) if isinstance(x, list) else x
            for x in self._columns
        ]
        return jax.tree.unflatten(self._form, columns)


_ALIGNMENT = 64  # bytes; an array that lies so JAX takes on a CPU as it is, without a copy


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of anything, at an address that is a multiple of `_ALIGNMENT`."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def chunk_size(spec: PyTree, prefetch_bytes: int) -> int:
    """Choose how many batches a chunk has, so that those there are at a time take no more.

    Args:
        spec: The form of a batch.
        prefetch_bytes: The bytes that all batches that are read ahead may take.
    """
    size = sum(
        np.prod(x.shape, dtype=np.int64) * jax.dtypes.canonicalize_dtype(x.dtype).itemsize
        for x in jax.tree.leaves(spec)
    )
    return int(
        np.clip(prefetch_bytes // (_CHUNKS * max(int(size), 1)), _LEAST_BATCHES, _MOST_BATCHES)
    )
