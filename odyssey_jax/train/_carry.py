"""The one pytree that a run is, and what the program reads beside it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._types import Clock, PyTree, ScheduleFn, Signal, TrainState
from odyssey_jax.data import ArrayDataset


class Carry(NamedTuple):
    """Everything that a run is: saving the carry is saving the run.

    Args:
        clock: steps and epochs done; shared by the members of a population.
        state: parameters, model state and optimizer state.
        key: the root PRNG key; every other key is derived from it and the clock.
        callbacks: the callbacks' states.
        metrics: the training metrics' partial sums of the running epoch.
        latest: the metrics of the last epoch that ended, arrays of any shape included.
        signal: what the callbacks ask for; a stop stays.
        samples: outputs of single train steps, name to float32 [capacity], or None.
    """

    clock: Clock
    state: TrainState
    key: jax.Array
    callbacks: PyTree
    metrics: PyTree
    latest: dict[str, jax.Array]
    signal: Signal
    samples: dict[str, jax.Array] | None = None


class Inputs(NamedTuple):
    """What the program reads and never changes.

    Args:
        train: the training data.
        valid: the validation data, or None.
        learning_rate: the schedule, where the optimizer is made from one. Its hyper-parameters
            are data: other values need no other program.
    """

    train: ArrayDataset
    valid: ArrayDataset | None = None
    learning_rate: ScheduleFn | None = None


class Keys(NamedTuple):
    """The root key's children, one for each use, so that no two uses share a stream."""

    step: jax.Array
    shuffle: jax.Array
    init: jax.Array

    @classmethod
    def of(cls, root: jax.Array) -> Keys:
        """Derives them; the same root always gives the same ones."""
        return cls(*(jax.random.fold_in(root, use) for use in range(len(cls._fields))))


def own(tree: PyTree) -> PyTree:
    """Copies every array into a buffer of its own, strongly typed.

    The carry is donated, so it may hold neither what the caller still owns nor one buffer
    twice; and a weak type would make the second call another program than the first.
    """
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)
