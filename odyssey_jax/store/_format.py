"""The documents of a step: strict JSON, what the store itself writes, versions, migrations.

A document is the metadata or the layout, as `json.loads` gives it.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import secrets
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from odyssey_jax.store._errors import CheckpointCorruptError, CheckpointVersionError

FORMAT_VERSION = 3

Document = dict[str, Any]
Kind = Literal["metadata", "layout"]
Migration = Callable[[Kind, Document], Document]


def _from_2(kind: Kind, document: Document) -> Document:
    """Name the arrays by themselves in full: they were numbers, and are their directories."""
    if kind == "metadata":
        return document
    rows = document["leaves"]
    return document | {
        "leaves": [[*r[:4], f"loose.{r[4]}", *r[5:]] if r[3] == "loose" else r for r in rows]
    }


# Version n -> the function that takes a document of version n and returns it as version n + 1
# has it. A version that was released has one here, and a fixture in the tests.
MIGRATIONS: dict[int, Migration] = {2: _from_2}

_FLOAT = "__float__"  # {"__float__": "nan"}: a number that JSON cannot write
_ITEMS = "__items__"  # {"__items__": [[k, v], ...]}: a mapping that JSON cannot write

_PACKAGES = {
    "odyssey_jax": "odyssey-jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
}
_RESERVED = ("format_version", "retention", "step", "superseded", "timestamp", "token", "versions")


def encode(value: Any, where: str = "metadata") -> Any:
    """Return a value as strict JSON can hold it.

    Non-finite floats and mappings whose keys are not strings are spelled out and come back
    as they were; numpy and jax scalars come back as Python's, arrays and tuples as lists.

    Args:
        value: None, bool, int, float, str, numpy or jax scalars and arrays, and lists,
            tuples and mappings of those.
        where: What to call the value in an error.

    Returns:
        The same in None, bool, int, finite float, str, list and dict.

    Raises:
        ValueError: If a value is of another type; the message names where it is.

    Example:
        >>> encode({"loss": float("nan"), "shape": (2, 3)})
        {'loss': {'__float__': 'nan'}, 'shape': [2, 3]}
        >>> decode(encode({1: float("-inf")}))
        {1: -inf}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        _check_digits(value, where)
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) for key in value)
        if plain and value.keys() not in ({_FLOAT}, {_ITEMS}):
            return {str(k): encode(v, f"{where}[{k!r}]") for k, v in value.items()}
        items = [(k, v, f"{where}[{k!r}]") for k, v in value.items()]
        return {_ITEMS: [[encode(k, at), encode(v, at)] for k, v, at in items]}
    if isinstance(value, list | tuple):
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        plain = array.dtype.kind in "biufV" and array.dtype.names is None
        if plain and array.dtype.type is not np.longdouble:
            return encode(array.tolist(), where)
    raise ValueError(
        f"{where} is {value!r} ({type(value).__name__}), which JSON cannot hold; "
        "give a number, a string, None, or lists and mappings of those."
    )


def _check_digits(value: int, where: str) -> None:
    """Raise ValueError if Python would not write the number, or not read it again."""
    limit = sys.get_int_max_str_digits()  # 0 is none
    if limit and value.bit_length() > 3 * limit and abs(value) >= 10**limit:
        raise ValueError(
            f"{where} is an integer of {value.bit_length()} bits, and Python writes none of more "
            f"than {limit} digits; give its bytes as an array of uint8."
        )


def decode(value: Any) -> Any:
    """Undo `encode`.

    Args:
        value: What `encode` returned, or `json.loads` of it.

    Returns:
        The value, with tuples as lists.

    Example:
        >>> decode({"best": {"__float__": "inf"}})
        {'best': inf}
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    if value.keys() == {_ITEMS}:
        return {hashable(decode(k)): decode(v) for k, v in value[_ITEMS]}
    return {key: decode(item) for key, item in value.items()}


def hashable(key: Any) -> Any:
    """Return a decoded key as it was, with tuples for lists."""
    return tuple(hashable(item) for item in key) if isinstance(key, list) else key


def dumps(value: Any) -> str:
    """Write an encoded value as JSON; raise ValueError if that is not strict.

    Example:
        >>> dumps(encode({"loss": float("inf")}))
        '{"loss": {"__float__": "inf"}}'
    """
    return json.dumps(value, allow_nan=False)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries a checkpoint depends on.

    Returns:
        Name -> version; ``"unknown"`` for a library that is not installed as a package.

    Example:
        >>> sorted(versions())
        ['flax', 'jax', 'jaxlib', 'odyssey_jax', 'optax', 'orbax', 'python']
    """
    return {"python": platform.python_version()} | {
        name: _version(package) for name, package in _PACKAGES.items()
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def header(
    step: int,
    timestamp: float,
    metadata: Mapping[str, Any],
    retention: Mapping[str, Any],
    superseded: Mapping[int, str | None] = MappingProxyType({}),
) -> Document:
    """Put the store's own metadata before the caller's.

    Args:
        step: The step.
        timestamp: Seconds since the epoch.
        metadata: The caller's.
        retention: The store's; it tells a reader which step is best.
        superseded: Steps that this one takes the place of -> their tokens.

    Returns:
        Both, encoded for JSON.

    Raises:
        ValueError: If the caller's has a name that is no string or that the store writes
            itself, its metrics are not a mapping, or it holds what JSON cannot.

    Example:
        >>> header(3, 0.0, {"metrics": {"loss": 0.5}}, {"keep_last": 1})["metrics"]
        {'loss': 0.5}
    """
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must map names to values, got {metadata!r}.")
    if odd := [name for name in metadata if not isinstance(name, str)]:
        raise ValueError(
            f"metadata must have strings as names, and {odd} are none: 1 and '1' would be one; "
            "put them into a mapping of their own, whose keys are kept as they are."
        )
    if taken := [name for name in _RESERVED if name in metadata]:
        raise ValueError(f"metadata {taken} is written by the store; leave it out.")
    if not isinstance(metadata.get("metrics", {}), Mapping):
        raise ValueError(
            f"metadata['metrics'] must map names to numbers, got {metadata['metrics']!r}."
        )
    own = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "timestamp": float(timestamp),
        # Which save of the step it is: a clock may stand, or be set back.
        "token": secrets.token_hex(8),
        "retention": dict(retention),
        "versions": versions(),
    }
    if superseded:
        own["superseded"] = [[old, token] for old, token in superseded.items()]
    return own | {k: encode(v, f"metadata[{k!r}]") for k, v in metadata.items()}


