"""What is read of an optimizer's state: its parts, and where a schedule-free one is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._pytree import node

PyTree = Any


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


def averages_itself(opt_state: PyTree) -> bool:
    """Return whether an optimizer is schedule-free, and evaluated at other parameters."""
    return any(map(_is_free, jax.tree.leaves(opt_state, is_leaf=_is_free)))


def _is_free(x: Any) -> bool:
    return isinstance(x, optax.contrib.ScheduleFreeState)


def _is_parts(x: Any) -> bool:
    return isinstance(x, Parts)


def without_schedule(params: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]:
    """Move schedule-free parameters to where they are evaluated, once: $z$ moves with them."""
    is_masked = lambda x: isinstance(x, optax.MaskedNode)

    def moved(node: Any) -> Any:
        nonlocal params
        if _is_parts(node):
            found = {name: without_schedule(params[name], own) for name, own in node.items()}
            params = {**params, **{name: own for name, (own, _) in found.items()}}
            return Parts({name: own for name, (_, own) in found.items()})
        if not _is_free(node):
            return node

        # Where z is masked the parameter is another group's.
        one = lambda z, y: y if is_masked(z) else schedule_free_param(y, z, node.b1)
        params = jax.tree.map(one, node.z, params, is_leaf=is_masked)
        like = lambda z, x: z if is_masked(z) else x.astype(z.dtype)
        return node._replace(z=jax.tree.map(like, node.z, params, is_leaf=is_masked))

    opt_state = jax.tree.map(moved, opt_state, is_leaf=lambda x: _is_free(x) or _is_parts(x))
    return params, opt_state


def schedule_free_param(y: Any, z: Any, b1: Any) -> Any:
    """Return where a schedule-free parameter is evaluated, $x = (y - (1 - b_1) z) / b_1$."""
    wide = jnp.promote_types(y.dtype, z.dtype)
    b1 = b1.astype(wide)
    return ((y.astype(wide) - (1 - b1) * z.astype(wide)) / b1).astype(y.dtype)


def schedule_free_states(opt_state: PyTree) -> list[tuple[str, str]]:
    """Return the part of the parameters that each schedule-free state is of, and its path."""
    found: list[tuple[str, str]] = []
    is_leaf = lambda x: _is_free(x) or _is_parts(x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_leaf):
        here = jax.tree_util.keystr(path, simple=True, separator="/")
        if _is_free(leaf):
            found.append(("", here))
        for name, own in leaf.items() if _is_parts(leaf) else ():
            below = _joined(here, "inner_states", name)
            pairs = schedule_free_states(own)
            found += [(_joined(name, part), _joined(below, path)) for part, path in pairs]
    return found


def _joined(*names: str) -> str:
    return "/".join(filter(None, names))
