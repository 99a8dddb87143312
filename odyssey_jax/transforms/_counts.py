"""What an optimizer counts for the run, and not for its parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._types import PyTree
from odyssey_jax.transforms._loss_scale import LossScaleState

_INJECTED = optax.InjectStatefulHyperparamsState
_SKIPPING = optax.ApplyIfFiniteState
# What counts its calls, and has another's state in it.
_AROUND = (_INJECTED, _SKIPPING, optax.ConditionallyMaskState, optax.ConditionallyTransformState)


def with_counts_of(opt_state: PyTree, other: PyTree) -> PyTree:
    """An optimizer's state whose schedules, and count of skipped updates, are another's.

    A state that is gone back to is that of an earlier step, and the schedule goes on with the
    clock. What belongs to the parameters stays, such as Adam's moments and their own count.
    """

    def moved(mine: Any, others: Any) -> Any:
        if isinstance(mine, _schedules()):
            return others
        if isinstance(mine, _AROUND):
            inner = with_counts_of(mine.inner_state, others.inner_state)
            return others._replace(inner_state=inner)
        if isinstance(mine, optax.MultiStepsState):
            # Which of the steps of an update is next; the gradients so far stay, for they are
            # finite.
            inner = with_counts_of(mine.inner_opt_state, others.inner_opt_state)
            return others._replace(inner_opt_state=inner, acc_grads=mine.acc_grads)
        if isinstance(mine, LossScaleState):
            return others._replace(inner=with_counts_of(mine.inner, others.inner))
        return mine

    kinds = (*_schedules(), *_AROUND, optax.MultiStepsState, LossScaleState)
    return jax.tree.map(moved, opt_state, other, is_leaf=lambda x: isinstance(x, kinds))


@functools.cache
def _schedules() -> tuple[type, ...]:
    """The states that are the count of a schedule; Optax does not name that of a decay's."""
    decay = optax.add_decayed_weights(lambda count: 0.0).init(())
    return optax.ScaleByScheduleState, type(decay)


def skipped_updates(opt_state: PyTree) -> dict[str, jax.Array]:
    """How many updates were left out so far; nothing where none can be.

    By `optax.apply_if_finite` or a loss scale.
    """
    kinds = (_SKIPPING, LossScaleState)
    counts = list(_skipped(opt_state, kinds))
    return {"skipped_updates": jnp.asarray(sum(counts), jnp.float32)} if counts else {}


def _skipped(opt_state: PyTree, kinds: Any) -> Iterator[jax.Array]:
    """The counts of each, and of those within it."""
    is_one = lambda x: isinstance(x, kinds)
    for found in jax.tree.leaves(opt_state, is_leaf=is_one):
        if isinstance(found, LossScaleState):
            yield found.skipped
            yield from _skipped(found.inner, kinds)
        elif isinstance(found, _SKIPPING):
            yield found.total_notfinite
            yield from _skipped(found.inner_state, kinds)
