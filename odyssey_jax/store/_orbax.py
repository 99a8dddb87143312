"""The one place that calls Orbax: a step is written here, and its arrays are read here.

A step is an Orbax checkpoint of three items: ``state`` (arrays, Zarr, uncompressed, one
file for each chunk), ``metadata`` and ``layout`` (JSON). Orbax reads it without odyssey_jax.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from odyssey_jax.store._files import sync, sync_tree
from odyssey_jax.store._layout import ALIGNMENT, Layout
from odyssey_jax.store._quiet import quiet


class _PackHandler(type_handlers.NumpyHandler):
    """Reads arrays into memory that XLA can use where it lies."""

    def __init__(self) -> None:
        # The snapshot is ours alone, so Orbax need not copy it once more.
        super().__init__(deepcopy_host_arrays=False)

    async def deserialize(self, infos: Sequence[Any], args: Any = None) -> list[np.ndarray]:
        del args
        return list(await asyncio.gather(*(_read(info) for info in infos)))


async def _read(info: Any) -> np.ndarray:
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": str(info.parent_dir / info.name)},
        "fill_missing_data_reads": False,  # a chunk that is gone is an error, not zeros
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
    }
    array = await ts.open(spec, open=True, read=True)
    result = _aligned(array.shape, array.dtype.numpy_dtype)
    await ts.array(result).write(array)
    return result


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, _PackHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, type_handler_registry=registry
    )


class Writer:
    """Writes steps into one directory, each atomically.

    Args:
        directory: The store's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unfinished: Path | None = None
        with quiet():
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(
                    state=_state_handler(),
                    metadata=ocp.JsonCheckpointHandler(),
                    layout=ocp.JsonCheckpointHandler(),
                ),
                # Called when all files are written, before the rename that commits them.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._sync),
            )

    def write(
        self,
        step: int,
        header: Mapping[str, Any],
        layout: Layout,
        described: Mapping[str, Any],
        packed: Mapping[str, np.ndarray],
        loose: Mapping[str, jax.Array],
    ) -> None:
        """Writes one step and commits it; returns when it would survive a power loss.

        Args:
            step: Its number, not committed so far.
            header: The metadata, encoded.
            layout: The layout.
            described: The layout, encoded.
            packed: The packed arrays, as they are to be stored.
            loose: The arrays by themselves.
        """
        items: dict[str, Any] = {
            "metadata": ocp.args.JsonSave(dict(header)),
            "layout": ocp.args.JsonSave(dict(described)),
        }
        tree = {kind: dict(a) for kind, a in (("packed", packed), ("loose", loose)) if a}
        if tree:
            how = jax.tree.map(lambda _: ocp.SaveArgs(), tree)
            for name, array in packed.items():
                pack = layout.packs[name]
                if pack.chunk < pack.size:
                    itemsize = array.nbytes // pack.size
                    how["packed"][name] = ocp.SaveArgs(chunk_byte_size=pack.chunk * itemsize)
            items["state"] = ocp.args.PyTreeSave(tree, save_args=how)
        with quiet():
            self._unfinished = self._directory / f"{step}.orbax-checkpoint-tmp"
            self._orbax.save(self._directory / str(step), args=ocp.args.Composite(**items))
            self._orbax.wait_until_finished()
        sync(self._directory)

    def _sync(self) -> None:
        assert self._unfinished is not None
        sync_tree(self._unfinished)

    def close(self) -> None:
        """Ends Orbax's threads."""
        with quiet():
            self._orbax.close()


def read(
    path: Path, packed: Sequence[str], loose: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a step's arrays.

    Args:
        path: The step's directory.
        packed: Names of the packed arrays to read.
        loose: Names of the arrays by themselves to read -> the sharding to read them
            into, or None for a numpy array.

    Returns:
        The packed arrays in their stored dtype, and the others.
    """
    if not packed and not loose:
        return {}, {}
    plain = ocp.RestoreArgs(restore_type=np.ndarray)
    how: dict[str, dict[str, Any]] = {"packed": dict.fromkeys(packed, plain)}
    how["loose"] = {
        name: plain
        if sharding is None
        else ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)
        for name, sharding in loose.items()
    }
    how = {kind: args for kind, args in how.items() if args}
    item = jax.tree.map(lambda _: 0, how)
    with quiet():
        reader = ocp.Checkpointer(_state_handler())
        args = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
        tree = reader.restore(path / "state", args=args)
        reader.close()
    for kind, wanted in how.items():
        if lost := wanted.keys() - tree.get(kind, {}).keys():  # Orbax leaves them out
            raise FileNotFoundError(f"{kind} arrays {sorted(lost)} are not in {path / 'state'}")
    return tree.get("packed", {}), tree.get("loose", {})
