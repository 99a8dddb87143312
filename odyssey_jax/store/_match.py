"""Which saved leaf goes to which of the target, and how the two differ: pure, no disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from odyssey_jax.store._errors import CheckpointError, CheckpointMismatchError
from odyssey_jax.store._leaves import Leaf, listed, name_of

_SHOWN = 12  # leaves listed of each kind of difference


@dataclass(frozen=True)
class Report:
    """A comparison of the target's leaves with the checkpoint's, by path.

    Attributes:
        matched: Paths that agree in shape and dtype.
        missing: Leaves that the target has and the checkpoint has not.
        extra: Leaves that the checkpoint has and the target has not.
        shape: Path -> (saved, target's), where the shapes differ.
        dtype: Path -> (saved, target's), where the dtypes differ.
        renamed: Saved path -> the name that a transfer gives it.
        initialized: Leaves of the target that keep its values.
        ignored: Leaves of the checkpoint that are not restored, because the transfer
            ignores them or initializes those that they would go to.

    Example:
        >>> print(compare([Leaf("['w']", (3,), "float32")], [Leaf("['w']", (3,), "float32")]))
        1 leaf agrees, 0 differ
    """

    matched: tuple[str, ...]
    missing: tuple[Leaf, ...] = ()
    extra: tuple[Leaf, ...] = ()
    shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dtype: dict[str, tuple[str, str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    initialized: tuple[Leaf, ...] = ()
    ignored: tuple[Leaf, ...] = ()

    @property
    def exact(self) -> bool:
        """True if nothing differs."""
        return not (self.missing or self.extra or self.shape or self.dtype)

    def __str__(self) -> str:
        return "\n".join([_counts(self), *_differences(self), *_transferred(self)])


def compare(saved: Iterable[Leaf], target: Iterable[Leaf]) -> Report:
    """Compare what was saved with what is asked for.

    Args:
        saved: The checkpoint's leaves.
        target: The target's leaves.

    Returns:
        The report, in the order of the leaves given.

    Example:
        >>> saved = [Leaf("['w']", (3,), "float32"), Leaf("['b']", (), "float32")]
        >>> report = compare(saved, [Leaf("['w']", (4,), "float32")])
        >>> report.shape, report.extra[0].path
        ({"['w']": ((3,), (4,))}, "['b']")
    """
    old = {leaf.path: leaf for leaf in saved}
    new = {leaf.path: leaf for leaf in target}
    both = [(old[path], leaf) for path, leaf in new.items() if path in old]
    return Report(
        matched=tuple(was.path for was, leaf in both if was == leaf),
        missing=tuple(leaf for path, leaf in new.items() if path not in old),
        extra=tuple(leaf for path, leaf in old.items() if path not in new),
        shape={was.path: (was.shape, leaf.shape) for was, leaf in both if was.shape != leaf.shape},
        dtype={was.path: (was.dtype, leaf.dtype) for was, leaf in both if was.dtype != leaf.dtype},
    )


_REMEDY = (
    "Build the model and the optimizer as they were when it was saved, start over in another "
    "directory, or restore a part of it with Store.restore(transfer=...)."
)


def mismatch(report: Report, name: str, remedy: str = _REMEDY) -> CheckpointMismatchError:
    """Return the error for a report that is not exact.

    Args:
        report: What `compare` returned.
        name: What to call the checkpoint.
        remedy: What to do about it.

    Returns:
        The error, whose message lists the leaves that differ.

    Example:
        >>> report = compare([], [Leaf("['w']", (4,), "float32")])
        >>> print(str(mismatch(report, "checkpoint 3")).splitlines()[1].strip())
        missing from the checkpoint: ['w'] float32[4]
    """
    head = f"{name} does not match the target: {_counts(report)}. {remedy}"
    return CheckpointMismatchError(
        "\n".join([head, *_differences(report)]),
        missing=[leaf.path for leaf in report.missing],
        extra=[leaf.path for leaf in report.extra],
        shape=report.shape,
        dtype=report.dtype,
    )


def _counts(report: Report) -> str:
    matched = len(report.matched)
    differing = len({*report.shape, *report.dtype}) + len(report.missing) + len(report.extra)
    text = f"{matched} {'leaf agrees' if matched == 1 else 'leaves agree'}, {differing} differ"
    for kind in ("initialized", "ignored"):
        if leaves := getattr(report, kind):
            text += f", {len(leaves)} {kind}"
    return text


def _differences(report: Report) -> list[str]:
    extra = (
        f"{leaf}, renamed to {report.renamed[leaf.path]}" if leaf.path in report.renamed else leaf
        for leaf in report.extra
    )
    return [
        *_lines("missing from the checkpoint", map(str, report.missing)),
        *_lines("extra in the checkpoint", map(str, extra)),
        *_lines("shape", (f"{p} saved {a}, target {b}" for p, (a, b) in report.shape.items())),
        *_lines("dtype", (f"{p} saved {a}, target {b}" for p, (a, b) in report.dtype.items())),
    ]


def _transferred(report: Report) -> list[str]:
    return [
        *_lines("renamed", (f"{old} to {new}" for old, new in report.renamed.items())),
        *_lines("initialized", map(str, report.initialized)),
        *_lines("ignored", map(str, report.ignored)),
    ]


def _lines(kind: str, items: Iterable[str]) -> list[str]:
    items = list(items)
    lines = [f"  {kind}: {item}" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"  {kind}: and {len(items) - _SHOWN} more")
    return lines


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
        convert: A function that is given the arrays of another library's files by name and returns
            others, first of all; such as `ody.store.from_huggingface`, with its family by
            `functools.partial`. None of a store's own checkpoints.

    Raises:
        ValueError: If a pattern is no regular expression, or a string is in place of a list.

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
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rename, Mapping):
            raise ValueError(f"rename must map patterns to replacements, got {self.rename!r}.")
        for argument in ("initialize", "ignore"):
            given = getattr(self, argument)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise ValueError(
                    f"{argument} must be a list of patterns, such as ['^head/'], got {given!r}."
                )
        if self.convert is not None and not callable(self.convert):
            raise ValueError(f"convert must be a function of arrays by name, got {self.convert!r}.")
        for pattern in (*self.rename, *self.initialize, *self.ignore):
            _check_pattern(pattern, self.rename.get(pattern, ""))


def _check_pattern(pattern: str, replacement: str) -> None:
    try:
        re.compile(pattern).sub(replacement, "")  # reads the replacement too
    except (re.error, TypeError) as error:
        what = f"{pattern!r} -> {replacement!r}" if replacement else repr(pattern)
        raise ValueError(f"{what} is not a regular expression: {error}.") from error


def by_name(transfer: Transfer | None) -> Transfer:
    """Return a transfer that finds leaves by their names alone, whatever kind of key they have.

    Example:
        >>> saved, target = [Leaf("['0']", (), "bool")], [Leaf("[0]", (), "bool")]
        >>> assign(saved, target, by_name(None)).sources
        ("['0']",)
    """
    if not isinstance(transfer, Transfer | None):
        raise _no_transfer(transfer)
    transfer = transfer or Transfer()
    return replace(transfer, rename={_ANY: "", **transfer.rename})


_ANY = r"\A"  # found in every name, and replaced by nothing: so each is looked up as a name


def _no_transfer(given: Any) -> ValueError:
    return ValueError(f"transfer must be a Transfer(rename=..., ...), got {given!r}.")


class Assignment(NamedTuple):
    """The saved leaf for each of the target's.

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
    """Find the saved leaf for each of the target's.

    Args:
        saved: The checkpoint's leaves.
        target: The target's leaves.
        transfer: What is renamed, initialized and ignored.

    Returns:
        The sources, to be used only where the report is exact, and the report.

    Raises:
        ValueError: If the transfer is none.
        CheckpointError: If a pattern is found in no name, two leaves go to one, or a new name
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
        raise _no_transfer(transfer)
    transfer = transfer or Transfer()
    kept = _found(transfer.initialize, target, "initialize", "target")
    ignored = _found(transfer.ignore, saved, "ignore", "checkpoint")
    wanted = [leaf for leaf in saved if leaf.path not in ignored]
    renamed = _rename(transfer.rename, wanted)
    goes_to = _destinations(wanted, renamed, target)
    ignored |= {path for path, new in goes_to.items() if new in kept}
    sources = _inverse({old: new for old, new in goes_to.items() if old not in ignored})
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
    """Return the paths of the leaves in whose names one of the patterns is found."""
    names = {leaf.path: name_of(leaf.path) for leaf in leaves} if patterns else {}
    found: set[str] = set()
    for pattern in patterns:
        matching = {path for path, name in names.items() if re.search(pattern, name)}
        if not matching:
            raise _found_nowhere(pattern, argument, what, names.values())
        found |= matching
    return found


def _rename(patterns: Mapping[str, str], leaves: Sequence[Leaf]) -> dict[str, str]:
    """Return the new names of the leaves in whose names a pattern is found, by path."""
    names = {leaf.path: name_of(leaf.path) for leaf in leaves} if patterns else {}
    renamed: dict[str, str] = {}
    for pattern, replacement in patterns.items():
        found = [path for path, name in names.items() if re.search(pattern, name)]
        if not found:
            raise _found_nowhere(pattern, "rename", "checkpoint", names.values())
        for path in found:
            names[path] = renamed[path] = re.sub(pattern, replacement, names[path])
    return renamed


def _found_nowhere(pattern: str, argument: str, what: str, names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f"{argument}: the pattern {pattern!r} is found in none of the {what}'s names, which "
        f"are {listed(names) or '(none)'}"
    )


def _destinations(
    leaves: Sequence[Leaf], renamed: Mapping[str, str], target: Sequence[Leaf]
) -> dict[str, str]:
    """Return saved path -> path in the target; of a new name that is not there, the name."""
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


def _inverse(goes_to: Mapping[str, str]) -> dict[str, str]:
    comes_from: dict[str, str] = {}
    for old, new in goes_to.items():
        if new in comes_from:
            raise CheckpointError(
                f"rename: two leaves of the checkpoint go to {new}: {comes_from[new]} and {old}; "
                "ignore one of them, or give them other names"
            )
        comes_from[new] = old
    return comes_from
