"""What to do with the documents of an older format version: one function a version.

The migration of version n takes a document of that version and returns it as version n + 1
has it. A document is the metadata or the layout, as `json.loads` gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from odyssey_jax.store._format import FORMAT_VERSION
from odyssey_jax.store._structure import infer

Document = dict[str, Any]
Kind = Literal["metadata", "layout"]
Migration = Callable[[Kind, Document], Document]


def from_1(kind: Kind, document: Document) -> Document:
    """Version 2 has checksums in a file of their own; its layout has rows, and the tree."""
    if kind == "metadata":
        return document
    leaves = document["leaves"]
    tree = infer([leaf["path"] for leaf in leaves])
    return document | {"leaves": [_row_of_1(**leaf) for leaf in leaves], "tree": tree}


def _row_of_1(
    path: str,
    shape: list[int],
    dtype: str,
    lies: str,
    data_shape: Sequence[int] = (),
    data_dtype: str = "",
    array: str = "",
    offset: int = 0,
    value: Any = None,
    impl: str | None = None,
) -> list[Any]:
    if lies == "inline":
        return [path, shape, dtype, lies, value]
    return [path, shape, dtype, lies, array, offset, data_shape, data_dtype, impl]


MIGRATIONS: Mapping[int, Migration] = {1: from_1}


def migrate(kind: Kind, document: Document, version: int) -> Document:
    """Brings a document to the current format version.

    Args:
        kind: Which document it is.
        document: What the file holds.
        version: The format version it was written in, at least 1.

    Returns:
        The document as the current version has it; the metadata's ``format_version`` still
        says which it was.

    Example:
        >>> migrate("metadata", {"format_version": 1, "step": 3}, 1)
        {'format_version': 1, 'step': 3}
    """
    for older in range(version, FORMAT_VERSION):
        document = MIGRATIONS[older](kind, document)
    return document
