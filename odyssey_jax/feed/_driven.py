"""A run driven from the host: the epoch's functions are jitted, and batches are handed in."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import PyTree, StopReason, Task, Told, TrainState
from odyssey_jax.data import HostSource, IndexedSource
from odyssey_jax.feed._chunks import Chunk, Cut, Stacked, chunk_size, int32
from odyssey_jax.feed._feed import Feed
from odyssey_jax.feed._stand_in import StandIn
from odyssey_jax.parallel import decide
from odyssey_jax.train import (
    Carry,
    Compiled,
    Finished,
    Inputs,
    Keys,
    Loop,
    Progress,
    Reading,
    Resident,
    as_sets,
    compiled,
    has_untrained,
    scalars,
    to_validate,
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
        self._sets = as_sets(self.inputs.valid)  # where the loop's placement has put them
        self._resident = {name: x for name, x in self._sets.items() if not _is_read(sets[name])}
        self._read = {name: x for name, x in sets.items() if _is_read(x)}
        self._valid_steps, self._prefetch_bytes = valid_steps, prefetch_bytes
        if _is_read(self._train):  # handed in one by one, a block is of no use
            self.calendar = self.calendar._replace(block=1)
        self._feed: Feed | Cut | None = None
        self._validations: dict[str, _Validation] = {}
        self._empty: dict[str, PyTree] = {}
        self._position: tuple[int, Any] | None = None
        self._failed: Exception | None = None
        self._compiled, self._waited = False, 0.0

    def run(
        self, carry: Carry, limit: int, columns: Mapping[str, float] | None = None
    ) -> tuple[Carry, Progress]:
        """Train to a step, or until the host is asked for, or the data is not there.

        Args:
            carry: The run; it is donated.
            limit: The step.
            columns: What the hooks have measured, where the last call came up for that.

        Raises:
            Exception: What reading the data has raised, once all before it is trained on; the
                carry given is good then.
        """
        if self._failed is not None:
            raise self._failed
        carry = self.with_room(carry, limit)
        clock, save = jax.device_get((carry.clock, carry.signal.save))
        step, epoch = int(clock.step), int(clock.epoch)
        if save and self.calendar.epochs(step) == epoch:  # the host has seen it
            cleared = jnp.zeros_like(carry.signal.save)
            carry = carry._replace(signal=carry.signal._replace(save=cleared))
        feed = self._feed_at(carry, step)
        if limit <= step and not self._compiled:
            return self._compile(carry, feed, step)
        given, validating, asks = self._given, False, False
        calls: collections.deque[tuple[int, jax.Array]] = collections.deque()
        while True:
            if self.calendar.epochs(step) > epoch:
                due = [x for x in self._read if self.loop.evaluation(x).is_due(epoch)]
                wanted = self.loop.columns_due(epoch)
                if (due or wanted) and not _is_at(calls, step):
                    break
                if wanted and columns is None:
                    validating = asks = True
                    break
                states = self._validated(carry, due)
                if states is None:
                    validating = True
                    break
                states |= self._not_validated(carry, states)
                found = self.loop.given_columns(columns if wanted else None)
                args = (self._resident, states, found, given, int32([step, epoch]))
                carry = self._called(_end_epoch, (), carry, *args)
                epoch, columns = epoch + 1, None
            if step >= limit or _halted(calls, feed, keep=_AHEAD):
                break
            chunk = self._wait_for(feed, step)
            if chunk is None:
                break
            until = min(limit, chunk.end, self.calendar.epoch_end(step))
            until = step + -(-(until - step) // chunk.block) * chunk.block
            statics = (self.calendar.epoch, chunk.block)
            args = (chunk.batches, given, int32([step, until]))
            carry, reached = self._called(_train, statics, carry, *args)
            step = until
            calls.append((step, reached))
        return carry, self.look(carry, validating, asks)

    def _called(
        self, function: Compiled, statics: tuple[Any, ...], carry: Carry, *args: Any
    ) -> Any:
        """Call what changes the carry, and see of each form of it what it leaves as it was."""
        if has_untrained(carry):
            leaves, structure = jax.tree.flatten(args)
            form = (function, statics, structure, *map(jax.typeof, leaves))
            if form not in self._watched:
                self._watch(function.jaxpr(self.loop, *statics, carry, *args), carry, form)
        return function(self.loop, *statics, carry, *args)

    def look(self, carry: Carry, validating: bool = False, columns: bool = False) -> Progress:
        """Return the progress of a carry as it is."""
        marks = [] if self._position is None else [self._position]
        seconds = float("nan")
        if isinstance(self._feed, Feed):
            marks += self._feed.marks
            if self._train.resumes == "by skipping":
                seconds = self._feed.seconds_per_batch
        reading = Reading(marks, validating, self._waited, seconds, columns)
        return super().look(carry)._replace(reading=reading)

    def measure(
        self, carry: Carry, sets: Collection[str], leave: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """Measure sets of the validation data with a carry as it is; None where it is left.

        Raises:
            Exception: What reading the data has raised.
        """
        found = super().measure(carry, [name for name in sets if name in self._resident])
        read = [name for name in sets if name in self._read]
        while (states := self._validated(carry, read)) is None:
            if self._failed is not None:
                raise self._failed
            if leave():
                return None
        return (found or {}) | scalars(_measured(self.loop, states))

    def finish(self, carry: Carry) -> Finished:
        """Let the callbacks act at the end of the training, such as to restore the best."""
        self.close()
        return super().finish(carry)

    def close(self) -> None:
        """End the threads that read ahead."""
        for feed in (self._feed, *(validation.feed for validation in self._validations.values())):
            if feed is not None:
                feed.close()
        self._feed, self._validations, self._failed = None, {}, None

    def made_of(self, carry: Carry) -> dict[str, Any]:
        """Return fingerprints of what the run is made of: see `Program.made_of`."""
        made_of = super().made_of(carry)
        if _is_read(self._train):
            made_of["training data"] = _contents(self._train)
        if self._read:
            read = {name: _contents(source) for name, source in self._read.items()}
            made_of["validation data"] = [made_of["validation data"], read]
            made_of["number of batches to validate with"] = self._valid_steps
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

    def _go_on(self, carry: Carry) -> Carry:
        return carry  # `run` ends an epoch first whose steps are done

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
        """Return the chunk of a step; None where it is not there in time, or reading failed.

        What failed is raised by the next call, which has no carry to lose. Several processes go
        as far as each has a share, or none goes on: they would wait for one another's.
        """
        begun, chunk = time.perf_counter(), None
        try:
            chunk = feed.chunk(step, None if jax.process_count() > 1 else _PATIENCE)
        except Exception as error:
            self._failed = error
        self._waited += time.perf_counter() - begun
        if jax.process_count() == 1:
            return chunk
        own = None if self._failed else step if chunk is None else chunk.end
        ends = decide(own, list, "the batches that are read")
        if None in ends:
            return None
        if min(ends) == step < max(ends):
            read = ", ".join(f"{end - step:,} by process {i}" for i, end in enumerate(ends))
            self._failed = ValueError(
                f"the processes read different numbers of batches from step {step:,} on: {read}. "
                "Give each a share of as many batches."
            )
            return None
        return None if chunk is None else chunk._replace(end=min(ends))

    def _compile(self, carry: Carry, feed: Feed | Cut, step: int) -> tuple[Carry, Progress]:
        """Call what is compiled to no effect, as soon as there is a batch."""
        chunk = self._wait_for(feed, step)
        if chunk is None:
            return carry, self.look(carry)
        statics, given = (self.loop, self.calendar.epoch, chunk.block), self._given
        carry, _ = _train(*statics, carry, chunk.batches, given, int32([step, step]))
        if not self._read:
            found = self.loop.given_columns()
            args = (carry, self._resident, {}, found, given, int32([-1, -1]))
            carry = _end_epoch(self.loop, *args)
        self._compiled = True
        return carry, self.look(carry)

    def _validated(self, carry: Carry, names: Collection[str]) -> dict[str, PyTree] | None:
        """Return the metrics' states over sets that are read; None where they're not there yet."""
        validated, found = None, {}
        for name in names:
            known, how = self._validations.get(name), self.loop.evaluation(name)
            if known is None:
                steps = how.batches or self._valid_steps
                feed = self._open(self._read[name], 0, steps=steps, passes=False)
                known = self._validations[name] = _Validation(feed)
            while not known.feed.ended:
                chunk = self._wait_for(known.feed, known.step)
                if chunk is None:
                    if known.feed.ended:
                        break
                    return None
                if validated is None:
                    validated = to_validate(self.loop, carry, self._given)
                span = int32([known.step, chunk.end])
                args = (known.states, *validated, chunk.batches, span)
                known.states = observe(self.loop, name if how.metrics else "", *args)
                known.step = chunk.end
                known.feed.drop(chunk.end)
            found[name] = known.states
        for known in self._validations.values():
            known.feed.close()
        self._validations = {}
        return found

    def _not_validated(self, carry: Carry, found: Collection[str]) -> dict[str, PyTree]:
        """Return the states of the other sets that are read: one form, and so one program."""
        others = [name for name in self._read if name not in found]
        for name in others:
            if name not in self._empty:
                states = _empty(self.loop, name, carry, self._sets[name], self._given)
                self._empty[name] = self.loop.placement.put(states)
        return {name: self._empty[name] for name in others}


@dataclasses.dataclass
class _Validation:
    """How far a validation has come."""

    feed: Feed
    step: int = 0
    states: PyTree = None


def _is_read(source: Any) -> bool:
    return isinstance(source, HostSource)


def _contents(source: HostSource) -> Any:
    return source.signature().get("fingerprint")


def _seed_of(key: jax.Array) -> int:
    """Return a 64-bit number made of the key of a run's shuffles, for sources on the host."""
    data = np.asarray(jax.device_get(jax.random.key_data(Keys.of(key).shuffle)))
    return int.from_bytes(data.tobytes()[:8], "little")


