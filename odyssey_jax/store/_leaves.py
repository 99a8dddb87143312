"""Leaves: path, shape and dtype, whatever kind of value one holds; and paths taken apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax.store._errors import CheckpointError

SCALARS = {"bool": bool, "int": int, "float": float, "str": str}

_SHOWN = 12  # names listed in an error

_MASKED = np.ma.MaskedArray  # an array and its mask, of which one leaf holds only one

# A path is what `jax.tree_util.keystr` writes: `.name` for an attribute, `[...]` with a key's
# repr otherwise. A quoted key may hold brackets and dots; a tuple may hold quoted ones.
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PART = re.compile(rf"\.\w+|\[(?:{_QUOTED}|[^\[\]'\"])*\]", re.DOTALL)


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


class SavedLeaf(NamedTuple):
    """A leaf of a checkpoint, without its data.

    Attributes:
        path: Where it is in the tree, e.g. ``.params['w'][0]``.
        shape: Its shape; of a typed key, the shape of the array of keys.
        dtype: Its dtype by name; ``key<fry>`` and the like for typed keys, ``int``,
            ``float``, ``bool`` or ``str`` for a Python value.
        nbytes: The bytes of its data; 0 for a Python value.
        array: The array in the ``state`` item that it lies in, such as ``packed.float32``;
            empty where it lies in none.
        value: The Python value, where it is one.

    Example:
        >>> leaf = SavedLeaf(".params['w'][0]", (2, 3), "float32", 24, "packed.float32")
        >>> leaf.name, str(leaf)
        ('params/w/0', 'float32[2,3]')
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    array: str = ""
    value: Any = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its path, as text."""
        return tuple(str(part.key) for part in split(self.path))

    @property
    def name(self) -> str:
        """Its path as people write it: the keys with ``/`` between them."""
        return name_of(self.path)

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.dtype} {self.value!r}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def is_key(value: Any) -> bool:
    """True for an array of typed PRNG keys, or a description of one.

    Example:
        >>> is_key(jax.random.key(0)), is_key(np.zeros(2))
        (True, False)
    """
    return hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_scalar(value: Any) -> bool:
    """True for a Python value, which is kept as it is.

    Example:
        >>> is_scalar(3), is_scalar(np.float32(3))
        (True, False)
    """
    return type(value) in SCALARS.values()


def describe(path: str, value: Any) -> Leaf:
    """Describe one leaf.

    Args:
        path: Its path.
        value: An array, something with its shape and dtype, or a Python scalar or string.

    Returns:
        The description.

    Raises:
        ValueError: If the value is of a kind that cannot be stored.

    Example:
        >>> str(describe("['w']", jax.ShapeDtypeStruct((2, 3), "bfloat16")))
        "['w'] bfloat16[2,3]"
    """
    if is_scalar(value):
        return Leaf(path, (), type(value).__name__)
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, _MASKED):
        name = dtype_name(value.dtype)
        if name is not None:
            return Leaf(path, tuple(value.shape), name)
    raise ValueError(
        f"leaf {path or '(the whole tree)'} is a {type(value).__name__}"
        f"{f' of dtype {value.dtype}' if hasattr(value, 'dtype') else ''}, which a checkpoint "
        "cannot hold; give numeric arrays, typed keys, or Python numbers and strings."
    )


@cache
def dtype_name(dtype: Any) -> str | None:
    """Return a dtype's name in a checkpoint; None if none can hold it."""
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return str(dtype)
    dtype = np.dtype(dtype)
    if dtype.type in (np.longdouble, np.clongdouble):  # of another width on other machines
        return None
    if jax.numpy.issubdtype(dtype, np.number) or dtype == np.bool_:
        return dtype.name
    return None


def flatten(tree: Any) -> tuple[list[Leaf], list[Any], Any]:
    """Take a tree apart.

    Args:
        tree: Any pytree whose leaves `describe` accepts.

    Returns:
        The descriptions, the leaves, and the structure, in the same order.

    Raises:
        ValueError: If a leaf cannot be stored, or two leaves have one path.

    Example:
        >>> [str(leaf) for leaf in flatten({"a.b": np.zeros(2), "a": {"b": 1}})[0]]
        ["['a']['b'] int[]", "['a.b'] float64[2]"]
    """
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [describe(jax.tree_util.keystr(path), value) for path, value in found]
    _check_paths_differ(leaves)
    return leaves, [value for _, value in found], structure


def _check_paths_differ(leaves: Sequence[Leaf]) -> None:
    seen: set[str] = set()
    for leaf in leaves:
        if leaf.path in seen:
            raise ValueError(
                f"two leaves have the path {leaf.path}; give the keys of that node distinct reprs."
            )
        seen.add(leaf.path)


class Part(NamedTuple):
    """One level of a path.

    Attributes:
        text: As it is written in the path.
        key: The attribute's name, the index, or the dictionary's key; where that is neither
            a number nor a string nor a tuple of those, its text.
    """

    text: str
    key: Any


def split(path: str) -> tuple[Part, ...]:
    """Split a path into its parts.

    Args:
        path: What `jax.tree_util.keystr` wrote.

    Returns:
        Its parts; the whole as one where it is none of JAX's paths.

    Example:
        >>> [part.key for part in split(".params['a.b'][0]")]
        ['params', 'a.b', 0]
    """
    parts: list[Part] = []
    end = 0
    while end < len(path):
        found = _PART.match(path, end)
        if found is None:
            return (Part(path, path),)
        parts.append(Part(found[0], _key(found[0])))
        end = found.end()
    return tuple(parts)


def _key(text: str) -> Any:
    if text.startswith("."):
        return text[1:]
    try:
        key = ast.literal_eval(text[1:-1])
        str(key)  # which Python refuses of the longest integers
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text[1:-1]
    return key


def name_of(path: str) -> str:
    """Return a path as people write it: the keys with ``/`` between them.

    Two paths may have one name, as ``['a/b']`` and ``['a']['b']`` have.

    Args:
        path: What `jax.tree_util.keystr` wrote.

    Returns:
        The name; empty for a tree that is one leaf.

    Example:
        >>> name_of(".params['layers'][0]['kernel']")
        'params/layers/0/kernel'
    """
    return "/".join(str(part.key) for part in split(path))


def tail(path: str, depth: int) -> str:
    """Return a path as seen from a node above it.

    Args:
        path: What `jax.tree_util.keystr` wrote.
        depth: How many levels down the node is.

    Returns:
        What is left.

    Raises:
        CheckpointError: If the path cannot be taken apart.

    Example:
        >>> tail(".state.params['w']", 2)
        "['w']"
    """
    if depth == 0:
        return path
    parts = split(path)
    if len(parts) < depth:
        raise CheckpointError(
            f"leaf {path} cannot be restored with a subtree: its keys have no plain reprs"
        )
    return "".join(part.text for part in parts[depth:])


def listed(names: Iterable[str]) -> str:
    """Return names as one text, of which a long list is cut.

    Example:
        >>> listed(["a", "b"])
        "'a', 'b'"
    """
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
