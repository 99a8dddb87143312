"""A run driven from the host: the epoch's functions are jitted, and batches are handed in."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import Batch, PyTree, StopReason, Task, TrainState
from odyssey_jax.data import Calendar, HostSource, IndexedSource
from odyssey_jax.feed._feed import Chunk, Feed, OfPass, Stacked, chunk_size
from odyssey_jax.train import (
    Carry,
    Finished,
    Keys,
    Loop,
    Progress,
    Reading,
    Resident,
    as_sets,
    compiled,
    transformed,
)

# Where the data is not there after this long, a run comes up for air, so that it can be
# interrupted.
_PATIENCE = 0.25
# Calls that may be under way before the host looks how the first of them went.
_AHEAD = 2

PREFETCH_BYTES = 2**28


class Driven(Resident):
    """A `Program` whose batches come from the host: in chunks, the next one read meanwhile.

    It computes what `Resident` does, up to rounding: XLA fuses the two differently. It runs
    ahead of the device: what is dispatched after a call that stops, or asks for a save, does
    nothing. Some of the data may lie on the device all the same.

    Args:
        task: What is trained.
        loop: From `make_loop`, with a `capacity`.
        inputs: The data, each an `IndexedSource` or a `HostSource`, and the schedule.
        valid_steps: Batches of a `HostSource` to validate with; None is a pass.
        prefetch_bytes: What the batches that are read ahead may take.
    """

    def __init__(
        self,
        task: Task,
        loop: Loop,
        inputs: Any,
        *,
        valid_steps: int | None = None,
        prefetch_bytes: int = PREFETCH_BYTES,
    ):
        stood_in = jax.tree.map(
            lambda x: StandIn.of(x) if _is_read(x) else x, inputs, is_leaf=_is_read
        )
        super().__init__(task, loop, stood_in)
        sets = as_sets(inputs.valid)
        self._train = inputs.train
        on_device = as_sets(self.inputs.valid)  # where the loop's placement has put them
        self._resident = {name: x for name, x in on_device.items() if not _is_read(sets[name])}
        self._read = {name: x for name, x in sets.items() if _is_read(x)}
        self._valid_steps, self._prefetch_bytes = valid_steps, prefetch_bytes
        if _is_read(self._train):  # handed in one by one, a block is of no use
            self.calendar = self.calendar._replace(block=1)
        self._feed: Feed | Cut | None = None
        self._validations: dict[str, _Validation] = {}
        self._position: tuple[int, Any] | None = None
        self._failed: Exception | None = None
        self._compiled, self._waited = False, 0.0

    def run(self, carry: Carry, limit: int) -> tuple[Carry, Progress]:
        """Train to a step, or until the host is asked for, or the data is not there.

        Raises:
            Exception: What reading the data has raised, once all before it is trained on; the
                carry given is good then.
        """
        if self._failed is not None:
            raise self._failed
        carry = self.with_room(carry, limit)
        clock, save = jax.device_get((carry.clock, carry.signal.save))
        step, epoch = int(clock.step), int(clock.epoch)
        if save:  # the host has seen it
            cleared = jnp.zeros_like(carry.signal.save)
            carry = carry._replace(signal=carry.signal._replace(save=cleared))
        feed = self._feed_at(carry, step)
        if limit <= step and not self._compiled:
            return self._compile(carry, feed, step)
        rate, validating = self.inputs.learning_rate, False
        calls: collections.deque[tuple[int, jax.Array]] = collections.deque()
        while True:
            if self.calendar.epochs(step) > epoch:
                if self._read and _halted(calls, feed, keep=0):
                    break
                states = self._validated(carry)
                if states is None:
                    validating = True
                    break
                args = (carry, self._resident, states, rate, _int32([step, epoch]))
                carry, epoch = _end_epoch(self.loop, *args), epoch + 1
            if step >= limit or _halted(calls, feed, keep=_AHEAD):
                break
            chunk = self._wait_for(feed, step)
            if chunk is None:
                break
            until = min(limit, chunk.end, self.calendar.epoch_end(step))
            until = step + -(-(until - step) // chunk.block) * chunk.block
            statics = (self.loop, self.calendar.epoch, chunk.block)
            span = _int32([step, until])
            carry, reached = _train(*statics, carry, chunk.batches, rate, span)
            step = until
            calls.append((step, reached))
        return carry, self.look(carry, validating)

    def look(self, carry: Carry, validating: bool = False) -> Progress:
        """Return the progress of a carry as it is."""
        marks = [] if self._position is None else [self._position]
        seconds = float("nan")
        if isinstance(self._feed, Feed):
            marks, seconds = [*marks, *self._feed.marks], self._feed.seconds_per_batch
        reading = Reading(marks, validating, self._waited, seconds)
        return super().look(carry)._replace(reading=reading)

    def finish(self, carry: Carry) -> Finished:
        """Let the callbacks act at the end of the training, such as to restore the best."""
        self.close()
        return super().finish(carry)

    def close(self) -> None:
        """End the threads that read ahead."""
        for feed in (self._feed, *(validation.feed for validation in self._validations.values())):
            if feed is not None:
                feed.close()
        self._feed, self._validations = None, {}

    def made_of(self, carry: Carry) -> dict[str, Any]:
        """Return fingerprints of what the run is made of: see `Program.made_of`."""
        made_of = super().made_of(carry)
        if _is_read(self._train):
            made_of["training data"] = _contents(self._train)
        if self._read:
            read = {name: _contents(source) for name, source in self._read.items()}
            made_of["validation data"] = [made_of["validation data"], read]
        return made_of

    def restored(
        self,
        saved: PyTree,
        carry: Carry,
        *,
        decide_anew: bool,
        fresh: Collection[str] = (),
        reading: Any = None,
    ) -> Carry:
        """Make a carry of a saved tree, and go on reading where it was: see `Program.restored`."""
        restored = super().restored(saved, carry, decide_anew=decide_anew, fresh=fresh)
        if _is_read(self._train) and self._train.resumes == "by state" and reading is not None:
            self._position = (reading["step"], reading["state"])
        return restored

    # What `run` is made of.

    def _feed_at(self, carry: Carry, step: int) -> Feed | Cut:
        """Return what gives the batches from a step on; a run that was left is read anew."""
        seed = _seed_of(carry.key)
        if self._feed is not None and not self._feed.covers(seed, step):
            self.close()
        if self._feed is None:
            if _is_read(self._train):
                self._feed = self._open(self._train, seed, step, position=self._position)
            else:
                self._feed = Cut(self.inputs.train, self.calendar, carry.key, seed)
        self._feed.drop(step)
        return self._feed

    def _open(self, source: HostSource, seed: int, step: int = 0, **how: Any) -> Feed:
        size = chunk_size(source.spec, self._prefetch_bytes)
        together = jax.process_count() > 1  # all must get chunks of one size
        put = self.loop.placement.stacked
        return Feed(source, put, seed=seed, step=step, size=size, partial=not together, **how)

    def _wait_for(self, feed: Feed | Cut, step: int) -> Chunk | None:
        """Return the chunk of a step; None where it is not there in time, or reading failed."""
        begun = time.perf_counter()
        try:
            return feed.chunk(step, None if jax.process_count() > 1 else _PATIENCE)
        except Exception as error:
            self._failed = error  # raised by the next call, which has no carry to lose
            return None
        finally:
            self._waited += time.perf_counter() - begun

    def _compile(self, carry: Carry, feed: Feed | Cut, step: int) -> tuple[Carry, Progress]:
        """Call what is compiled to no effect, as soon as there is a batch."""
        chunk = self._wait_for(feed, step)
        if chunk is None:
            return carry, self.look(carry)
        statics, rate = (self.loop, self.calendar.epoch, chunk.block), self.inputs.learning_rate
        carry, _ = _train(*statics, carry, chunk.batches, rate, _int32([step, step]))
        if not self._read:
            args = (carry, self._resident, {}, rate, _int32([-1, -1]))
            carry = _end_epoch(self.loop, *args)
        self._compiled = True
        return carry, self.look(carry)

    def _validated(self, carry: Carry) -> dict[str, PyTree] | None:
        """Return the metrics' states over the data that is read; None where it is not there yet."""
        if not self._read:
            return {}
        state, found = None, {}
        for name, source in self._read.items():
            known = self._validations.get(name)
            if known is None:
                feed = self._open(source, 0, steps=self._valid_steps, passes=False)
                known = self._validations[name] = _Validation(feed)
            while not known.feed.ended:
                chunk = self._wait_for(known.feed, known.step)
                if chunk is None:
                    if known.feed.ended:
                        break
                    return None
                if state is None:
                    state = _state_to_validate(self.loop, carry, self.inputs.learning_rate)
                span = _int32([chunk.first, chunk.end])
                known.states = observe(self.loop, known.states, state, chunk.batches, span)
                known.step = chunk.end
                known.feed.drop(chunk.end)
            found[name] = known.states
        for known in self._validations.values():
            known.feed.close()
        self._validations = {}
        return found


