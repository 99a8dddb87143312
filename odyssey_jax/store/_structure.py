"""The nodes that a tree is made of, in plain values: enough to build it again without a target.

A node is ``null`` for None, the number of a leaf, or an object of one entry: ``dict`` (its
keys are strings), ``items`` (pairs of a key and a node, where they are not), ``list``,
``tuple``, or ``fields`` (a NamedTuple, a dataclass or any other node, by the names of its
parts).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, SequenceKey

from odyssey_jax.store._errors import CheckpointError
from odyssey_jax.store._format import decode, encode, hashable
from odyssey_jax.store._leaves import is_scalar, listed

Node = Any


def structure_of(tree: Any) -> Node:
    """Describe a tree.

    Args:
        tree: Any pytree.

    Returns:
        Its node, in values that JSON has; leaves are numbered as JAX orders them.

    Example:
        >>> structure_of({"a": [1.5, None], "b": ()})
        {'dict': {'a': {'list': [0, None]}, 'b': {'tuple': []}}}
    """
    return _describe(tree, itertools.count())


def _describe(value: Any, numbers: Iterator[int]) -> Node:
    # The common kinds are described here: to ask JAX costs several times more, at every save of
    # a new tree.
    kind = type(value)
    if value is None:
        return None
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: _describe(value[key], numbers) for key in sorted(value)}}
    if kind in (list, tuple):
        return {kind.__name__: [_describe(part, numbers) for part in value]}
    if isinstance(value, np.ndarray | jax.Array) or is_scalar(value):
        return next(numbers)
    parts, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda x: x is not value)
    if parts and not parts[0][0]:
        return next(numbers)
    return _node(value, [path[0] for path, _ in parts], [_describe(x, numbers) for _, x in parts])


def _node(value: Any, keys: Sequence[Any], nodes: Sequence[Node]) -> Node:
    if all(isinstance(key, DictKey) for key in keys) and (keys or isinstance(value, Mapping)):
        found = [key.key for key in keys]
        if all(map(_is_plain, found)):
            return _mapping(found, nodes)
    if keys and all(isinstance(key, SequenceKey) for key in keys):
        return {"list": list(nodes)}
    texts = [_text(jax.tree_util.keystr((key,))) for key in keys]
    return {"fields": dict(zip(texts, nodes, strict=True))}


def _mapping(keys: Sequence[Any], nodes: Sequence[Node]) -> Node:
    if all(type(key) is str for key in keys):
        return {"dict": dict(zip(keys, nodes, strict=True))}
    return {"items": [[encode(key), node] for key, node in zip(keys, nodes, strict=True)]}


def _is_plain(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_is_plain, key))
    return key is None or is_scalar(key)


def _text(part: str) -> str:
    return part[1:] if part.startswith(".") else part[1:-1]


def build(node: Node, leaves: Mapping[int, Any]) -> Any:
    """Build a tree of dictionaries, lists and tuples.

    Args:
        node: What `structure_of` returned.
        leaves: Number -> leaf.

    Returns:
        The tree; what was a NamedTuple, a dataclass or another node is a dictionary of its
        fields.

    Example:
        >>> build({"dict": {"a": {"list": [0, None]}, "b": {"tuple": []}}}, {0: 1.5})
        {'a': [1.5, None], 'b': ()}
    """
    if node is None:
        return None
    if type(node) is int:
        return leaves[node]
    if "tuple" in node:
        return tuple(build(part, leaves) for part in node["tuple"])
    if "list" in node:
        return [build(part, leaves) for part in node["list"]]
    return {key: build(part, leaves) for key, part in _children(node)}


def _children(node: Node) -> list[tuple[Any, Node]]:
    """Return the parts of a node by their keys; raise ValueError if it is none."""
    if node is None or type(node) is int:
        return []
    if isinstance(node, dict) and len(node) == 1:
        ((kind, content),) = node.items()
        if kind == "items" and isinstance(content, list):
            return [(_plain_key(key), part) for key, part in content]
        if kind in ("list", "tuple") and isinstance(content, list):
            return list(enumerate(content))
        if kind in ("dict", "fields") and isinstance(content, dict):
            return list(content.items())
    raise ValueError("its tree has what is no node")


def _plain_key(encoded: Any) -> Any:
    key = hashable(decode(encoded))
    if not _is_plain(key):
        raise ValueError("its tree has what is no key")
    return key


def numbers_in(node: Node) -> list[int]:
    """Return the numbers of the leaves below a node, in order.

    Example:
        >>> numbers_in({"dict": {"a": {"list": [3, None]}, "b": 4}})
        [3, 4]
    """
    if type(node) is int:
        return [node]
    return [number for _, part in _children(node) for number in numbers_in(part)]


def find(node: Node, name: str) -> tuple[int, Node]:
    """Find a node by its name.

    Args:
        node: Where to begin.
        name: The keys with ``/`` between them, such as ``"state/params"``; empty for the
            node itself.

    Returns:
        How many levels down it is, and the node.

    Raises:
        ValueError: If the name is no string.
        CheckpointError: If there is no such node, or several of that name.

    Example:
        >>> find({"fields": {"state": {"fields": {"params": 0}}}}, "state/params")
        (2, 0)
    """
    if not isinstance(name, str):
        raise ValueError(f"subtree must be a name such as 'state/params', got {name!r}.")
    found = list(_named(node, name, 0)) if name else [(0, node)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"the subtree {name!r} is not one node but {len(found)}")
    below = sorted(f"{a}/{b}" for a, part in _children(node) for b, _ in _children(part))
    raise CheckpointError(
        f"there is no subtree {name!r}; there are "
        f"{listed([*(str(key) for key, _ in _children(node)), *below]) or 'none'}"
    )


def _named(node: Node, name: str, depth: int) -> Iterator[tuple[int, Node]]:
    for key, part in _children(node):
        if name == str(key):
            yield depth + 1, part
        elif name.startswith(f"{key}/"):
            yield from _named(part, name[len(f"{key}/") :], depth + 1)