def check_version(header: Mapping[str, Any], name: str) -> int:
    """Return the format version of a checkpoint.

    Args:
        header: Its metadata.
        name: What to call it.

    Raises:
        CheckpointVersionError: If its format is newer than this library reads.
        CheckpointCorruptError: If it has no format version, or one that was never released.

    Example:
        >>> check_version({"format_version": FORMAT_VERSION}, "checkpoint 3")
        3
    """
    found = header.get("format_version")
    oldest = min(MIGRATIONS, default=FORMAT_VERSION)
    if not isinstance(found, int) or isinstance(found, bool) or found < oldest:
        raise CheckpointCorruptError(f"it has no format version (found {_shown(found)})")
    if found > FORMAT_VERSION:
        known = header.get("versions")
        library = known.get("odyssey_jax", "unknown") if isinstance(known, dict) else "unknown"
        raise CheckpointVersionError(
            f"{name} has format version {found}, and this odyssey_jax "
            f"({versions()['odyssey_jax']}) reads up to {FORMAT_VERSION}. It was written by "
            f"odyssey_jax {library}: "
            "upgrade odyssey_jax to that version or later"
        )
    return found


def check_header(header: Mapping[str, Any], step: int) -> None:
    """Raise CheckpointCorruptError unless the store's own metadata are of their kinds.

    Args:
        header: The decoded metadata, in the current format version.
        step: The step whose directory it lies in.

    Example:
        >>> check_header({"step": 1}, 2)
        Traceback (most recent call last):
        odyssey_jax.store._errors.CheckpointCorruptError: metadata/metadata is of step 1: ...
    """
    found = header.get("step")
    if type(found) is int and found != step:
        raise CheckpointCorruptError(
            f"metadata/metadata is of step {found}: the directory is a copy of that step's, or was "
            "renamed"
        )
    for name, fits in _KINDS.items():
        value = header.get(name)
        if (name in header or name not in _OPTIONAL) and not fits(value):
            shown = _shown(value)
            raise CheckpointCorruptError(f"metadata/metadata makes no sense: {name} is {shown}")


def _shown(value: Any) -> str:
    """Return a value that may be anything, in a few words."""
    plain = isinstance(value, int | float | str | None)
    return repr(value)[:40] if plain else f"a {type(value).__name__}"


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_retention(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("mode") in ("min", "max")
        and isinstance(value.get("monitor"), str | None)
        and _is_count(value.get("keep_best"))
        and all(
            value.get(name) is None or _is_count(value[name], 1)
            for name in ("keep_last", "keep_every")
        )
    )


def _is_superseded(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 2 and _is_count(row[0]) for row in value
    )


_OPTIONAL = ("token", "superseded", "metrics")
_KINDS: dict[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "timestamp": lambda value: type(value) in (int, float) and abs(value) < math.inf,
    "token": lambda value: isinstance(value, str),
    "retention": _is_retention,
    "versions": lambda value: isinstance(value, dict),
    "superseded": _is_superseded,
    "metrics": lambda value: isinstance(value, dict),
}


def migrate(kind: Kind, document: Document, version: int) -> Document:
    """Return a document as the current format version has it.

    Args:
        kind: Which document it is.
        document: What the file holds.
        version: The format version it was written in, as `check_version` returned it.

    Returns:
        The document; the metadata's ``format_version`` still says which it was.

    Example:
        >>> migrate("layout", {"leaves": [["['w']", [8], "int16", "loose", "00008", 0]]}, 2)
        {'leaves': [["['w']", [8], 'int16', 'loose', 'loose.00008', 0]]}
    """
    for older in range(version, FORMAT_VERSION):
        document = MIGRATIONS[older](kind, document)
    return document