@dataclasses.dataclass
class _Validation:
    """How far a validation has come."""

    feed: Feed
    step: int = 0
    states: PyTree = None


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
            self._pass = index, _order(self._data, self._key, _int32(index))
        order, first = self._pass[1], index * calendar.data_pass
        if position < calendar.full:
            end = first + calendar.full
            return Chunk(first, end, OfPass(self._data, order, _int32(first)), calendar.block)
        last = jax.tree.map(lambda x: x[None], _last_batch(self._data, order))
        transform = getattr(self._data, "transform", None)
        return Chunk(step, step + 1, Stacked(last, _int32(step), transform))

    def drop(self, step: int) -> None:
        """Forget what is done: nothing is held."""

    def close(self) -> None:
        """Give back threads and files: there are none."""


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
            getattr(source, "transform", None),
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


def _is_read(source: Any) -> bool:
    return isinstance(source, HostSource)


def _contents(source: HostSource) -> Any:
    return source.signature().get("fingerprint")


def _int32(value: int | list[int]) -> jax.Array:
    """Return integers on the device: together, as moving them takes longer than a dispatch."""
    return jax.device_put(np.asarray(value, np.int32))  # explicitly, for `jax.transfer_guard`


def _seed_of(key: jax.Array) -> int:
    """Return a 64-bit number made of the key of a run's shuffles, for sources on the host."""
    data = np.asarray(jax.device_get(jax.random.key_data(Keys.of(key).shuffle)))
    return int.from_bytes(data.tobytes()[:8], "little")


