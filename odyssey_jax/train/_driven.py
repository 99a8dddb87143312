"""A run driven from the host: batches are handed in, and the epoch's functions are jitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import Batch, Point, PyTree, StopReason, TrainState
from odyssey_jax.data import IndexedSource
from odyssey_jax.train._carry import Carry, Keys
from odyssey_jax.train._epoch import Steps
from odyssey_jax.train._loop import Loop
from odyssey_jax.train._program import Progress
from odyssey_jax.train._programs import compiled
from odyssey_jax.train._resident import Resident


class Driven(Resident):
    """A `Program` whose batches come from the host: the calls of `Loop.run`, one by one.

    It computes what `Resident` does, up to rounding: XLA fuses the two differently. Here the
    batches are cut from the same indexed sources; a stream hands in its own.
    """

    def run(self, carry: Carry, limit: int) -> tuple[Carry, Progress]:
        """Train to a step, or until the host is asked for; the carry given is donated."""
        carry = self.with_room(carry, limit)
        loop, calendar, rate = self.loop, self.calendar, self.inputs.learning_rate
        carry = carry._replace(signal=carry.signal._replace(save=jnp.zeros_like(carry.signal.save)))
        while not self._done(carry, limit):
            if {Point.TRAIN_BEGIN, Point.EPOCH_BEGIN} & set(loop.callbacks.points):
                carry = _begin(loop, calendar.epoch, carry)
                if int(carry.signal.stop):
                    break
            batches, count = self._next(carry)
            carry = _train(loop, count, carry, batches, rate)
            if calendar.ends_epoch(int(carry.clock.step)):
                carry = _begin_validation(loop, carry, rate)
                carry = _end_epoch(loop, carry, rate, self._validate(carry))
        return carry, self.look(carry)

    def _done(self, carry: Carry, limit: int) -> bool:
        step, stop, save = jax.device_get((carry.clock.step, carry.signal.stop, carry.signal.save))
        return step >= limit or stop != StopReason.NONE or bool(save)

    def _next(self, carry: Carry) -> tuple[Batch, int]:
        """Return the batches of the next block, stacked, and how many there are."""
        train, calendar = self.inputs.train, self.calendar
        index, position = divmod(int(carry.clock.step), calendar.data_pass)
        order = _order(train, Keys.of(carry.key).shuffle, np.int32(index))
        if position == calendar.full:
            last = train.last_batch(order)
            return jax.tree.map(lambda x: x[None], last), 1
        batches = [train.batch(order, position + i) for i in range(calendar.block)]
        return jax.tree.map(lambda *x: jnp.stack(x), *batches), calendar.block

    def _validate(self, carry: Carry) -> PyTree:
        if self.inputs.valid is None:
            return None
        states, state = None, carry.state.for_evaluation
        for index, batch in enumerate(_batches(self.inputs.valid)):
            if states is None:
                states = self.loop.empty_validation(state, batch)
            states = _validate(self.loop, states, state, batch, np.int32(index))
        return states


def _batches(data: IndexedSource) -> Iterator[Batch]:
    for index in range(data.full_batches):
        yield data.batch(None, index)
    if data.remainder:
        yield data.last_batch(None)


@jax.jit
def _order(train: IndexedSource, key: jax.Array, index: jax.Array) -> Any:
    return train.order(key, index)


@compiled(static_argnums=(0, 1), donate_argnums=2)
def _begin(loop: Loop, epoch_steps: int, carry: Carry) -> Carry:
    return loop.begin(carry, epoch_steps)


@compiled(static_argnums=(0, 1), donate_argnums=2)
def _train(loop: Loop, count: int, carry: Carry, batches: Batch, rate: Any) -> Carry:
    first, key = carry.clock.step, Keys.of(carry.key).step
    batch_at = lambda i: jax.tree.map(lambda x: x[i], batches)
    steps: Steps = loop.train_block(loop.begin_steps(carry), first, count, batch_at, key, rate)
    return loop.end_steps(carry, steps, first + count)


@compiled(static_argnums=0)
def _validate(loop: Loop, states: PyTree, state: TrainState, batch: Batch, index: Any) -> PyTree:
    return loop.validate_block(states, state, batch, index)


@compiled(static_argnums=0, donate_argnums=1)
def _begin_validation(loop: Loop, carry: Carry, rate: Any) -> Carry:
    return loop.begin_validation(carry, rate)


@compiled(static_argnums=0, donate_argnums=1)
def _end_epoch(loop: Loop, carry: Carry, rate: Any, validated: PyTree) -> Carry:
    return loop.end_epoch(carry, rate, validated)
