"""Batches from the host: read ahead by a thread, stacked, and moved while the device computes."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from odyssey_jax._types import Batch, PyTree
from odyssey_jax.data import HostSource, transform_of
from odyssey_jax.feed._batches import Batches
from odyssey_jax.feed._chunks import Chunk, Rows, Stacked, int32

_PARTING = 0.1  # seconds that a closed thread has for what it is in the middle of


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
        self._batches = Batches(source, seed, step, position, steps, passes)
        self._seed, self._first, self._end = seed, step, step
        self._transform = transform_of(source)
        self._device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        self._put, self._size, self._partial = put, size, partial
        self._rows, self._next, self._mark = Rows(size), step, None
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
        """End the thread. A read that is under way is waited for shortly: it may never end.

        A thread that the end of the program meets within JAX's own code would abort it.
        """
        self._closed.set()
        with contextlib.suppress(queue.Empty):  # it may wait for room
            self._ready.get_nowait()
        self._thread.join(_PARTING)

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
                self._rows = Rows(1)
            self._rows.add(batch)
            full = self._rows.is_full
        if full:
            self._hand_on_rows()

    def _hand_on_rows(self) -> None:
        with self._lock:
            if not self._closed.is_set() and (chunk := self._take()) is not None:
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
        self._rows, self._next = Rows(self._size), first + rows.count
        batches = Stacked(self._put(rows.stacked()), int32(first), self._transform)
        return Chunk(first, self._next, batches, mark=self._mark)

    def _hand_on(self, item: Any) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                return self._ready.put(item, timeout=0.1)
        return None
