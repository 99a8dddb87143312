"""How a target differs from what was saved, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from odyssey_jax.store._errors import CheckpointMismatchError
from odyssey_jax.store._leaves import Leaf

_SHOWN = 12  # leaves listed of each kind of difference


@dataclass(frozen=True)
class Report:
    """A comparison by path.

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
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.shape or self.dtype)

    def __str__(self) -> str:
        return "\n".join([_counts(self), *_differences(self), *_transferred(self)])


def compare(saved: Iterable[Leaf], target: Iterable[Leaf]) -> Report:
    """Compares what was saved with what is asked for.

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


def mismatch(report: Report, name: str) -> CheckpointMismatchError:
    """Words the error for a report that is not exact.

    Args:
        report: What `compare` returned.
        name: What to call the checkpoint.

    Returns:
        The error, to be raised.

    Example:
        >>> report = compare([], [Leaf("['w']", (4,), "float32")])
        >>> print(str(mismatch(report, "checkpoint 3")).splitlines()[1].strip())
        missing from the checkpoint: ['w'] float32[4]
    """
    head = (
        f"{name} does not match the target: {_counts(report)}. Build the model and the "
        "optimizer as they were when it was saved, start over in another directory, or "
        "restore a part of it with Store.restore(transfer=...)."
    )
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
        *_listed("missing from the checkpoint", map(str, report.missing)),
        *_listed("extra in the checkpoint", map(str, extra)),
        *_listed("shape", (f"{p} saved {a}, target {b}" for p, (a, b) in report.shape.items())),
        *_listed("dtype", (f"{p} saved {a}, target {b}" for p, (a, b) in report.dtype.items())),
    ]


def _transferred(report: Report) -> list[str]:
    return [
        *_listed("renamed", (f"{old} to {new}" for old, new in report.renamed.items())),
        *_listed("initialized", map(str, report.initialized)),
        *_listed("ignored", map(str, report.ignored)),
    ]


def _listed(kind: str, items: Iterable[str]) -> list[str]:
    items = list(items)
    lines = [f"  {kind}: {item}" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"  {kind}: and {len(items) - _SHOWN} more")
    return lines
