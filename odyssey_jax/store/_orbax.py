"""The one place that calls Orbax: steps are written here, and what Orbax alone wrote is read.

The rest of the store knows `Writer`, `ShardWriter`, `PlainReader` and `write_plain`, so that
another of Orbax's APIs would change this file alone.

A step is an Orbax checkpoint of three items: ``state`` (arrays, Zarr, uncompressed, one
file for each chunk), ``metadata`` and ``layout`` (JSON). Orbax reads it without odyssey_jax.
Beside them lies ``checksums.json``, which Orbax does not look at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from odyssey_jax.store import _checksums
from odyssey_jax.store._barriers import Barriers
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._files import UNFINISHED, sync, sync_files, sync_tree
from odyssey_jax.store._layout import Layout, to_json
from odyssey_jax.store._linked import link
from odyssey_jax.store._snapshot import Arrays

# Orbax reports through absl what it also raises, with whole tracebacks, and warns of
# things that are as the store wants them. Other users of absl are not touched.
_ORBAX = f"{os.sep}orbax{os.sep}"
_quiet_lock = threading.Lock()
_quiet_users = 0


def _not_orbax(record: logging.LogRecord) -> bool:
    return _ORBAX not in record.pathname


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Return whether a report is of no task of Orbax's, of several that fail in one save."""
    return _ORBAX not in record.getMessage()


def _unraisable_hook(report: sys.UnraisableHookArgs) -> None:
    """Report an exception that cannot be raised, except what TensorStore's writes end in.

    When one write of a save fails, Orbax closes its event loop under the others; each then
    reports "Event loop is closed", which says nothing that the save's own error does not.
    """
    closed = isinstance(report.exc_value, RuntimeError) and report.object is None
    if not (closed and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)


def _install_filters() -> None:
    logging.getLogger("absl").addFilter(_not_orbax)
    logging.getLogger("asyncio").addFilter(_not_of_orbax)
    if sys.unraisablehook is sys.__unraisablehook__:  # a hook of the user's own is left alone
        sys.unraisablehook = _unraisable_hook


def _remove_filters() -> None:
    logging.getLogger("absl").removeFilter(_not_orbax)
    logging.getLogger("asyncio").removeFilter(_not_of_orbax)
    if sys.unraisablehook is _unraisable_hook:
        sys.unraisablehook = sys.__unraisablehook__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop Orbax's reports while it is open, in any thread; may be nested.

    After a failure it stays so: Orbax's other threads go on failing, and reporting, for a
    while, and the store reports the failure itself.
    """
    global _quiet_users
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            _install_filters()
    yield  # not in a `finally`: an exception leaves the count as it is
    with _quiet_lock:
        _quiet_users -= 1
        if _quiet_users == 0:
            _remove_filters()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Let each process call Orbax by itself: what they must do together is in `Barriers`."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


# Of a part that several devices have copies of each writes a slice, if slices are so large: a file
# each, and of thousands of devices as many files for each array.
_LEAST_SLICE = 32 * 2**20  # bytes


class _There:
    """An array that another step has.

    Args:
        directory: Its directory there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory


class _LinkHandler(type_handlers.NumpyHandler):
    """What Orbax calls to write such an array; to whoever reads it, it is one of NumPy's."""

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        """Link to its files."""
        del args
        for there, info in zip(values, infos, strict=True):
            link(there.directory, Path(info.path))
        return []

    def memory_size(self, values: Any) -> Any:
        """Say that nothing is written, and nothing read."""
        return [(0, 0) for _ in values]


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    registry = type_handlers.create_type_handler_registry(
        # The snapshot is ours alone, so Orbax need not copy it once more.
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (
            jax.Array,
            type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_SLICE),
        ),
        (_There, _LinkHandler()),
    )
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, type_handler_registry=registry
    )


class _Folder(ocp.path.atomicity.CommitFileTemporaryPath):
    """An item's directory, which bears its final name at once.

    Nobody looks into a step before it is renamed as a whole. To rename and mark each item too
    takes Orbax an event loop each, together a fifth of the time of a small save.
    """

    async def create(self) -> Any:
        self.get().mkdir()
        return self.get()

    async def finalize(self) -> None:
        """Do nothing: it has its name already."""


