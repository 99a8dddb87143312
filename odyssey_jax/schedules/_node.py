"""A frozen dataclass as a pytree: numbers are leaves, choices are static."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax

_Kind = TypeVar("_Kind", bound=type[Any])


def is_static(field: Any) -> bool:
    """Whether a dataclass field is a choice (static) and not a number (a leaf)."""
    return bool(field.metadata.get("static"))


def node(kind: _Kind) -> _Kind:
    """Register a dataclass as a pytree node; fields marked `static` in their metadata are not data.

    Not `jax.tree_util.register_dataclass`: as of JAX 0.12 the structures of two dataclasses with
    as many fields compare equal, whatever their types. `jax.jit` finds its programs by structure,
    so once in a few hundred times, when the hashes fall together, a linear warm-up was run by the
    program of a step decay. Here the type is part of what is compared.
    """
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
