"""What is known of an optimizer: what its update names, its parts, where it is evaluated."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._pytree import node

PyTree = Any


def with_named_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Give a transformation those extra arguments that it names, or all if it takes any.

    `optax.with_extra_args_support` gives all to one that takes some: SAM's takes `grad_fn` alone.
    """
    inner = optax.with_extra_args_support(optimizer)
    named = inspect.signature(inner.update).parameters
    if any(x.kind is inspect.Parameter.VAR_KEYWORD for x in named.values()):
        return inner

    def update(updates, state, params=None, **extra):
        extra = {name: x for name, x in extra.items() if name in named}
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


@node
@dataclasses.dataclass(frozen=True)
class Parts(Mapping[str, Any]):
    """The states of several optimizers by name, one for each part of the parameters.

    A mapping, to read; `states | {"g": new}` is one with another state.

    Attributes:
        inner_states: Name to state.
    """

    inner_states: dict[str, PyTree]

    def __getitem__(self, name: str) -> PyTree:
        return self.inner_states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner_states)

    def __len__(self) -> int:
        return len(self.inner_states)

    def __or__(self, other: Mapping[str, PyTree]) -> Parts:
        return Parts({**self.inner_states, **other})


class SlowParamsState(NamedTuple):
    """The state of `optax.lookahead`, whose slow parameters are kept in it.

    Attributes:
        inner_state: The optimizer's own.
        slow: The slow parameters, which are those to evaluate.
    """

    inner_state: PyTree
    slow: PyTree


def holds(opt_state: PyTree, is_one: Callable[[Any], bool]) -> bool:
    """Return whether there is such a state in an optimizer's."""
    return any(map(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


def evaluates_elsewhere(opt_state: PyTree) -> bool:
    """Return whether an optimizer is evaluated at other parameters than those that it trains.

    So are schedule-free ones, `optax.lookahead`, and `optax.contrib.sam` that takes turns.
    """
    return holds(opt_state, _moves)


def takes_turns(x: Any) -> bool:
    """Return whether a state is of `optax.contrib.sam` that perturbs the parameters it is given."""
    return isinstance(x, optax.contrib.SAMState) and x.cache is not None


def _is_free(x: Any) -> bool:
    return isinstance(x, optax.contrib.ScheduleFreeState)


def _moves(x: Any) -> bool:
    return _is_free(x) or takes_turns(x) or isinstance(x, SlowParamsState)


def _is_parts(x: Any) -> bool:
    return isinstance(x, Parts)


def at_evaluation(params: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]:
    """Move parameters to where they are evaluated, once: the optimizer's state moves with them."""

    def moved(node: Any) -> Any:
        nonlocal params
        if _is_parts(node):
            found = {name: at_evaluation(params[name], own) for name, own in node.items()}
            params = {**params, **{name: own for name, (own, _) in found.items()}}
            return Parts({name: own for name, (_, own) in found.items()})
        if isinstance(node, SlowParamsState):
            params = node.slow
        elif takes_turns(node):
            kept = lambda x, y: jnp.where(node.steps_since_sync == 0, y, x)
            params = _unless_masked(kept, node.cache, params)
            params, own = at_evaluation(params, node.opt_state)
            start = jnp.zeros_like(node.steps_since_sync)
            return node._replace(steps_since_sync=start, opt_state=own)
        elif _is_free(node):
            one = lambda z, y: schedule_free_param(y, z, node.b1)
            params = _unless_masked(one, node.z, params)
            like = lambda z, x: z if _is_masked(z) else x.astype(z.dtype)
            return node._replace(z=jax.tree.map(like, node.z, params, is_leaf=_is_masked))
        return node

    opt_state = jax.tree.map(moved, opt_state, is_leaf=lambda x: _moves(x) or _is_parts(x))
    return params, opt_state


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _unless_masked(function: Callable[[Any, Any], Any], tree: PyTree, params: PyTree) -> PyTree:
    """Map a tree of an optimizer's and the parameters; where it is masked they are another's."""
    one = lambda x, y: y if _is_masked(x) else function(x, y)
    return jax.tree.map(one, tree, params, is_leaf=_is_masked)


def schedule_free_param(y: Any, z: Any, b1: Any) -> Any:
    """Return where a schedule-free parameter is evaluated, $x = (y - (1 - b_1) z) / b_1$."""
    wide = jnp.promote_types(y.dtype, z.dtype)
    b1 = b1.astype(wide)
    return ((y.astype(wide) - (1 - b1) * z.astype(wide)) / b1).astype(y.dtype)


class Elsewhere(NamedTuple):
    """Where in an optimizer's state lies what a part of the parameters is evaluated at.

    Attributes:
        kind: "params" of the parameters themselves, "schedule_free" of a schedule-free state.
        part: The part of the parameters, "" of all.
        path: The path in the state.
    """

    kind: str
    part: str
    path: str


def found_elsewhere(opt_state: PyTree) -> list[Elsewhere]:
    """Return where an optimizer's state, on the host, has what `at_evaluation` takes of it."""
    found: list[Elsewhere] = []
    is_leaf = lambda x: _moves(x) or _is_parts(x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_leaf):
        here = jax.tree_util.keystr(path, simple=True, separator="/")
        if _is_free(leaf):
            found.append(Elsewhere("schedule_free", "", here))
        elif isinstance(leaf, SlowParamsState):
            found.append(Elsewhere("params", "", _joined(here, "slow")))
        elif takes_turns(leaf):
            if int(leaf.steps_since_sync):
                found.append(Elsewhere("params", "", _joined(here, "cache")))
            within = found_elsewhere(leaf.opt_state)
            found += [x._replace(path=_joined(here, "opt_state", x.path)) for x in within]
        elif isinstance(leaf, Parts):
            for name, own in leaf.items():
                below = _joined(here, "inner_states", name)
                found += [
                    Elsewhere(kind, _joined(name, part), _joined(below, path))
                    for kind, part, path in found_elsewhere(own)
                ]
    return found


def _joined(*names: str) -> str:
    return "/".join(filter(None, names))
