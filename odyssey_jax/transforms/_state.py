"""Read and write an optimizer's state: what is in force, what is counted for the run."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey

from odyssey_jax._opt_state import Parts, holds, takes_turns
from odyssey_jax._types import PyTree
from odyssey_jax.transforms._accumulate import AccumulateState
from odyssey_jax.transforms._by_path import ScaleByLayerState
from odyssey_jax.transforms._parts import CountedState
from odyssey_jax.transforms._scales import (
    LossScaleState,
    ScaleByCallbackState,
    ScaleByMetricState,
)
from odyssey_jax.transforms._skip import SkipNotFiniteState, SkipSpikesState

_SCALES = (ScaleByMetricState, ScaleByCallbackState, optax.contrib.ReduceLROnPlateauState)
_INJECTED = optax.InjectStatefulHyperparamsState
_SKIPPING = (optax.ApplyIfFiniteState, SkipNotFiniteState, SkipSpikesState)
# What counts its calls, and has another's state in it.
_AROUND = (_INJECTED, *_SKIPPING, optax.ConditionallyMaskState, optax.ConditionallyTransformState)
_AROUND += (CountedState,)
_Group = tuple[Any, ...]

RATE = "learning_rate"


def hyperparams_in_force(
    opt_state: PyTree, learning_rate: jax.Array | Mapping[str, jax.Array] | None = None
) -> dict[str, jax.Array]:
    """Return the hyper-parameters of the last update in an optimizer's state.

    They are the learning rate given, and what `optax.inject_hyperparams` holds: its learning
    rate, and whatever else it schedules (momentum, weight decay). A learning rate is multiplied by
    the scales that hold for it (`scale_by_metric`, `scale_by_callback`, Optax's
    `reduce_on_plateau`): within a group of `optax.partition`, those of that group and of all.

    Args:
        opt_state: The optimizer's state after the update.
        learning_rate: The rate that the optimizer was made of, where that is known; a mapping
            for an optimizer for each part of the parameters.

    Returns:
        Name to float32 scalar: "learning_rate", "momentum" and so on; "learning_rate/<group>"
        where there is one for each group of `optax.partition`, or for each layer of
        `scale_by_layer`. Nothing of what an optimizer keeps to itself.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> sgd = optax.inject_hyperparams(optax.sgd)(0.25, momentum=ody.linear_warmup(0.5, 10))
        >>> found = ody.transforms.hyperparams_in_force(sgd.init(jnp.ones(())))
        >>> {name: float(x) for name, x in found.items()}
        {'learning_rate': 0.25, 'momentum': 0.0}
    """
    values: dict[str, list[tuple[_Group, jax.Array]]] = {}
    for name, group, value in _injected(opt_state, ()):
        value = _scaled(value, group, opt_state) if name == RATE else value
        values.setdefault(name, []).append((group, value))
    in_force: dict[str, jax.Array] = {}
    if isinstance(learning_rate, Mapping):
        own = [(group, x) for group, x in values.pop(RATE, []) if group[0] not in learning_rate]
        values |= {RATE: own} if own else {}
        for name, rate in learning_rate.items():
            in_force[f"{RATE}/{name}"] = _scaled(rate, (name,), opt_state)
    elif learning_rate is not None:
        if [group for group, _ in values.get(RATE, [])] == [()]:  # made of the one given
            del values[RATE]
        in_force[RATE] = _scaled(learning_rate, (), opt_state)
    for name in sorted(values):
        labels = _labels([group for group, _ in values[name]])
        for label, (_, value) in zip(labels, values[name], strict=True):
            alone = len(labels) == 1
            in_force[name if alone else f"{name}/{label}"] = value
    if RATE in in_force:
        for _, layers in _nodes(opt_state, ScaleByLayerState):
            for layer, factor in layers.factors.items():
                in_force[f"{RATE}/{layer}"] = in_force[RATE] * factor
    return in_force


def updates_done(opt_state: PyTree) -> dict[str, jax.Array]:
    """Return how many updates the optimizers of each part have made, where that is counted.

    By a step of one's own, by `optax.MultiSteps`, and by `optax.contrib.sam` that takes turns with
    a schedule; under "" those of the only optimizer.
    """
    found: dict[str, jax.Array] = {}
    for group, node in _nodes(opt_state, optax.contrib.SAMState):
        for _, schedule in _nodes(node.opt_state, optax.ScaleByScheduleState):
            if takes_turns(node):
                found.setdefault("/".join(map(str, group[:1])), schedule.count)
    for kind, count in ((optax.MultiStepsState, "gradient_step"), (CountedState, "updates")):
        for group, node in _nodes(opt_state, kind):
            found.setdefault("/".join(map(str, group[:1])), getattr(node, count))
    return found


def _injected(opt_state: PyTree, outer: _Group) -> Iterator[tuple[str, _Group, jax.Array]]:
    """Yield names, groups and values in `optax.inject_hyperparams`, of the ones in it too."""
    for group, node in _nodes(opt_state, _INJECTED):
        for name, value in node.hyperparams.items():
            if (name == RATE or name in node.hyperparams_states) and jnp.ndim(value) == 0:
                yield name, outer + group, jnp.asarray(value, jnp.float32)
        yield from _injected(node.inner_state, outer + group)


def _scaled(rate: jax.Array, group: _Group, opt_state: PyTree) -> jax.Array:
    for where, state in _nodes(opt_state, _SCALES):
        if group[: len(where)] == where and jnp.ndim(state.scale) == 0:
            rate = rate * jnp.asarray(state.scale, jnp.float32)
    return rate


def _nodes(opt_state: PyTree, kinds: Any) -> list[tuple[_Group, Any]]:
    """Return the nodes of some kinds, and the group of `optax.partition` that each is in."""
    is_one = lambda x: isinstance(x, kinds)
    leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_one)
    return [(_group(path), x) for path, x in leaves if is_one(x)]


def _group(path: Any) -> _Group:
    """Return the labels that a path goes through, of partitions within each other."""
    pairs = itertools.pairwise(path)
    return tuple(key.key for above, key in pairs if above == GetAttrKey("inner_states"))


def _labels(groups: list[_Group]) -> list[str]:
    """Return a name for each group; its place too, where the name alone would be another's."""
    names = ["/".join(map(str, group)) for group in groups]
    if len(set(names)) == len(names) and all(names):
        return names
    return ["/".join(filter(None, [name, str(index)])) for index, name in enumerate(names)]


