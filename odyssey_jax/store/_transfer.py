"""Which leaf of a checkpoint goes where in a target of another shape: pure, no disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from odyssey_jax.store._compare import Report, compare
from odyssey_jax.store._errors import CheckpointError
from odyssey_jax.store._leaves import Leaf
from odyssey_jax.store._paths import listed, name_of


@dataclass(frozen=True)
class Transfer:
    r"""How a checkpoint is restored into another model than it was saved from.

    A leaf goes by its name: its keys with ``/`` between them, such as
    ``encoder/layers/0/kernel``. A pattern is a regular expression, and holds for a name
    that it is found in (`re.search`): ``^head/`` for what is in ``head``. Every pattern
    must be found in at least one name. What no pattern speaks of is restored as strictly as
    without a transfer, and nothing is cast.

    Args:
        rename: Pattern -> what takes its place in the names that were saved (`re.sub`), one
            after the other, so that each sees what those before it made. A name stands for
            any kind of key: ``{"^": ""}`` restores a NamedTuple into a dictionary with its
            fields as keys.
        initialize: Patterns of the target's names whose leaves keep the target's values,
            whether or not the checkpoint has leaves for them.
        ignore: Patterns of the names that were saved, before they are renamed, whose leaves
            are not restored.

    Raises:
        CheckpointError: A pattern is none, or there is a string in place of a list.

    Example:
        >>> import tempfile
        >>> import numpy as np, odyssey_jax as ody
        >>> saved = {"enc": {"w": np.ones(3)}, "head": np.ones(10)}
        >>> target = {"encoder": {"w": np.zeros(3)}, "head": np.zeros(2)}
        >>> transfer = ody.Transfer(rename={"^enc/": "encoder/"}, initialize=["^head$"])
        >>> with tempfile.TemporaryDirectory() as folder, ody.Store(folder) as store:
        ...     store.save(1, saved, {})
        ...     store.wait()
        ...     restored = store.restore(target, transfer=transfer)
        >>> restored.tree
        {'encoder': {'w': array([1., 1., 1.])}, 'head': array([0., 0.])}
        >>> print(restored.report)
        1 leaf agrees, 0 differ, 1 initialized, 1 ignored
          renamed: ['enc']['w'] to encoder/w
          initialized: ['head'] float64[2]
          ignored: ['head'] float64[10]
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    initialize: Sequence[str] = ()
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.rename, Mapping):
            raise CheckpointError(f"rename must map patterns to replacements, got {self.rename!r}")
        for argument in ("initialize", "ignore"):
            given = getattr(self, argument)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise CheckpointError(
                    f"{argument} must be a list of patterns, such as ['^head/'], got {given!r}"
                )
        for pattern in (*self.rename, *self.initialize, *self.ignore):
            _check(pattern, self.rename.get(pattern, ""))


def _check(pattern: str, replacement: str) -> None:
    try:
        re.compile(pattern).sub(replacement, "")  # reads the replacement too
    except (re.error, TypeError) as error:
        what = f"{pattern!r} -> {replacement!r}" if replacement else repr(pattern)
        raise CheckpointError(f"{what} is not a regular expression: {error}") from error


class Assignment(NamedTuple):
    """Where each of the target's leaves comes from.

    Attributes:
        sources: For each of the target's leaves the path of the saved one, or None where
            there is none, or the target's own value stays.
        report: How the two compare.
    """

    sources: tuple[str | None, ...]
    report: Report