# Directories first: other processes write into them; and where one cannot be made, Orbax's
# threads would wait for it for 5 minutes, and the program's end for them. And 200 years instead of
# Orbax's 10 minutes for a save: a slow disk may take them, and a suspended program has. It counts
# them by the clock of the day, which may be set by decades, as at the first contact with NTP.
_IN_TURN = ocp.AsyncOptions(
    create_directories_asynchronously=False,
    timeout_secs=200 * 365 * 24 * 3600,
)


class Writer:
    """The writer of whole steps, each atomically; the first process has one.

    Args:
        directory: Where to.
        barriers: Where the processes meet.
        shared: Whether the other processes write there as well.
    """

    def __init__(self, directory: Path, barriers: Barriers, *, shared: bool = True) -> None:
        self._directory, self._barriers, self._shared = directory, barriers, shared
        self._finish: Callable[[], None] | None = None
        self._begun: Future[None] | None = None  # when other processes may write their part
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
        arrays: Arrays,
    ) -> None:
        """Write one step and commit it; return when it would survive a power loss.

        Args:
            step: Its number, not committed so far.
            header: The metadata, encoded.
            layout: The layout.
            arrays: The arrays, as they are to be stored.
        """
        items: dict[str, Any] = {
            "metadata": ocp.args.JsonSave(dict(header)),
            "layout": ocp.args.JsonSave(to_json(layout)),
        }
        packed, spread, linked = arrays.packed, arrays.spread, arrays.linked
        written: dict[str, Any] = {f"packed.{n}": a for n, a in packed.items()}
        written |= arrays.whole | spread
        there = {d: _There(linked.root / "state" / d) for d in linked.arrays.values()}
        if tree := _nested(written | there):
            how = jax.tree.map(lambda _: ocp.SaveArgs(), tree)
            for name, array in packed.items():
                pack = layout.packs[name]
                if pack.chunk < pack.size:
                    itemsize = array.nbytes // pack.size
                    how["packed"][name] = ocp.SaveArgs(chunk_byte_size=pack.chunk * itemsize)
            items["state"] = ocp.args.PyTreeSave(tree, save_args=how)
        final = self._directory / str(step)
        sums: Future[dict[str, Checksum]] = Future()
        self._begun = Future() if spread and jax.process_count() > 1 else None
        with quiet():
            unfinished = self._directory / f"{step}.{UNFINISHED}"
            self._finish = lambda: self._finish_in(unfinished, sums, spread)
            # Writes into the unfinished directory, in threads. When all is written they call
            # `_before_commit`, which adds the checksums and makes everything durable, and only
            # then rename it: that one rename is the commit.
            self._orbax.save(final, args=ocp.args.Composite(**items))
            if self._begun is not None:
                _settle(self._begun, self._barriers.begun)
            # While the files are being written: before `save` it would delay them.
            _settle(
                sums,
                lambda: {
                    **_checksums.of_whole(packed, layout.packs, arrays.whole),
                    **linked.sums,
                },
            )
            self._orbax.wait_until_finished()
        sync_files(final)  # Orbax wrote its marker there after `_finish`
        sync(self._directory)

    def _barrier(self, *, key: str, timeout_ms: int) -> None:
        del timeout_ms
        if self._begun is not None and "async_write_complete" in key:
            self._begun.result()
            self._barriers.written()

    def _before_commit(self) -> None:
        assert self._finish is not None
        self._finish()

    def _finish_in(
        self,
        unfinished: Path,
        whole: Future[dict[str, Checksum]],
        spread: Mapping[str, jax.Array],
    ) -> None:
        """Write the checksums, and make all of it durable."""
        sums: dict[str, Checksum] = {}
        if spread:
            cuts = self._barriers.finished(_checksums.cuts_of(unfinished, spread))
            sums = self._barriers.summed(_checksums.of_spread(cuts, spread))
        whole_here = self._shared or jax.process_count() == 1
        _checksums.write(unfinished, whole.result() | sums, whole=whole_here)
        sync_tree(unfinished)

    def close(self) -> None:
        """End Orbax's threads."""
        with quiet():
            self._orbax.close()


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays as the tree that Orbax shows, and whose keys it joins with dots."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        node, (*above, last) = tree, name.split(".")
        for key in above:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


