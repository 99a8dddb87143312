"""An update that is made or not, where the tree lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxpr_as_fun

from odyssey_jax._types import PyTree


def apply_if(pred: Any, update: Callable[[Any], Any], tree: PyTree) -> Any:
    """Apply an update where a predicate holds.

    A loop of at most one trip, and no `lax.cond`: XLA updates what a loop carries in place, and
    copies what a conditional hands through. Only the leaves that the update changes are carried:
    XLA's time for a loop grows with what it carries, and most updates change little of a run.

    Args:
        pred: Bool scalar.
        update: Tree -> a tree of the same structure, shapes and dtypes.
        tree: What is updated.

    Returns:
        The updated tree, or the tree as it is.

    Raises:
        TypeError: If the update returns another structure, shape or dtype.

    Example:
        >>> [int(apply_if(pred, lambda x: x + 1, jnp.int32(1))) for pred in (False, True)]
        [1, 2]
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        new, new_structure = jax.tree.flatten(update(jax.tree.unflatten(structure, leaves)))
        if new_structure != structure:
            raise TypeError(f"an update must keep the structure {structure}, got {new_structure}.")
        return [jnp.asarray(leaf) for leaf in new]

    # Traced once: which outputs are inputs says which leaves it changes.
    traced = jax.make_jaxpr(flat)(*leaves)
    pairs = zip(traced.jaxpr.invars, traced.jaxpr.outvars, strict=True)
    changed = [index for index, (given, new) in enumerate(pairs) if new is not given]

    def trip(carry: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        now = list(leaves)
        for index, leaf in zip(changed, carry[1], strict=True):
            now[index] = leaf
        new = jaxpr_as_fun(traced)(*now)
        return jnp.zeros((), bool), [new[index] for index in changed]

    start = (jnp.asarray(pred, bool), [leaves[index] for index in changed])
    _, updated = lax.while_loop(lambda carry: carry[0], trip, start)
    for index, leaf in zip(changed, updated, strict=True):
        leaves[index] = leaf
    return jax.tree.unflatten(structure, leaves)