def assign(
    saved: Sequence[Leaf], target: Sequence[Leaf], transfer: Transfer | None = None
) -> Assignment:
    """Finds the saved leaf for each of the target's.

    Args:
        saved: The checkpoint's leaves.
        target: The target's leaves.
        transfer: What is renamed, initialized and ignored.

    Returns:
        The sources, to be used only where the report is exact, and the report.

    Raises:
        CheckpointError: A pattern is found in no name, two leaves go to one, or a new name
            is that of several leaves.

    Example:
        >>> assigned = assign(
        ...     [Leaf("['a']", (), "bool")],
        ...     [Leaf("['b']", (), "bool")],
        ...     Transfer(rename={"a": "b"}),
        ... )
        >>> assigned.sources, assigned.report.exact
        (("['a']",), True)
    """
    if not isinstance(transfer, Transfer | None):
        raise CheckpointError(f"transfer must be a Transfer(rename=..., ...), got {transfer!r}")
    transfer = transfer or Transfer()
    kept = _found(transfer.initialize, target, "initialize", "target")
    ignored = _found(transfer.ignore, saved, "ignore", "checkpoint")
    wanted = [leaf for leaf in saved if leaf.path not in ignored]
    renamed = _rename(transfer.rename, wanted)
    goes_to = _destinations(wanted, renamed, target)
    ignored |= {path for path, new in goes_to.items() if new in kept}
    sources = _turned({old: new for old, new in goes_to.items() if old not in ignored})
    compared = compare(
        (leaf._replace(path=goes_to[leaf.path]) for leaf in wanted if leaf.path not in ignored),
        (leaf for leaf in target if leaf.path not in kept),
    )
    extra = {sources[leaf.path] for leaf in compared.extra}
    report = replace(
        compared,
        extra=tuple(leaf for leaf in saved if leaf.path in extra),
        renamed={path: name for path, name in renamed.items() if goes_to[path] != path},
        initialized=tuple(leaf for leaf in target if leaf.path in kept),
        ignored=tuple(leaf for leaf in saved if leaf.path in ignored),
    )
    return Assignment(tuple(sources.get(leaf.path) for leaf in target), report)


def _found(patterns: Sequence[str], leaves: Sequence[Leaf], argument: str, what: str) -> set[str]:
    """The paths of the leaves whose names hold one of the patterns."""
    names = {leaf.path: name_of(leaf.path) for leaf in leaves} if patterns else {}
    found: set[str] = set()
    for pattern in patterns:
        matching = {path for path, name in names.items() if re.search(pattern, name)}
        if not matching:
            raise _nowhere(pattern, argument, what, names.values())
        found |= matching
    return found


def _rename(patterns: Mapping[str, str], leaves: Sequence[Leaf]) -> dict[str, str]:
    """The new names of the leaves in whose names a pattern is found, by path."""
    names = {leaf.path: name_of(leaf.path) for leaf in leaves} if patterns else {}
    renamed: dict[str, str] = {}
    for pattern, replacement in patterns.items():
        found = [path for path, name in names.items() if re.search(pattern, name)]
        if not found:
            raise _nowhere(pattern, "rename", "checkpoint", names.values())
        for path in found:
            names[path] = renamed[path] = re.sub(pattern, replacement, names[path])
    return renamed


def _nowhere(pattern: str, argument: str, what: str, names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f"{argument}: the pattern {pattern!r} is found in none of the {what}'s names, which "
        f"are {listed(names) or '(none)'}"
    )


def _destinations(
    leaves: Sequence[Leaf], renamed: Mapping[str, str], target: Sequence[Leaf]
) -> dict[str, str]:
    """Saved path -> path in the target; of a new name that is not there, the name."""
    paths: dict[str, list[str]] = {}
    for leaf in target if renamed else ():
        paths.setdefault(name_of(leaf.path), []).append(leaf.path)
    for name in renamed.values():
        if len(paths.get(name, ())) > 1:
            raise CheckpointError(
                f"rename: several of the target's leaves have the name {name!r}: "
                f"{listed(paths[name])}"
            )
    new = {old: paths.get(name, [f"/{name}"])[0] for old, name in renamed.items()}
    return {leaf.path: new.get(leaf.path, leaf.path) for leaf in leaves}


def _turned(goes_to: Mapping[str, str]) -> dict[str, str]:
    comes_from: dict[str, str] = {}
    for old, new in goes_to.items():
        if new in comes_from:
            raise CheckpointError(
                f"rename: two leaves of the checkpoint go to {new}: {comes_from[new]} and {old}; "
                "ignore one of them, or give them other names"
            )
        comes_from[new] = old
    return comes_from
