"""Batches from the host: read ahead by a thread, stacked, and moved while the device computes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax._types import Batch, PyTree, Transform
from odyssey_jax.data import HostSource, IndexedSource, on_device_dtype, transform_of

# At most, however small the batches are: enough that leaving and entering the program costs
# nothing. And at least: of a single one XLA knows the place, and rounds otherwise.
_MOST_BATCHES, _LEAST_BATCHES = 256, 2
# Chunks there are at a time: two that the device works through, one ready, one being filled.
_CHUNKS = 4


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


class _Failed(NamedTuple):
    error: BaseException


class _Ended(NamedTuple):
    pass


class Feed:
    """Reads a source in a thread, and hands its batches on in chunks.

    Args:
        source: What is read.
        put: Stacked batches of the host -> arrays on the devices.
        seed: Of the source's shuffles.
        step: The step whose batch comes first.
        position: Of an earlier run: the step and the state of `Chunk.mark`; or None.
        size: Batches in a chunk.
        steps: The batches there are to read; None for as many as are asked for.
        passes: Whether to go on with a next pass; else the first one ends it.
        partial: Whether a chunk may be handed on before it is full.
    """

    def __init__(
        self,
        source: HostSource,
        put: Callable[[PyTree], PyTree],
        *,
        seed: int = 0,
        step: int = 0,
        position: tuple[int, Any] | None = None,
        size: int = 1,
        steps: int | None = None,
        passes: bool = True,
        partial: bool = True,
    ):
        self._batches = _Batches(source, seed, step, position, steps, passes)
        self._seed, self._first, self._end = seed, step, step
        self._transform = transform_of(source)
        self._device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        self._put, self._size, self._partial = put, size, partial
        self._rows, self._next, self._mark = _Rows(size), step, None
        self._lock = threading.Lock()
        self._ready: queue.Queue[Any] = queue.Queue(1)
        self._held: collections.deque[Chunk] = collections.deque()
        self._last: _Failed | _Ended | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="odyssey_jax feed", daemon=True)
        self._thread.start()

    def chunk(self, step: int, wait: float | None = None) -> Chunk | None:
        """Return the chunk that holds the batch of a step.

        Args:
            step: The step; the chunks before it may have been dropped.
            wait: Seconds to wait for it; None for as long as it takes.

        Returns:
            The chunk, which has fewer batches than it could have where the next one is slow to
            come; None where there is none in time, and where the data has ended.

        Raises:
            Exception: What the reader raised, with a note that says at which step.
        """
        while True:
            for chunk in self._held:
                if chunk.first <= step < chunk.end:
                    return chunk
            if isinstance(self._last, _Failed):
                raise self._last.error
            if self._last is not None:
                return None
            try:
                item = self._ready.get(timeout=wait)
            except queue.Empty:
                item = self._take_what_there_is()
                if item is None:
                    return None
            if isinstance(item, Chunk):
                self._held.append(item)
                self._end = item.end
            else:
                self._last = item

    def covers(self, seed: int, step: int) -> bool:
        """Return whether the batch of a step of a run is still held, or the next one to come."""
        return seed == self._seed and self._first <= step <= self._end

    @property
    def ended(self) -> bool:
        """Whether the data has ended, and every chunk was handed on."""
        return isinstance(self._last, _Ended)

    @property
    def marks(self) -> list[tuple[int, Any]]:
        """Where a reader can go on, in the chunks that are held."""
        return [chunk.mark for chunk in self._held if chunk.mark is not None]

    @property
    def seconds_per_batch(self) -> float:
        """What reading a batch takes, in the mean so far; NaN before there is one."""
        batches = self._batches
        return batches.seconds / batches.read if batches.read else float("nan")

    def drop(self, step: int) -> None:
        """Forget the chunks whose steps are all done."""
        while self._held and self._held[0].end <= step:
            self._first = self._held.popleft().end

    def close(self) -> None:
        """End the thread. A read that is under way is not waited for: it may never end."""
        self._closed.set()

    # What the thread does. The lock is of the rows that it fills: a run that waits may take them.

    def _run(self) -> None:
        try:
            # A context of the thread that made this one, which JAX keeps for each thread.
            with jax.default_device(self._device), contextlib.closing(self._batches) as batches:
                batches.open()
                while not (batches.over or self._closed.is_set()):
                    if not self._rows.count:
                        self._mark = batches.mark()
                    self._add(*batches.next())
            self._hand_on_rows()
            self._hand_on(_Ended())
        except BaseException as error:  # also a worker's SystemExit: the run raises it
            self._hand_on_rows()
            self._hand_on(_Failed(error))

    def _add(self, batch: Batch | None, smaller: bool) -> None:
        if batch is None:
            return
        if smaller:  # is a chunk of its own
            self._hand_on_rows()
        with self._lock:
            if smaller:
                self._rows = _Rows(1)
            self._rows.add(batch)
            full = self._rows.is_full
        if full:
            self._hand_on_rows()

    def _hand_on_rows(self) -> None:
        with self._lock:
            if (chunk := self._take()) is not None:
                self._hand_on(chunk)

    def _take_what_there_is(self) -> Chunk | None:
        # The thread that waits for room holds the lock: what it hands on comes at the next look.
        if not self._partial or not self._lock.acquire(blocking=False):
            return None
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return self._take()
        finally:
            self._lock.release()

    def _take(self) -> Chunk | None:
        rows, first = self._rows, self._next
        if not rows.count:
            return None
        self._rows, self._next = _Rows(self._size), first + rows.count
        start = jax.device_put(np.int32(first))
        batches = Stacked(self._put(rows.stacked()), start, self._transform)
        return Chunk(first, self._next, batches, mark=self._mark)

    def _hand_on(self, item: Any) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                return self._ready.put(item, timeout=0.1)
        return None


class _Batches:
    """The batches of a source one by one, checked: each against the first, and where passes end."""

    def __init__(
        self,
        source: HostSource,
        seed: int,
        step: int,
        position: tuple[int, Any] | None,
        steps: int | None,
        passes: bool,
    ):
        self._source, self._seed, self._start = source, seed, step
        self._position = position if source.resumes == "by state" else None
        self._until = None if steps is None else step + steps
        self._passes, self._reader = passes, None
        self._like_first, self.over = _LikeFirst(source.spec), False
        self.at = step
        self.seconds, self.read = 0.0, 0
        length = source.steps_per_pass
        self._length, self._in_pass = length, 0 if length is None else step % length
        self._smaller = False

    def open(self) -> None:
        """Begin to read, where the run goes on."""
        self.at, state = self._position or (self._start, None)
        if self._length is not None:
            self._in_pass = self.at % self._length
        self._reader = self._source.reader(self._seed, self.at, state)
        while self.at < self._start:  # read after the state was taken, and trained on
            self.next()

    def close(self) -> None:
        """Close the reader."""
        if self._reader is not None:
            self._reader.close()

    def mark(self) -> tuple[int, Any] | None:
        """Return where a reader can go on: this step and the state."""
        assert self._reader is not None
        return (self.at, self._reader.state()) if self._source.resumes == "by state" else None

    def next(self) -> tuple[Batch | None, bool]:
        """Return the next batch, and whether it is a smaller one; None where there is no more."""
        if self._until is not None and self.at >= self._until:
            self.over = True
            return None, False
        while (batch := self._read()) is None:
            self._end_pass()
            if self.over:
                return None, False
        rows = self._like_first.rows(batch, self.at)
        if self._smaller:
            raise ValueError(
                f"the batch of step {self.at - 1:,} has fewer examples than the first one, and is "
                f"not the last of its pass over {self._source!r}: drop it, fill it up with pad_to, "
                "or make all batches of one size."
            )
        self._smaller = rows < self._source.batch_size
        self.at, self._in_pass = self.at + 1, self._in_pass + 1
        return batch, self._smaller

    def _read(self) -> Batch | None:
        assert self._reader is not None
        begun = time.monotonic()
        try:
            batch = self._reader.read()
        except Exception as error:
            error.add_note(f"while reading the batch of step {self.at:,} from {self._source!r}")
            raise
        self.seconds += time.monotonic() - begun
        self.read += batch is not None
        return batch

    def _end_pass(self) -> None:
        if self.at > 0 and not (self._in_pass or self.read):
            return  # a reader that goes on at the end of a pass may say so first
        if (self._length is not None and self._in_pass != self._length) or not self._in_pass:
            promised = "at least one" if self._length is None else f"{self._length:,}"
            raise ValueError(
                f"a pass over {self._source!r} ended after {self._in_pass:,} batches, at step "
                f"{self.at:,}, and was to have {promised}."
            )
        self._in_pass, self._smaller, self.over = 0, False, not self._passes


class _LikeFirst:
    """Checks that batches are like the first one: at once where they are, and else by path."""

    def __init__(self, spec: PyTree):
        self._spec = spec
        leaves, self._form = jax.tree.flatten(spec)
        self._size = leaves[0].shape[0]
        self._arrays = [(x.shape[1:], x.dtype) for x in leaves]

    def rows(self, batch: Batch, step: int) -> int:
        """Return the examples of a batch; raise ValueError unless it is like the first one."""
        leaves, form = jax.tree.flatten(batch)
        rows = list(getattr(leaves[0], "shape", ()))[:1] if leaves else []
        like_first = form == self._form and rows and 0 < rows[0] <= self._size
        if like_first:
            forms = [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in leaves]
            if forms == [((*rows, *shape), dtype) for shape, dtype in self._arrays]:
                return rows[0]
        return _check(batch, self._spec, step)


def _check(batch: Batch, spec: PyTree, step: int) -> int:
    """Return the examples of a batch, also in dtypes of 64 bits; name what is not as it was."""
    leaves, form = jax.tree.flatten(batch)
    wanted, wanted_form = jax.tree.flatten(spec)
    if form != wanted_form:
        raise ValueError(
            f"the batch of step {step:,} is not like the first one: it is {form}, and that was "
            f"{wanted_form}."
        )
    rows = {np.shape(x)[0] if np.ndim(x) else 0 for x in leaves}
    size = wanted[0].shape[0]
    for number, (x, like) in enumerate(zip(leaves, wanted, strict=True)):
        alike = np.shape(x)[1:] == like.shape[1:] and _dtype(x) == _dtype(like)
        if alike and len(rows) == 1 and 0 < min(rows) <= size:
            continue
        path = jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(spec)[number][0])
        raise ValueError(
            f"the batch of step {step:,} is not like the first one: batch{path} is "
            f"{_dtype(x)}{list(np.shape(x))}, and that was {_dtype(like)}{list(like.shape)}. A "
            "compiled step has one shape: pad with pad_to, or drop what is smaller."
        )
    return rows.pop()


def _dtype(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    dtype = np.asarray(x).dtype if dtype is None else dtype
    return dtype if jnp.issubdtype(dtype, jax.dtypes.extended) else canonical(dtype)


class _Rows:
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
                column = _aligned((self._size, *x.shape), canonical(x.dtype))
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


def canonical(dtype: Any) -> Any:
    """Return the dtype that JAX keeps such numbers in."""
    return jax.dtypes.canonicalize_dtype(dtype)


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
