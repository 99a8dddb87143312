"""The format's version, and the part of the metadata that the store itself writes."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from odyssey_jax.store._encode import encode
from odyssey_jax.store._errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointVersionError,
)

FORMAT_VERSION = 2

_PACKAGES = {
    "odyssey_jax": "odyssey-jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
}
_RESERVED = ("format_version", "retention", "step", "superseded", "timestamp", "versions")


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the libraries a checkpoint depends on.

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
    superseded: Mapping[int, float | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """Puts the store's own metadata before the caller's.

    Args:
        step: The step.
        timestamp: Seconds since the epoch.
        metadata: The caller's.
        retention: The store's; it tells a reader which step is best.
        superseded: Steps that this one takes the place of -> their timestamps.

    Returns:
        Both, encoded for JSON.

    Raises:
        CheckpointError: The caller's has a name that is no string or that the store writes
            itself, its metrics are not a mapping, or it holds what JSON cannot.

    Example:
        >>> header(3, 0.0, {"metrics": {"loss": 0.5}}, {"keep_last": 1})["metrics"]
        {'loss': 0.5}
    """
    if not isinstance(metadata, Mapping):
        raise CheckpointError(f"metadata must map names to values, got {metadata!r}")
    if odd := [name for name in metadata if not isinstance(name, str)]:
        raise CheckpointError(
            f"metadata must have strings as names, and {odd} are none: 1 and '1' would be one; "
            "put them into a mapping of their own, whose keys are kept as they are"
        )
    if taken := [name for name in _RESERVED if name in metadata]:
        raise CheckpointError(f"metadata {taken} is written by the store; leave it out")
    if not isinstance(metadata.get("metrics", {}), Mapping):
        raise CheckpointError(
            f"metadata['metrics'] must map names to numbers, got {metadata['metrics']!r}"
        )
    own = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "timestamp": float(timestamp),
        "retention": dict(retention),
        "versions": versions(),
    }
    if superseded:
        own["superseded"] = [[old, stamp] for old, stamp in superseded.items()]
    return own | {k: encode(v, f"metadata[{k!r}]") for k, v in metadata.items()}


def check_version(header: Mapping[str, Any], name: str) -> int:
    """Refuses a checkpoint that this version cannot read.

    Args:
        header: A checkpoint's metadata.
        name: What to call the checkpoint.

    Returns:
        The format version.

    Raises:
        CheckpointVersionError: Its format is newer.
        CheckpointCorruptError: It has no format version.

    Example:
        >>> check_version({"format_version": 1}, "checkpoint 3")
        1
    """
    found = header.get("format_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise CheckpointCorruptError(f"it has no format version (found {found!r})")
    if found > FORMAT_VERSION:
        library = header.get("versions", {}).get("odyssey_jax", "unknown")
        raise CheckpointVersionError(
            f"{name} has format version {found}, and this odyssey_jax "
            f"({versions()['odyssey_jax']}) reads up to {FORMAT_VERSION}. It was written by "
            f"odyssey_jax {library}: "
            "upgrade odyssey_jax to that version or later"
        )
    return found
