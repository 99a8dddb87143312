"""The one pytree that a run is, and what the program reads beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._types import Clock, PyTree, ScheduleFn, Signal, TrainState
from odyssey_jax.callbacks import History, Ranking
from odyssey_jax.data import IndexedSource


class Carry(NamedTuple):
    """Everything that a run is: saving the carry is saving the run.

    Attributes:
        clock: Steps and epochs done; shared by the members of a population.
        state: Parameters, model state and optimizer state.
        key: The root PRNG key; every other key is derived from it and the clock.
        callbacks: The callbacks' states.
        metrics: The training metrics' partial sums of the running epoch.
        latest: The metrics of the last epoch that ended, arrays of any shape included.
        signal: What the callbacks ask for; a stop stays.
        samples: Outputs of single train steps, name to float32 [capacity], or None.
        history: A row for each epoch that ended, or None where the loop keeps none.
        ranking: The best epochs so far, where the best are saved, or None. It follows from the
            history, so it is not saved: another `keep_best` applies from a resume on.
    """

    clock: Clock
    state: TrainState
    key: jax.Array
    callbacks: PyTree
    metrics: PyTree
    latest: dict[str, jax.Array]
    signal: Signal
    samples: dict[str, jax.Array] | None = None
    history: History | None = None
    ranking: Ranking | None = None


class Inputs(NamedTuple):
    """What the program reads and never changes.

    Attributes:
        train: The training data.
        valid: The validation data, several sets of it by name, or None.
        learning_rate: The schedule, where the optimizer is made from one. Its hyper-parameters
            are data: other values need no other program.
        total_steps: Int32 scalar, the train steps of the whole run, for a loss that asks for its
            `progress`; data as well. None where no loss does.
    """

    train: IndexedSource
    valid: IndexedSource | Mapping[str, IndexedSource] | None = None
    learning_rate: ScheduleFn | None = None
    total_steps: Any = None


class Keys(NamedTuple):
    """The root key's children, one for each use, so that no two uses share a stream."""

    step: jax.Array
    shuffle: jax.Array
    init: jax.Array

    @classmethod
    def of(cls, root: jax.Array) -> Keys:
        """Derive them; the same root always gives the same ones."""
        return cls(*_children(root))

    @classmethod
    def init_of(cls, root: jax.Array) -> jax.Array:
        """Derive the one for the parameters, by a program that making a Flax model has compiled."""
        return jax.random.fold_in(root, cls._fields.index("init"))


_BATCHES = "threefry2x32"  # the kind of keys of which a batch draws what each draws alone


@jax.jit
def _children(root: jax.Array) -> list[jax.Array]:
    """Derive the keys in one call: each of its own would take 0.5 ms of every run."""
    uses = range(len(Keys._fields))
    if str(jax.random.key_impl(root)) != _BATCHES:
        return [jax.random.fold_in(root, use) for use in uses]
    # As a batch, which is one hash to compile, here and within every program: 0.1 s less.
    return list(jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(uses)))


def evaluation_key(root: jax.Array) -> jax.Array:
    """Derive the key of a run's validation: another child of the root than `Keys` are."""
    return jax.random.fold_in(root, len(Keys._fields))


def hook_key(root: jax.Array, step: int) -> jax.Array:
    """Derive the key of what the host does at a step: of another child of the root."""
    return jax.random.fold_in(jax.random.fold_in(root, len(Keys._fields) + 1), step)


def fresh_copy(tree: Any) -> Any:
    """Copy every array into a buffer of its own, strongly typed.

    The carry is donated, so it may hold neither what the caller still owns nor one buffer
    twice; and with a weak type the second call would need another program than the first.
    """
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)