def _is_at(calls: collections.deque[tuple[int, jax.Array]], step: int) -> bool:
    """Return whether the newest call has come to a step: a stop there does not keep it from it."""
    return not calls or int(jax.device_get(calls[-1][1])[0]) == step


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


@compiled(static_argnums=(0, 1, 2), donate_argnums=3)
def _train(
    loop: Loop,
    epoch_steps: int,
    block: int,
    carry: Carry,
    batches: Any,
    given: Inputs,
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
            loop.begin_steps(carry), first, block, batch_at, batches.transform, key, given
        )
        return loop.end_steps(carry, steps, first + block)

    carry = lax.while_loop(goes_on, lambda carry: loop.begun(carry, epoch_steps, train), carry)
    carry = loop.placed(carry)
    signal = carry.signal
    reached = [carry.clock.step, signal.stop, signal.save.astype(jnp.int32)]
    return carry, jnp.stack(reached)


@compiled(static_argnums=(0, 1))
def observe(
    loop: Loop,
    name: str,
    states: PyTree,
    state: TrainState,
    where: Told,
    batches: Stacked,
    span: jax.Array,
) -> PyTree:
    """Take the validation metrics past the batches of a chunk.

    The name is that of a set with metrics of its own: the others share a program.
    """
    first, end = span
    batch_at = lambda i: transformed(batches.transform, batches.batch(i), None)
    if states is None:
        first_batch = jax.eval_shape(batch_at, first)
        states = loop.empty_validation(state, first_batch, where, name)
    step = lambda i, states: loop.validate_block(states, state, batch_at(i), i, where, name)
    return lax.fori_loop(first, end, step, states)


