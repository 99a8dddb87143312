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


def below(paths: Iterable[str], subtree: str) -> dict[str, str]:
    """Finds what is below a node.

    Args:
        paths: The paths of a tree.
        subtree: The node's name, such as ``"state/params"``; empty for the whole tree.

    Returns:
        Path as seen from the node -> path in the tree.

    Raises:
        CheckpointError: There is no such node, or several of that name.

    Example:
        >>> below([".state.params['w']", ".clock.step"], "state/params")
        {"['w']": ".state.params['w']"}
    """
    paths = list(paths)
    if not subtree:
        return {path: path for path in paths}
    cuts = {path: _cut(path, subtree) for path in paths}
    nodes = {path[:cut] for path, cut in cuts.items() if cut is not None}
    if not nodes:
        tops = sorted({"/".join(str(part.key) for part in split(path)[:2]) for path in paths})
        raise CheckpointError(f"there is no subtree {subtree!r}; there are {listed(tops)}")
    if len(nodes) > 1:
        raise CheckpointError(f"the subtree {subtree!r} may be any of {listed(sorted(nodes))}")
    return {path[cut:]: path for path, cut in cuts.items() if cut is not None}


def _cut(path: str, subtree: str) -> int | None:
    """Where the node's part of a path ends."""
    name, end = "", 0
    for part in split(path):
        name, end = f"{name}/{part.key}" if end else str(part.key), end + len(part.text)
        if name == subtree:
            return end
        if not subtree.startswith(f"{name}/"):
            return None
    return None


def listed(names: Iterable[str]) -> str:
    """Words a list of names, of which a long one is cut.

    Example:
        >>> listed(["a", "b"])
        "'a', 'b'"
    """
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
