"""What a leaf is: its path, shape and dtype, whatever kind of value it holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax.store._errors import CheckpointError

SCALARS = {"bool": bool, "int": int, "float": float, "str": str}


class Leaf(NamedTuple):
    """A leaf as a checkpoint knows it.

    Attributes:
        path: Where it is in the tree, e.g. ``.params['w'][0]``; quoted, so that the keys
            ``'a.b'`` and ``{'a': {'b': ...}}`` stay apart.
        shape: Its shape; of a typed key, the shape of the array of keys.
        dtype: Its dtype by name; ``key<fry>`` and the like for typed keys, ``int``,
            ``float``, ``bool`` or ``str`` for a Python value.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.path} {self.dtype}[{','.join(map(str, self.shape))}]"


_MASKED = np.ma.MaskedArray  # an array and its mask, of which one leaf holds only one


def is_key(value: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys, or describes one.

    Example:
        >>> is_key(jax.random.key(0)), is_key(np.zeros(2))
        (True, False)
    """
    return hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_scalar(value: Any) -> bool:
    """Whether a leaf is a Python value, kept as it is.

    Example:
        >>> is_scalar(3), is_scalar(np.float32(3))
        (True, False)
    """
    return type(value) in SCALARS.values()


def describe(path: str, value: Any) -> Leaf:
    """Describes one leaf.

    Args:
        path: Its path.
        value: An array, something with its shape and dtype, or a Python scalar or string.

    Returns:
        The description.

    Raises:
        CheckpointError: The value is of a kind that cannot be stored.

    Example:
        >>> str(describe("['w']", jax.ShapeDtypeStruct((2, 3), "bfloat16")))
        "['w'] bfloat16[2,3]"
    """
    if is_scalar(value):
        return Leaf(path, (), type(value).__name__)
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, _MASKED):
        name = _dtype_name(value.dtype)
        if name is not None:
            return Leaf(path, tuple(value.shape), name)
    raise CheckpointError(
        f"leaf {path or '(the whole tree)'} is a {type(value).__name__}"
        f"{f' of dtype {value.dtype}' if hasattr(value, 'dtype') else ''}, which a checkpoint "
        "cannot hold; give numeric arrays, typed keys, or Python numbers and strings"
    )


@cache
def _dtype_name(dtype: Any) -> str | None:
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return str(dtype)
    dtype = np.dtype(dtype)
    if dtype.type in (np.longdouble, np.clongdouble):  # of another width on other machines
        return None
    if jax.numpy.issubdtype(dtype, np.number) or dtype == np.bool_:
        return dtype.name
    return None


def flatten(tree: Any) -> tuple[list[Leaf], list[Any], Any]:
    """Takes a tree apart.

    Args:
        tree: Any pytree whose leaves `describe` accepts.

    Returns:
        The descriptions, the leaves, and the structure, in the same order.

    Raises:
        CheckpointError: A leaf cannot be stored, or two leaves have one path.

    Example:
        >>> [str(leaf) for leaf in flatten({"a.b": np.zeros(2), "a": {"b": 1}})[0]]
        ["['a']['b'] int[]", "['a.b'] float64[2]"]
    """
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [describe(jax.tree_util.keystr(path), value) for path, value in found]
    _refuse_twins(leaves)
    return leaves, [value for _, value in found], structure


def _refuse_twins(leaves: Sequence[Leaf]) -> None:
    seen: set[str] = set()
    for leaf in leaves:
        if leaf.path in seen:
            raise CheckpointError(
                f"two leaves have the path {leaf.path}; give the keys of that node distinct reprs"
            )
        seen.add(leaf.path)
