"""A tree of arrays as a file for other tools."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from odyssey_jax.store import _files
from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError
from odyssey_jax.store._leaves import is_key
from odyssey_jax.store._paths import listed, split
from odyssey_jax.store._safetensors import write_safetensors

ExportFormat = Literal["orbax", "safetensors"]


def export(
    tree: Any,
    path: str | os.PathLike[str],
    format: ExportFormat = "orbax",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a tree of arrays for other tools; what is there appears whole or not at all.

    On several processes one of them calls this; it waits for no other.

    Args:
        tree: Dictionaries, lists and tuples of arrays, numpy's or jax's; of one that is spread
            over devices, this process must see all.
        path: Where to; nothing may be there.
        format: ``"orbax"`` for the directory of a plain Orbax checkpoint, which
            `StandardCheckpointer` reads; ``"safetensors"`` for one file, in which an array's
            name is its keys with ``.`` between them.
        metadata: Words about it, which only ``"safetensors"`` has a place for.

    Returns:
        The path, absolute.

    Raises:
        CheckpointError: The format is neither, something is there already, the tree holds no
            array or what the format cannot hold, or two arrays would have one name.
        CheckpointWriteError: It cannot be written.

    Example:
        >>> import tempfile
        >>> import orbax.checkpoint as ocp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export({"dense": {"bias": np.zeros(2)}}, f"{folder}/params")
        ...     with ocp.StandardCheckpointer() as orbax:
        ...         orbax.restore(path)
        {'dense': {'bias': array([0., 0.])}}
    """
    if format not in get_args(ExportFormat):
        raise CheckpointError(f"format must be 'orbax' or 'safetensors', got {format!r}")
    path = Path(os.path.abspath(path))
    if path.exists():
        raise CheckpointError(f"{str(path)!r} is there already; give another path, or delete it")
    tree = jax.tree_util.tree_map_with_path(_on_host, tree)
    arrays = _named(tree)
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if format == "orbax":
            _write_orbax(unfinished, tree, arrays)
            _files.sync_tree(unfinished)
        else:
            write_safetensors(unfinished, _numpy(arrays), metadata or {})
            _files.sync(unfinished)
        os.rename(unfinished, path)
        _files.sync(path.parent)
    except CheckpointError:
        raise
    except Exception as error:  # Orbax has many kinds for a full disk
        failure = CheckpointWriteError(f"{str(path)!r} was not written: {_files.reason(error)}")
        failure.errno = _files.errno_of(error)
        raise failure from error
    finally:
        _remove(unfinished)
    return path


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their names; Orbax, too, writes two of one name to one place."""
    paths: dict[str, list[str]] = {}
    arrays: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(path)
        name = ".".join(str(part.key) for part in split(path))
        paths.setdefault(name, []).append(path)
        arrays[name] = leaf
    for name, twins in paths.items():
        if len(twins) > 1:
            raise CheckpointError(
                f"leaves would have one name, {name!r}: {listed(twins)}; give their keys others"
            )
    if not arrays:
        raise CheckpointError("there is nothing to export: the tree holds no array")
    return arrays


def _on_host(path: Any, leaf: Any) -> Any:
    """A jax array as numpy's: the file is for any machine, whatever devices this one has."""
    if not isinstance(leaf, jax.Array) or is_key(leaf):
        return leaf
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise CheckpointError(
            f"leaf {jax.tree_util.keystr(path) or '(the whole tree)'} is spread over the devices "
            "of several processes, and one writes the file; gather it first, or export from a "
            "checkpoint"
        )
    return np.asarray(leaf)


def _numpy(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    for name, leaf in arrays.items():
        if not isinstance(leaf, np.ndarray | np.generic):
            raise CheckpointError(
                f"leaf {name!r} is a {type(leaf).__name__}, and a safetensors file holds arrays "
                "alone; export a subtree of arrays"
            )
    return {name: np.asarray(leaf) for name, leaf in arrays.items()}


def _write_orbax(path: Path, tree: Any, arrays: Mapping[str, Any]) -> None:
    for name, leaf in arrays.items():
        if isinstance(leaf, str) or getattr(leaf, "size", 1) == 0:
            raise CheckpointError(
                f"leaf {name!r} is {'a string' if isinstance(leaf, str) else 'empty'}, which "
                "Orbax cannot hold"
            )
    # Orbax takes a second to import, which a program without a store need not wait for.
    from odyssey_jax.store import _orbax

    _orbax.write_plain(path, tree)