@compiled(static_argnums=(0, 1))
def _empty(loop: Loop, name: str, carry: Carry, data: StandIn, given: Inputs) -> PyTree:
    where = loop.where_validated(carry, given.total_steps)
    return loop.empty_pass(carry.state.for_evaluation, data, where, name)


@compiled(static_argnums=0)
def _measured(loop: Loop, states: Mapping[str, PyTree]) -> dict[str, Any]:
    return loop.measured(states)


@compiled(static_argnums=0, donate_argnums=1)
def _end_epoch(
    loop: Loop,
    carry: Carry,
    resident: Mapping[str, IndexedSource],
    states: Mapping[str, PyTree],
    columns: Mapping[str, jax.Array],
    given: Inputs,
    span: jax.Array,
) -> Carry:
    """End an epoch, unless the carry has not come there: to its last step, of this epoch."""
    step, epoch = span

    def end(carry: Carry) -> Carry:
        carry = loop.begin_validation(carry, given.learning_rate)
        state = carry.state.for_evaluation
        where, at = loop.where_validated(carry, given.total_steps), carry.clock.epoch
        of = lambda name, data: loop.validate(state, data, where, name, at)
        found = {name: of(name, data) for name, data in resident.items()}
        return loop.end_epoch(carry, given.learning_rate, {**found, **states}, columns)

    is_there = (carry.clock.step == step) & (carry.clock.epoch == epoch)
    return loop.placed(apply_if(is_there, end, carry))
