"""The one place that calls Orbax: steps are written here, and sharded arrays read.

A step is an Orbax checkpoint of three items: ``state`` (arrays, Zarr, uncompressed, one
file for each chunk), ``metadata`` and ``layout`` (JSON). Orbax reads it without odyssey_jax.
Beside them lies ``checksums.json``, which Orbax does not look at.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from odyssey_jax.store import _checksums
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._files import sync, sync_files, sync_tree
from odyssey_jax.store._layout import Layout
from odyssey_jax.store._packs import aligned
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
    result = aligned(array.shape, array.dtype.numpy_dtype)
    await ts.array(result).write(array)
    return result


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, _PackHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, type_handler_registry=registry
    )


# Directories first: where one cannot be made, Orbax's threads would wait for it for five
# minutes, and the program's end for them.
_IN_TURN = ocp.AsyncOptions(create_directories_asynchronously=False)


class Writer:
    """Writes steps into one directory, each atomically.

    Args:
        directory: The store's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._finish: Callable[[], None] | None = None
        with quiet():
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(
                    state=_state_handler(),
                    metadata=ocp.JsonCheckpointHandler(),
                    layout=ocp.JsonCheckpointHandler(),
                    composite_options=ocp.CompositeOptions(async_options=_IN_TURN),
                ),
                # Called when all files are written, before the rename that commits them.
                async_options=dataclasses.replace(
                    _IN_TURN, post_finalization_callback=self._before_commit
                ),
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
        final = self._directory / str(step)
        sums: Future[dict[str, Checksum]] = Future()
        with quiet():
            unfinished = self._directory / f"{step}.orbax-checkpoint-tmp"
            self._finish = lambda: _finish(unfinished, sums, loose)
            self._orbax.save(final, args=ocp.args.Composite(**items))
            # Only now, while the files are being written: sooner it would delay their begin.
            try:
                sums.set_result(_checksums.of_packs(packed, layout.packs))
            except BaseException as error:  # `_finish` waits for it, and raises it
                sums.set_exception(error)
            self._orbax.wait_until_finished()
        sync_files(final)  # Orbax wrote its marker there after `_finish`
        sync(self._directory)

    def _before_commit(self) -> None:
        assert self._finish is not None
        self._finish()

    def close(self) -> None:
        """Ends Orbax's threads."""
        with quiet():
            self._orbax.close()


def _finish(
    unfinished: Path, sums: Future[dict[str, Checksum]], loose: Mapping[str, jax.Array]
) -> None:
    """Writes the checksums, and makes all of it durable."""
    _checksums.write(unfinished, sums.result() | _checksums.of_loose(unfinished, loose))
    sync_tree(unfinished)


def read_loose(path: Path, shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a step's arrays by themselves.

    Args:
        path: The step's directory.
        shardings: Names of the arrays to read -> the sharding to read them into, or None
            for a numpy array.

    Returns:
        The arrays by name.
    """
    how = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)
        for name, sharding in shardings.items()
    }
    item = {"loose": dict.fromkeys(how, 0)}
    with quiet():
        reader = ocp.Checkpointer(_state_handler())
        args = ocp.args.PyTreeRestore(item, restore_args={"loose": how}, partial_restore=True)
        tree = reader.restore(path / "state", args=args)
        reader.close()
    found = tree.get("loose", {})
    if lost := how.keys() - found.keys():  # Orbax leaves them out
        raise FileNotFoundError(f"arrays {sorted(lost)} are not in {path / 'state'}")
    return found
