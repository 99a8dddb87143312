"""What of a saved run goes where, when callbacks or metrics were added or taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from odyssey_jax._types import PyTree
from odyssey_jax.store import Transfer

# Nodes of a run that may have more or fewer leaves; all else must be as it was.
_OPEN = ("metrics", "latest", "history/metrics")


class Matching(NamedTuple):
    """How a saved run is read into one with other callbacks or metrics.

    Attributes:
        transfer: What is renamed, begun anew and dropped.
        fresh: Names of the leaves that begin anew.
        said: The same for people, a phrase each; empty where nothing is other.
    """

    transfer: Transfer
    fresh: Sequence[str]
    said: Sequence[str]


def match(
    saved: Iterable[str],
    target: PyTree,
    then: Sequence[Any],
    now: Sequence[Any],
) -> Matching:
    """Match the callbacks of a saved run with a program's, by signature and by name.

    Args:
        saved: Names of the saved leaves.
        target: The tree to restore into.
        then: Signatures of the saved run's callbacks, in their order.
        now: Signatures of the program's.

    Returns:
        The matching. A callback goes on with the state of the one of equal signature, else of one
        of the same name with a state of the same form; others begin anew.
    """
    saved = set(saved)
    paths = jax.tree_util.tree_leaves_with_path(target)
    wanted = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
    pairs = _pairs(saved, wanted, then, now)
    moved = {_node(j): _node(i) for i, j in pairs.items()}
    rename: dict[str, str] = {}
    for old, new in moved.items():
        if old != new and _below(saved, old):
            rename[f"^{old}(?=/|$)"] = new.replace("callbacks/", "callbacks/@")
    if rename:  # by way of names that none has, as two may change places
        rename["^callbacks/@"] = "callbacks/"
    begun = [i for i in range(len(now)) if i not in pairs]
    gone = [j for j in range(len(then)) if j not in pairs.values()]
    fresh = [name for i in begun for name in _below(wanted, _node(i))]
    dropped = [name for j in gone for name in _below(saved, _node(j))]
    said = [f"{_name(now[i])} begins anew" for i in begun]
    said += [f"{_name(then[j])} is dropped" for j in gone]
    for node in _OPEN:
        more = sorted(_below(wanted, node) - _below(saved, node))
        less = sorted(_below(saved, node) - _below(wanted, node))
        fresh, dropped = fresh + more, dropped + less
        if node == "latest":
            said += [f"{name.removeprefix('latest/')} begins anew" for name in more]
            said += [f"{name.removeprefix('latest/')} is dropped" for name in less]
    exactly = lambda names: [f"^{re.escape(name)}$" for name in names]
    return Matching(Transfer(rename, exactly(fresh), exactly(dropped)), fresh, said)


def _pairs(
    saved: set[str], wanted: set[str], then: Sequence[Any], now: Sequence[Any]
) -> Mapping[int, int]:
    """Return the program's callback -> the saved one whose state it goes on with, by position."""
    found: dict[int, int] = {}

    def form(names: set[str], position: int) -> set[str]:
        node = _node(position)
        return {name.removeprefix(node) for name in _below(names, node)}

    for alike in (lambda a, b: a == b, lambda a, b: _name(a) == _name(b)):
        for i, signature in enumerate(now):
            for j, other in enumerate(then):
                free = i not in found and j not in found.values()
                if free and alike(signature, other) and form(wanted, i) == form(saved, j):
                    found[i] = j
    return found


def _node(position: int) -> str:
    return f"callbacks/{position}"


def _below(names: set[str], node: str) -> set[str]:
    return {name for name in names if name == node or name.startswith(f"{node}/")}


def _name(signature: Any) -> str:
    return signature.get("name", "a callback") if isinstance(signature, Mapping) else str(signature)
