"""What `benchmarks.checkpoint` compares: this store, Orbax's defaults, flax's msgpack, and floors.

Each saver is a pair of functions: one saves a tree and returns the seconds until it returned
and until all of it was committed, the other restores the newest into a tree like it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from odyssey_jax.store import Store


class Saver(NamedTuple):
    """A way to save and to restore.

    Attributes:
        save: Tree -> (seconds until the caller may go on, seconds until it is committed).
        restore: Restores the newest, given a tree like it.
        close: Ends its threads.
    """

    save: Callable[[Any], tuple[float, float]]
    restore: Callable[[Any], Any]
    close: Callable[[], None] = lambda: None


def ours(folder: Path) -> Saver:
    """The store, with its checksums, as it is by default."""
    store, steps = Store(folder), itertools.count()

    def save(tree: Any) -> tuple[float, float]:
        found = _timed(
            lambda: store.save(next(steps), tree, {"metrics": {"loss": 0.5}}), store.wait
        )
        store.forget(())  # the old step's files are gone before the next is timed
        return found

    return Saver(save, lambda tree: store.restore(tree).tree, store.close)


def standard_checkpointer(folder: Path) -> Saver:
    """Orbax's `StandardCheckpointer`, as it is by default; nothing of it is fsynced at the end."""
    saver, steps = ocp.StandardCheckpointer(), itertools.count()
    newest = [folder / "none"]

    def save(tree: Any) -> tuple[float, float]:
        old, newest[0] = newest[0], folder / str(next(steps))
        found = _timed(lambda: saver.save(newest[0], tree), saver.wait_until_finished)
        shutil.rmtree(old, ignore_errors=True)
        return found

    return Saver(save, lambda tree: saver.restore(newest[0], tree), saver.close)


def checkpoint_manager(folder: Path) -> Saver:
    """Orbax's `CheckpointManager`, keeping one step, otherwise as it is by default."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    manager, steps = ocp.CheckpointManager(folder, options=options), itertools.count()

    def save(tree: Any) -> tuple[float, float]:
        args = ocp.args.StandardSave(tree)
        return _timed(lambda: manager.save(next(steps), args=args), manager.wait_until_finished)

    def restore(tree: Any) -> Any:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(tree))

    return Saver(save, restore, manager.close)


def msgpack(folder: Path) -> Saver:
    """Flax's msgpack, written to one file and fsynced; it does not return before."""
    folder.mkdir()
    file = folder / "state.msgpack"

    def save(tree: Any) -> tuple[float, float]:
        file.unlink(missing_ok=True)
        return _timed(lambda: write_and_fsync(file, flax.serialization.to_bytes(tree)))

    def restore(tree: Any) -> Any:
        return jax.device_put(flax.serialization.from_bytes(tree, file.read_bytes()))

    return Saver(save, restore)


def write_and_fsync(file: Path, data: Any) -> None:
    """Writes a new file and waits for the disk."""
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def floors(folder: Path, tree: Any) -> dict[str, Callable[[], float | None]]:
    """What no saver can do without, on as many bytes as the tree has.

    Args:
        folder: Where to write.
        tree: Any tree of jax arrays.

    Returns:
        Name -> what to time: one file written and fsynced, one file read into a new array, a
        memcpy into memory in use already, and the same leaf by leaf, as they lie.
    """
    leaves = [np.asarray(leaf).reshape(-1).view(np.uint8) for leaf in jax.tree.leaves(tree)]
    raw = np.concatenate(leaves)
    warm, file = np.zeros_like(raw), folder / "floor"
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [warm[end - leaf.size : end] for leaf, end in zip(leaves, ends, strict=True)]

    def write() -> float:
        file.unlink(missing_ok=True)
        return _timed(lambda: write_and_fsync(file, raw.data))[0]

    def by_leaf() -> None:
        for part, leaf in zip(parts, leaves, strict=True):
            part[...] = leaf

    write()
    return {
        "write + fsync": write,
        # NumPy's arrays are of large pages: what `read_bytes` makes takes 2 to 3 times as long.
        "read": lambda: (np.fromfile(file, np.uint8), None)[1],
        "memcpy": lambda: np.copyto(warm, raw),
        "memcpy, leaf by leaf": by_leaf,
    }


def _timed(*stages: Callable[[], object]) -> tuple[float, float]:
    """Seconds until the first stage was over, and until all were."""
    start, ends = time.perf_counter(), []
    for stage in stages:
        stage()
        ends.append(time.perf_counter() - start)
    return ends[0], ends[-1]
