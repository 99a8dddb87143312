"""What the checks share: assertions with a remedy, and comparisons of pytrees.

Chex is imported where it is called: it takes 0.1 s, which a program that only trains need not wait.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import PyTree


def check(condition: Any, message: str) -> None:
    """Raise AssertionError unless the condition holds; also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_hashable(what: str, value: Any, other: Any, remedy: str) -> None:
    """Raise AssertionError unless a value can be hashed, and equals another like it."""
    try:
        same = hash(value) == hash(other) and value == other
    except TypeError as error:
        raise AssertionError(f"{what} can't be hashed ({error}): {remedy}") from error
    check(same, f"{what} is not equal to a copy of itself, so each is compiled anew: {remedy}")


def check_arrays(whose: str, tree: PyTree) -> None:
    """Raise AssertionError unless each leaf is an array, with a dtype of its own."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        where = whose.format(jax.tree_util.keystr(path))
        check(array, f"{where} is {leaf!r}: make it an array, with its dtype.")


def check_form(what: str, tree: PyTree, example: PyTree) -> None:
    """Raise AssertionError unless structure, shapes and dtypes are those of the example."""
    import chex

    try:
        chex.assert_trees_all_equal_shapes_and_dtypes(*jax.tree.map(jnp.asarray, (tree, example)))
    except AssertionError as error:
        raise AssertionError(
            f"the {what} has another form than it had, and structure, shapes and dtypes never "
            f"change: {' '.join(str(error).split())}"
        ) from error


def check_same(what: str, tree: PyTree, expected: PyTree) -> None:
    """Raise AssertionError unless form and values are those expected, to rounding."""
    check_form(f"result of {what}", tree, expected)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for path, x, y in zip(paths, leaves(tree)[1], leaves(expected)[1], strict=True):
        exact = not jnp.issubdtype(y.dtype, jnp.inexact)
        # What is compiled may round the last digit otherwise.
        near = (x == y) if exact else np.isclose(x, y, rtol=1e-5, atol=1e-7, equal_nan=True)
        check(
            np.all(near),
            f"{what} gives {x} and not {y} at {path}: it must be a function of its arguments "
            "alone, with jnp.where or lax.cond for a decision.",
        )


def leaves(tree: PyTree) -> tuple[Any, list[np.ndarray]]:
    """Return the structure, and a copy of each leaf."""
    return jax.tree.structure(tree), [np.array(x) for x in jax.tree.leaves(plain(tree))]


def equal(a: tuple[Any, list[np.ndarray]], b: tuple[Any, list[np.ndarray]]) -> bool:
    """Return whether two results of `leaves` are the same, NaN included."""
    same = (np.array_equal(x, y, equal_nan=True) for x, y in zip(a[1], b[1], strict=False))
    return a[0] == b[0] and all(same)


def plain(tree: PyTree) -> PyTree:
    """Return the tree with its keys as numbers, which NumPy can hold."""
    is_key = lambda x: jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def stack(*trees: PyTree) -> PyTree:
    """Return the trees as one, each leaf with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
