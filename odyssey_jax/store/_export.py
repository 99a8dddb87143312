"""A tree of arrays as a file for other tools: a plain Orbax checkpoint, or safetensors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from odyssey_jax._checks import check_words
from odyssey_jax.store import _files
from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError
from odyssey_jax.store._leaves import is_key, listed, split

ExportFormat = Literal["orbax", "safetensors"]

# NumPy's name of a dtype -> that of safetensors.
SAFETENSORS_NAMES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_METADATA = "__metadata__"


def export(
    tree: Any,
    path: str | os.PathLike[str],
    format: ExportFormat = "orbax",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a tree of arrays for other tools; what is there appears whole or not at all.

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
        ValueError: If the format is neither, the tree holds no array or what the format cannot
            hold, or two arrays would have one name.
        CheckpointError: If something is there already.
        CheckpointWriteError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> import orbax.checkpoint as ocp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export({"dense": {"bias": np.zeros(2)}}, f"{folder}/params")
        ...     with ocp.StandardCheckpointer() as orbax:
        ...         orbax.restore(path)
        {'dense': {'bias': array([0., 0.])}}
    """
    check_words("format", format, get_args(ExportFormat))
    path = _files.local_directory(path, "path")
    if path.exists():
        raise CheckpointError(f"{str(path)!r} is there already; give another path, or delete it")
    tree = jax.tree_util.tree_map_with_path(_on_host, tree)
    arrays = _named(tree)
    check = _check_orbax if format == "orbax" else _check_safetensors
    for name, leaf in arrays.items():
        check(name, leaf)
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if format == "orbax":
            # Orbax takes a second to import, which a program without a store need not wait for.
            from odyssey_jax.store import _orbax

            _orbax.write_plain(unfinished, tree)
            _files.sync_tree(unfinished)
        else:
            numpy = {name: np.asarray(leaf) for name, leaf in arrays.items()}
            _write_safetensors(unfinished, numpy, metadata or {})
            _files.sync(unfinished)
        os.rename(unfinished, path)
        _files.sync(path.parent)
    except Exception as error:  # Orbax has many kinds for a full disk
        failure = CheckpointWriteError(f"{str(path)!r} was not written: {_files.reason(error)}")
        failure.errno = _files.errno_of(error)
        raise failure from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return path


def _on_host(path: Any, leaf: Any) -> Any:
    """Return a jax array as numpy's: the file is for any machine, whatever devices this one has."""
    if not isinstance(leaf, jax.Array) or is_key(leaf):
        return leaf
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"leaf {jax.tree_util.keystr(path) or '(the whole tree)'} is spread over the devices "
            "of several processes, and one writes the file; gather it first, or export from a "
            "checkpoint."
        )
    return np.asarray(leaf)


def _named(tree: Any) -> dict[str, Any]:
    """Return the leaves by their names; Orbax, too, writes two of one name to one place."""
    paths: dict[str, list[str]] = {}
    arrays: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(path)
        name = ".".join(str(part.key) for part in split(path))
        paths.setdefault(name, []).append(path)
        arrays[name] = leaf
    for name, twins in paths.items():
        if len(twins) > 1:
            raise ValueError(
                f"leaves would have one name, {name!r}: {listed(twins)}; give their keys others."
            )
    if not arrays:
        raise ValueError("there is nothing to export: the tree holds no array.")
    return arrays


def _check_orbax(name: str, leaf: Any) -> None:
    if isinstance(leaf, str) or getattr(leaf, "size", 1) == 0:
        raise ValueError(
            f"leaf {name!r} is {'a string' if isinstance(leaf, str) else 'empty'}, which "
            "Orbax cannot hold; export it with format='safetensors', or a subtree without it."
        )


def _check_safetensors(name: str, leaf: Any) -> None:
    if not isinstance(leaf, np.ndarray | np.generic):
        raise ValueError(
            f"leaf {name!r} is a {type(leaf).__name__}, and a safetensors file holds arrays "
            "alone; export a subtree of arrays."
        )
    if leaf.dtype.name not in SAFETENSORS_NAMES or name == _METADATA:
        raise ValueError(
            f"leaf {name!r} of dtype {leaf.dtype.name} has no place in a safetensors file, "
            f"which holds {', '.join(SAFETENSORS_NAMES)}; export it with format='orbax'."
        )


def _write_safetensors(
    file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays into one file of the safetensors format.

    A length of 8 bytes, a JSON header of that length with each array's dtype, shape and place,
    and the arrays' bytes in little-endian order one after the other.

    Args:
        file: Where to.
        arrays: Name -> array, of the dtypes that the format has names for.
        metadata: Words about them, in the header.

    Source:
        https://huggingface.co/docs/safetensors#format
    """
    header: dict[str, object] = {_METADATA: dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8 bytes
    with file.open("xb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            stream.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