def with_counts_of(opt_state: PyTree, other: PyTree) -> PyTree:
    """Return an optimizer's state whose schedules, and count of skipped updates, are another's.

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
        if isinstance(mine, AccumulateState):
            inner = with_counts_of(mine.inner_opt_state, others.inner_opt_state)
            return mine._replace(mini_step=others.mini_step, inner_opt_state=inner)
        if isinstance(mine, LossScaleState):
            return others._replace(inner=with_counts_of(mine.inner, others.inner))
        return mine

    kinds = (*_schedules(), *_AROUND, optax.MultiStepsState, AccumulateState, LossScaleState)
    return jax.tree.map(moved, opt_state, other, is_leaf=lambda x: isinstance(x, kinds))


@functools.cache
def _schedules() -> tuple[type, ...]:
    """Return the states that are the count of a schedule; Optax does not name that of a decay's."""
    decay = optax.add_decayed_weights(lambda count: 0.0).init(())
    return optax.ScaleByScheduleState, type(decay)


def skipped_updates(opt_state: PyTree) -> dict[str, jax.Array]:
    """Return how many updates were left out so far; nothing where none can be.

    By `skip_not_finite`, `skip_spikes`, `optax.apply_if_finite` or a loss scale.
    """
    counts = [count for count, _ in _skipped(opt_state)]
    return {"skipped_updates": jnp.asarray(sum(counts), jnp.float32)} if counts else {}


def skipped_by_schedule(opt_state: PyTree, part: str = "") -> jax.Array | None:
    """Return how many updates a schedule in an optimizer was left out of; None if none can be.

    What a loss scale skips is no update to it: see `skipped_by_scale`.

    Args:
        opt_state: The optimizer's state.
        part: The part of the parameters whose optimizer it is, where there is one for each.
    """
    is_one = lambda x: isinstance(x, optax.ScaleByScheduleState)
    if isinstance(opt_state, LossScaleState):
        opt_state = opt_state.inner
    if part:
        opt_state = next(node[part] for _, node in _nodes(opt_state, Parts) if part in node)
    counts = [count for count, within in _skipped(opt_state) if holds(within, is_one)]
    return functools.reduce(operator.add, counts) if counts else None


def _skipped(opt_state: PyTree) -> Iterator[tuple[jax.Array, PyTree]]:
    """Yield the count of each, with what is within it, and of those within it."""
    is_one = lambda x: isinstance(x, (*_SKIPPING, LossScaleState))
    for found in jax.tree.leaves(opt_state, is_leaf=is_one):
        if is_one(found):
            own = not isinstance(found, optax.ApplyIfFiniteState)
            within = found.inner if isinstance(found, LossScaleState) else found.inner_state
            yield (found.skipped if own else found.total_notfinite), within
            yield from _skipped(within)