def _settle(future: Future[Any], compute: Callable[[], Any]) -> None:
    """Compute what Orbax's thread waits for; an exception is raised there, and ends the save."""
    try:
        future.set_result(compute())
    except BaseException as error:
        future.set_exception(error)


class ShardWriter:
    """The writer of the shards that a process holds; each process but the first has one.

    TensorStore makes every file that it writes durable; the directories are the first's, unless
    each process has its own.

    Args:
        directory: Where to.
        barriers: Where the processes meet.
        shared: Whether the other processes write there as well.
    """

    def __init__(self, directory: Path, barriers: Barriers, *, shared: bool = True) -> None:
        self._directory, self._barriers, self._shared = directory, barriers, shared
        self._handler = _state_handler()

    def write(
        self,
        step: int,
        header: Mapping[str, Any],
        layout: Layout,
        arrays: Arrays,
    ) -> None:
        """Write this process's share of one step; the arguments are `Writer.write`'s."""
        del header, layout
        if not arrays.spread:
            return
        self._barriers.begun()
        unfinished = self._directory / f"{step}.{UNFINISHED}"
        state: Any = unfinished / "state"
        if not self._shared:
            state.mkdir(parents=True)
        with quiet():
            self._handler.save(state, args=ocp.args.PyTreeSave(_nested(arrays.spread)))
        self._barriers.written()
        cuts = self._barriers.finished(None)
        self._barriers.summed(_checksums.of_spread(cuts, arrays.spread))

    def close(self) -> None:
        """End Orbax's threads."""
        with quiet():
            self._handler.close()


class PlainReader:
    """A reader of what Orbax alone has written.

    Args:
        items: Name of an item -> its directory; a single one's tree is the whole.

    Attributes:
        tree: Descriptions of the arrays, and Python values.
    """

    def __init__(self, items: Mapping[str, Path]) -> None:
        self._items = items
        with quiet(), self._orbax() as orbax:
            self._trees = {
                name: orbax.metadata(path).item_metadata.tree for name, path in items.items()
            }
        values = self.read({p: None for p, leaf in self._leaves() if not _is_array(leaf)})
        describe = lambda path, x: (
            jax.ShapeDtypeStruct(x.shape, x.dtype) if _is_array(x) else values[path]
        )
        trees = {name: self._mapped(name, describe) for name in items}
        self.tree: Any = next(iter(trees.values())) if len(items) == 1 else trees

    def read(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Read leaves.

        Args:
            wanted: Path -> the sharding to read it into, or None for an array of NumPy's.

        Returns:
            Path -> leaf.
        """
        found: dict[str, Any] = {}
        with quiet(), self._orbax() as orbax:
            for name, path in self._items.items():
                item = self._mapped(name, lambda at, x: x if at in wanted else ocp.PLACEHOLDER)
                how = self._mapped(name, lambda at, x: _restore_args(x, wanted.get(at)))
                if any(leaf is not ocp.PLACEHOLDER for leaf in jax.tree.leaves(item)):
                    args = ocp.args.PyTreeRestore(item, restore_args=how)
                    pairs = jax.tree_util.tree_leaves_with_path(orbax.restore(path, args=args))
                    found |= {self._path(name, at): leaf for at, leaf in pairs}
        return {path: found[path] for path in wanted}

    def _orbax(self) -> ocp.Checkpointer:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
        return ocp.Checkpointer(handler, multiprocessing_options=_alone())

    def _path(self, name: str, path: Any) -> str:
        return (f"[{name!r}]" if len(self._items) > 1 else "") + jax.tree_util.keystr(path)

    def _mapped(self, name: str, function: Callable[[str, Any], Any]) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: function(self._path(name, path), x), self._trees[name]
        )

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        for name, tree in self._trees.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                yield self._path(name, path), leaf


def _is_array(leaf: Any) -> bool:
    return type(leaf) is ocp.metadata.ArrayMetadata


def _restore_args(leaf: Any, sharding: Any) -> ocp.RestoreArgs:
    if not _is_array(leaf):
        return ocp.RestoreArgs()
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)


def write_plain(path: Path, tree: Any) -> None:
    """Write what Orbax's `StandardCheckpointer` reads, in this process alone.

    Args:
        path: A directory that is not there yet.
        tree: A tree of numpy arrays and numbers.
    """
    with quiet(), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as writer:
        writer.save(path, tree)
