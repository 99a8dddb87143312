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
from odyssey_jax.store._rounds import Rounds


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


def _alone() -> ocp.options.MultiprocessingOptions:
    """Each process calls Orbax by itself: what they must do together is in `Rounds`."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, _PackHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, type_handler_registry=registry
    )


class _Folder(ocp.path.atomicity.CommitFileTemporaryPath):
    """An item's directory, which bears its last name at once.

    Nobody looks into a step before it is renamed as a whole. To rename and mark each item too
    takes Orbax an event loop each, together a fifth of the time of a small save.
    """

    async def create(self) -> Any:
        self.get().mkdir()
        return self.get()

    async def finalize(self) -> None:
        """There is nothing left to be done."""


# Directories first: other processes write into them; and where one cannot be made, Orbax's
# threads would wait for it for five minutes, and the program's end for them. And no limit of ten
# minutes to a save, which a slow disk may take and a program that was suspended has taken.
_IN_TURN = ocp.AsyncOptions(
    create_directories_asynchronously=False,
    timeout_secs=7 * 24 * 3600,
)


class Writer:
    """Writes steps into one directory, each atomically; the first process has one.

    Args:
        directory: The store's directory.
        rounds: Where the processes meet.
    """

    def __init__(self, directory: Path, rounds: Rounds) -> None:
        self._directory, self._rounds = directory, rounds
        self._finish: Callable[[], None] | None = None
        self._begun: Future[Path] | None = None  # where other processes write their part
        options = dataclasses.replace(
            _IN_TURN,
            # Called when this process has written its files, before they are finished.
            barrier_sync_fn=self._barrier,
            # Called when all files are written, before the rename that commits them.
            post_finalization_callback=self._before_commit,
        )
        with quiet():
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(
                    state=_state_handler(),
                    metadata=ocp.JsonCheckpointHandler(),
                    layout=ocp.JsonCheckpointHandler(),
                    composite_options=ocp.CompositeOptions(
                        async_options=_IN_TURN,
                        multiprocessing_options=_alone(),
                        temporary_path_class=_Folder,
                    ),
                ),
                async_options=options,
                multiprocessing_options=_alone(),
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
        self._begun = Future() if loose and jax.process_count() > 1 else None
        with quiet():
            unfinished = self._directory / f"{step}.orbax-checkpoint-tmp"
            self._finish = lambda: _finish(unfinished, sums, self._sum_loose(unfinished, loose))
            self._orbax.save(final, args=ocp.args.Composite(**items))
            if self._begun is not None:
                state = next(unfinished.glob("state*"))
                _settle(self._begun, lambda: self._rounds.begun(state))
            # Only now, while the files are being written: sooner it would delay their begin.
            _settle(sums, lambda: _checksums.of_packs(packed, layout.packs))
            self._orbax.wait_until_finished()
        sync_files(final)  # Orbax wrote its marker there after `_finish`
        sync(self._directory)

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        del timeout_ms
        if self._begun is not None and "async_write_complete" in key:
            self._begun.result()
            self._rounds.written()

    def _before_commit(self) -> None:
        assert self._finish is not None
        self._finish()

    def _sum_loose(self, unfinished: Path, loose: Mapping[str, jax.Array]) -> dict[str, Checksum]:
        if not loose:
            return {}
        self._rounds.finished()
        return self._rounds.summed(_checksums.of_loose(unfinished, loose))

    def close(self) -> None:
        """Ends Orbax's threads."""
        with quiet():
            self._orbax.close()


def _settle(future: Future[Any], compute: Callable[[], Any]) -> None:
    """Computes what Orbax's thread waits for; an exception is raised there, and ends the save."""
    try:
        future.set_result(compute())
    except BaseException as error:
        future.set_exception(error)


def _finish(
    unfinished: Path, packed: Future[dict[str, Checksum]], loose: Mapping[str, Checksum]
) -> None:
    """Writes the checksums, and makes all of it durable."""
    _checksums.write(unfinished, packed.result() | dict(loose))
    sync_tree(unfinished)


class ShardWriter:
    """Writes the shards that a process holds; each process but the first has one.

    TensorStore makes every file that it writes durable; the directories are the first's.

    Args:
        directory: The store's directory.
        rounds: Where the processes meet.
    """

    def __init__(self, directory: Path, rounds: Rounds) -> None:
        self._directory, self._rounds = directory, rounds
        self._handler = _state_handler()

    def write(
        self,
        step: int,
        header: Mapping[str, Any],
        layout: Layout,
        described: Mapping[str, Any],
        packed: Mapping[str, np.ndarray],
        loose: Mapping[str, jax.Array],
    ) -> None:
        """Writes this process's share of one step; the arguments are `Writer.write`'s."""
        del header, layout, described, packed
        if not loose:
            return
        state: Any = self._rounds.begun(None)
        with quiet():
            self._handler.save(state, args=ocp.args.PyTreeSave({"loose": dict(loose)}))
        self._rounds.written()
        self._rounds.finished()
        unfinished = self._directory / f"{step}.orbax-checkpoint-tmp"
        self._rounds.summed(_checksums.of_loose(unfinished, loose))

    def close(self) -> None:
        """Ends Orbax's threads."""
        with quiet():
            self._handler.close()


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
        reader = ocp.Checkpointer(_state_handler(), multiprocessing_options=_alone())
        args = ocp.args.PyTreeRestore(item, restore_args={"loose": how}, partial_restore=True)
        try:
            tree = reader.restore(path / "state", args=args)
        except Exception as error:
            if type(error) is Exception and error.__cause__ is not None:
                raise error.__cause__ from None  # TensorStore's, in a plain one of Orbax's
            raise
        finally:
            reader.close()
    found = tree.get("loose", {})
    if lost := how.keys() - found.keys():  # Orbax leaves them out
        raise FileNotFoundError(f"arrays {sorted(lost)} are not in {path / 'state'}")
    return found


def write_plain(path: Path, tree: Any) -> None:
    """Writes what Orbax's `StandardCheckpointer` reads, in this process alone.

    Args:
        path: A directory that is not there yet.
        tree: A tree of numpy arrays and numbers.
    """
    with quiet(), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as writer:
        writer.save(path, tree)
