"""An update that is made or not, where the tree lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._types import PyTree


def apply_if(pred: Any, update: Callable[[Any], Any], tree: PyTree) -> Any:
    """Applies an update where a predicate holds.

    A loop of at most one trip, and no `lax.cond`: XLA updates what a loop carries in place, and
    copies what a conditional hands through.

    Args:
        pred: bool scalar.
        update: tree -> a tree of the same structure, shapes and dtypes.
        tree: what is updated.

    Returns:
        The updated tree, or the tree as it is.

    Example:
        >>> [int(apply_if(pred, lambda x: x + 1, jnp.int32(1))) for pred in (False, True)]
        [1, 2]
    """

    def trip(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return jnp.zeros((), bool), update(carry[1])

    return lax.while_loop(lambda carry: carry[0], trip, (jnp.asarray(pred, bool), tree))[1]
