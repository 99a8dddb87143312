"""A leaf's path taken apart: its keys, its name for people, and what is below a node."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from odyssey_jax.store._errors import CheckpointError

_SHOWN = 12  # names listed in an error

# A path is what `jax.tree_util.keystr` writes: `.name` for an attribute, `[...]` with a key's
# repr otherwise. A quoted key may hold brackets and dots; a tuple may hold quoted ones.
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PART = re.compile(rf"\.\w+|\[(?:{_QUOTED}|[^\[\]'\"])*\]", re.DOTALL)


class Part(NamedTuple):
    """One step of a path.

    Attributes:
        text: As it is written in the path.
        key: The attribute's name, the index, or the dictionary's key; where that is neither
            a number nor a string nor a tuple of those, its text.
    """

    text: str
    key: Any


def split(path: str) -> tuple[Part, ...]:
    """Takes a path apart.

    Args:
        path: What `jax.tree_util.keystr` wrote.

    Returns:
        Its parts; the whole as one where it is none of JAX's paths.

    Example:
        >>> [part.key for part in split(".params['a.b'][0]")]
        ['params', 'a.b', 0]
    """
    texts = _PART.findall(path)
    if "".join(texts) != path:
        return (Part(path, path),)
    return tuple(Part(text, _key(text)) for text in texts)


def _key(text: str) -> Any:
    if text.startswith("."):
        return text[1:]
    try:
        return ast.literal_eval(text[1:-1])
    except (SyntaxError, ValueError):
        return text[1:-1]


def name_of(path: str) -> str:
    """A path as people write it: the keys with ``/`` between them.

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
    """A path as seen from a node above it.

    Args:
        path: What `jax.tree_util.keystr` wrote.
        depth: How many steps down the node is.

    Returns:
        What is left.

    Raises:
        CheckpointError: The path cannot be taken apart.

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
    """Words a list of names, of which a long one is cut.

    Example:
        >>> listed(["a", "b"])
        "'a', 'b'"
    """
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
