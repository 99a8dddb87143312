"""Frozen dataclasses as pytrees: numbers are leaves, choices are static."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

_Kind = TypeVar("_Kind", bound=type[Any])


def is_static(field: Any) -> bool:
    """Return whether a dataclass field is a choice (static) and not a number (a leaf)."""
    return bool(field.metadata.get("static"))


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def node(kind: _Kind) -> _Kind:
    """Make a class a frozen dataclass, unless it is one, and a pytree node.

    Fields are leaves or subtrees, except those marked `static` in their metadata. An `__eq__` or
    `__repr__` that a base class wrote by hand is kept.

    Args:
        kind: The class.

    Returns:
        The same class.

    Example:
        >>> import dataclasses
        >>> import jax
        >>> from odyssey_jax.schedules import node
        >>> @node
        ... class Line:
        ...     slope: float
        ...     name: str = dataclasses.field(default="line", metadata={"static": True})
        >>> jax.tree.map(lambda x: 2 * x, Line(1.5))
        Line(slope=3.0, name='line')
    """
    if "__dataclass_fields__" not in vars(kind):
        eq, show = (not _is_written(kind, name) for name in ("__eq__", "__repr__"))
        kind = dataclasses.dataclass(frozen=True, eq=eq, repr=show)(kind)
    # Not `jax.tree_util.register_dataclass`: as of JAX 0.12 the structures of two dataclasses with
    # as many fields compare equal, whatever their types. `jax.jit` finds its programs by structure,
    # so once in a few hundred times, when the hashes collide, a linear warm-up was run by the
    # program of a step decay. Here the type is part of what is compared.
    fields = dataclasses.fields(kind)
    data = tuple(f.name for f in fields if not is_static(f))
    static = tuple(f.name for f in fields if is_static(f))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def flatten(x: Any) -> tuple[tuple[Any, ...], Any]:
        choices = tuple(getattr(x, name) for name in static)
        return tuple(getattr(x, name) for name in data), (kind, *choices)

    def flatten_with_keys(x: Any) -> tuple[tuple[Any, ...], Any]:
        leaves, auxiliary = flatten(x)
        return tuple(zip(keys, leaves, strict=True)), auxiliary

    def unflatten(auxiliary: Any, leaves: Iterable[Any]) -> Any:
        numbers = zip(data, leaves, strict=True)
        return kind(**dict(numbers), **dict(zip(static, auxiliary[1:], strict=True)))

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
    return kind


def _is_written(kind: type[Any], name: str) -> bool:
    """Return whether a base class defines a method by hand: neither `object` nor a dataclass."""
    owner = next(base for base in kind.__mro__[1:] if name in vars(base))
    return owner is not object and not dataclasses.is_dataclass(owner)