def _halted(calls: collections.deque[tuple[int, jax.Array]], feed: Feed | Cut, keep: int) -> bool:
    """Return whether one of the calls but the newest so many did not come to its end.

    The chunks are dropped of those that did, but for the newest call's: it has the mark at which
    a save goes on.
    """
    while len(calls) > keep:
        until, reached = calls.popleft()
        step, stop, save = jax.device_get(reached)
        if step < until or stop != StopReason.NONE or save:
            return True
        if calls:
            feed.drop(until)
    return False


@jax.jit
def _order(data: IndexedSource, key: jax.Array, index: jax.Array) -> Any:
    return data.order(key, index)


@jax.jit
def _last_batch(data: IndexedSource, order: Any) -> Batch:
    return data.last_batch(order)


@compiled(static_argnums=(0, 1, 2), donate_argnums=3)
def _train(
    loop: Loop,
    epoch_steps: int,
    block: int,
    carry: Carry,
    batches: Any,
    rate: Any,
    span: jax.Array,
) -> tuple[Carry, jax.Array]:
    """Train from a step to another, on batches that reach so far; not from an earlier step.

    Returns:
        The carry; and its step, its stop and its save, which outlive it.
    """
    key = Keys.of(carry.key).step
    start, until = span

    def goes_on(carry: Carry) -> jax.Array:
        step, signal = carry.clock.step, carry.signal
        asked = (signal.stop != StopReason.NONE) | signal.save
        return (step >= start) & (step < until) & ~asked

    def train(carry: Carry) -> Carry:
        first = carry.clock.step
        batch_at = lambda i: batches.batch(first + i)
        steps = loop.train_block(
            loop.begin_steps(carry), first, block, batch_at, batches.transform, key, rate
        )
        return loop.end_steps(carry, steps, first + block)

    carry = lax.while_loop(goes_on, lambda carry: loop.begun(carry, epoch_steps, train), carry)
    signal = carry.signal
    reached = [carry.clock.step, signal.stop, signal.save.astype(jnp.int32)]
    return carry, jnp.stack(reached)


@compiled(static_argnums=0)
def _state_to_validate(loop: Loop, carry: Carry, rate: Any) -> TrainState:
    return loop.begin_validation(carry, rate).state.for_evaluation


@compiled(static_argnums=0)
def observe(
    loop: Loop, states: PyTree, state: TrainState, batches: Stacked, span: jax.Array
) -> PyTree:
    """Take the validation metrics past the batches of a chunk."""
    first, end = span
    batch_at = lambda i: transformed(batches.transform, batches.batch(i), None)
    if states is None:
        states = loop.empty_validation(state, jax.eval_shape(batch_at, first))
    step = lambda i, states: loop.validate_block(states, state, batch_at(i), i)
    return lax.fori_loop(first, end, step, states)


@compiled(static_argnums=0, donate_argnums=1)
def _end_epoch(
    loop: Loop,
    carry: Carry,
    resident: Mapping[str, IndexedSource],
    states: Mapping[str, PyTree],
    rate: Any,
    where: jax.Array,
) -> Carry:
    """End an epoch, unless the carry has not come there: to its last step, of this epoch."""
    step, epoch = where

    def end(carry: Carry) -> Carry:
        carry = loop.begin_validation(carry, rate)
        state = carry.state.for_evaluation
        found = {name: loop.validate_pass(state, data) for name, data in resident.items()}
        return loop.end_epoch(carry, rate, {**found, **states})

    is_there = (carry.clock.step == step) & (carry.clock.epoch == epoch)
    return apply_if(is_there, end, carry)
