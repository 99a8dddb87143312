"""The store: a reader that also saves, in the background, and keeps what is to be kept."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from odyssey_jax._checks import check_count
from odyssey_jax.parallel._agree import is_first, together
from odyssey_jax.store import _files
from odyssey_jax.store._background import OnFailedSave
from odyssey_jax.store._barriers import Barriers
from odyssey_jax.store._directory import as_number, check_step
from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError, CheckpointWriteWarning
from odyssey_jax.store._format import decode, dumps, header
from odyssey_jax.store._keeper import Keeper
from odyssey_jax.store._layout import PACK_BELOW, Layout
from odyssey_jax.store._linked import Held, again, alike, folders_of, held_by, is_copied
from odyssey_jax.store._retain import Mode
from odyssey_jax.store._snapshot import (
    NOTHING,
    Arrays,
    Linked,
    Planner,
    Snapshot,
    Staging,
    spread_only,
    take,
)


class Store(Keeper):
    """A directory of checkpoints, written in the background through Orbax.

    A step is committed by one rename, when all of it is on the disk, so whatever happens
    during a save, what had been committed stays. Old steps are deleted only after a newer
    one is committed.

    One store at a time writes to a directory: the first `save` takes its lock, `close` or the
    end of the process gives it back, and another writer is refused. Any number may read it,
    and pin steps. Where the file system has no locks, nobody is refused, and what killed saves
    left stays.

    In a bucket a step is committed by an object that is written last, when its other files are
    uploaded, and the lock is a lease, which expires 60 s after its program was killed.

    On several processes (`jax.distributed`) the directory is one that all of them share, and
    all call the same methods in the same order, from the main thread: of an array that is
    spread over them each writes its own part, process 0 writes what is replicated and what it
    has for itself, deletes, and decides where they might see different things. A save that
    fails in one fails in all. In a bucket each uploads what it has, by a staging directory of its
    own, and process 0 the marker. To look at a directory in one process only, use a `Reader`.

    Args:
        directory: Where the steps are, a path or the URL of a bucket (``gs://``, ``s3://``); made
            if it does not exist.
        keep_last: How many of the newest steps to keep, at least 1; None keeps all.
        keep_best: How many of the best steps by ``monitor`` to keep beside those.
        keep_every: Steps that are multiples of it are kept for good; None for none.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is; None is as its
            name says, such as "max" for an accuracy.
        max_in_flight: How many saves may be unfinished at once, the one being written
            included, at least 1. Each holds a copy of the tree in host memory, which is kept
            for the next; a second copy is made only when saves overlap.
        on_failed_save: ``"raise"`` a save that failed, or ``"warn"`` of it with a count, and
            again when the store is closed; later saves are tried all the same.
        pack_below: Leaves of so many bytes and more are arrays under their own names, which Orbax
            shows and restores by themselves; the smaller ones share an array for each dtype, since
            an array takes about 1 ms. What is spread over devices is never packed.
        clock: Returns the time in seconds since the epoch, for the metadata.

    Raises:
        ValueError: If an argument makes no sense, or the directory is a URL of another kind.
        CheckpointError: If the directory is a file, or a file or a link in it is called as a step.
        CheckpointWriteError: If the directory cannot be made.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder, Store(folder, keep_last=2) as store:
        ...     for step in (1, 2, 3):
        ...         store.save(step, {"w": jnp.full(3, step)}, {"metrics": {"loss": 1 / step}})
        ...     store.wait()
        ...     restored = store.restore({"w": jnp.zeros(3, int)})
        ...     print(store.steps(), restored.step, restored.tree["w"])
        (2, 3) 3 [3 3 3]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int | None = 1,
        keep_best: int = 0,
        keep_every: int | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        max_in_flight: int = 2,
        on_failed_save: OnFailedSave = "raise",
        pack_below: int = PACK_BELOW,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            directory,
            keep_last=keep_last,
            keep_best=keep_best,
            keep_every=keep_every,
            monitor=monitor,
            mode=mode,
            max_in_flight=max_in_flight,
            on_failed_save=on_failed_save,
        )
        self._clock = clock
        self._planner = Planner(check_count("pack_below", pack_below))
        self._staging: list[Staging] = []  # those that no snapshot is in
        self._unfinished: set[int] = set()
        self._held: Held | None = None  # what the next saves may link to
        self._copied = False
        self._save_seconds = 0.0
        self._barriers = Barriers(self.directory)
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        kind = _orbax.Writer if is_first() else _orbax.ShardWriter
        self._writer = kind(self._folder.path, self._barriers, shared=self._folder.shared)

    @property
    def in_flight(self) -> int:
        """Number of saves that are not committed yet, the one being written included."""
        return self._background.unfinished

    @property
    def would_block(self) -> bool:
        """True if a save requested now would wait for one in flight to be committed."""
        return self._background.full

    @property
    def save_seconds(self) -> float | None:
        """Seconds that the last save took to be committed; None while one is in flight.

        Before the first it is 0.
        """
        return None if self.in_flight else self._save_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except (CheckpointError, CheckpointWriteWarning) as failure:
            # It must not hide what went wrong first.
            error.add_note(f"and while closing the store: {failure}")

    def save(
        self,
        step: int,
        tree: Any,
        metadata: Mapping[str, Any],
        *,
        constant: Sequence[str] = (),
    ) -> None:
        """Save a pytree in the background.

        On return the arrays may be donated or changed: they have been copied. Saves are
        committed in the order in which they were asked for. While ``max_in_flight`` of them
        are unfinished, this waits first.

        Args:
            step: Its number, at least 0, not committed so far, unless it was found corrupt
                and skipped, or given up: then it is replaced.
            tree: Any pytree of jax and numpy arrays (any numeric dtype, typed keys, sharded
                or not, any size) and Python numbers and strings.
            metadata: What to keep with it, in values that JSON has, or numpy and jax
                scalars. ``metadata["metrics"]`` maps names to numbers. The store adds
                ``step``, ``timestamp`` (seconds), ``format_version``, ``versions`` and its
                own ``retention``.
            constant: Nodes of the tree whose leaves are the same, to the bit, at every save of
                this store: their keys with ``/`` between them, such as ``"params/base"``. Their
                bytes are on the disk once: the first save compares them with the newest step's,
                and later ones do not look at them. Each step is whole all the same, by hard links
                to the files of the one before, which live as long as a step has them.

        Raises:
            CheckpointWriteError: If a save before failed; this one is not begun. (A warning,
                if the store was asked for one; this one is begun then.)
            CheckpointInUseError: If somebody else writes to the directory.
            CheckpointError: If the step is committed already.
            ValueError: If the tree or the metadata hold what cannot be stored, the metrics lack
                the monitored one, or the tree has no node that is named constant.
            RuntimeError: If the store is closed.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(7, {"w": np.zeros(3)}, {"epoch": 1, "metrics": {"loss": 0.5}})
            ...     store.wait()
            ...     store.latest()
            7
        """
        self._background.wait_for_room()
        self.check_for_errors()
        step = check_step(step)
        self.acquire()
        self._check_new(step)
        head = header(step, self._clock(), metadata, self._retention(), self._given_up)
        dumps(head)  # raises here what would fail in the background
        value = self._monitored(head)
        constant = [constant] if isinstance(constant, str) else constant
        layout, data = self._planner.plan(tree, constant)
        linked = self._linked(layout)
        # The caller donates its arrays as soon as this returns, so they are copied now. The copy is
        # all that the caller waits for; the disk is the background's.
        staging = self._staging.pop() if self._staging else Staging()
        if is_first():
            snapshot = take(layout, data, staging, linked.arrays)
        else:
            snapshot = spread_only(layout, data, linked.arrays)
        self._unfinished.add(step)
        if linked.arrays:
            self._needed[step] = int(linked.root.name)
        try:
            self._background.start(
                lambda: self._commit(step, head, value, layout, snapshot, staging, linked),
                afterwards=self._sweep,
            )
        except RuntimeError as error:
            self._unfinished.discard(step)
            self._needed.pop(step, None)
            self._staging.append(staging)
            raise CheckpointWriteError(
                f"checkpoint of step {step} was not written to {str(self.directory)!r}: {error}"
            ) from error

    def _check_new(self, step: int) -> None:
        with together():
            if step in self._unfinished:
                raise CheckpointError(f"step {step} is being saved already")

        def is_taken() -> bool:
            replaceable = self._replaceable()  # before the look: a save in flight shortens both
            return self._folder.has(step) and step not in replaceable

        if self._of_first(is_taken, "Store.save"):
            raise CheckpointError(
                f"step {step} is already in {str(self.directory)!r}; forget([{step}]) first to "
                "replace it"
            )

    def _linked(self, layout: Layout) -> Linked:
        """Return what need not be copied, since a step has it that stays until this one is there.

        What was given up goes with the next commit.
        """
        held = self._held
        if not layout.constant or held is None:
            return NOTHING
        is_there = lambda: (
            held.step not in self._replaceable() and self._folder.has_files(held.step)
        )
        if not self._of_first(is_there, "Store.save"):
            return NOTHING
        linked = again(held, self._folder.path / str(held.step), layout)
        # To a folder of the bucket as a whole, or else each uploads all that it has anew.
        return linked if self._folder.shared or _is_whole(linked, layout) else NOTHING

    def _with_links(self, step: int, arrays: Arrays, linked: Linked, layout: Layout) -> Arrays:
        """Return what is to be written, less what the newest step holds as well."""
        if not layout.constant:
            return arrays
        if not linked.arrays and is_first():
            newest = max((other for other in self._committed() if other != step), default=None)
            if newest is not None:
                root = self._folder.path / str(newest)
                linked = alike(root, layout, arrays.packed, arrays.whole)
        packed = {name: x for name, x in arrays.packed.items() if name not in linked.arrays}
        whole = {name: x for name, x in arrays.whole.items() if name not in linked.arrays}
        return Arrays(packed, whole, arrays.spread, linked)

    def _monitored(self, head: Mapping[str, Any]) -> float | None:
        metrics = decode(head.get("metrics", {}))
        if self.monitor is None or not metrics:
            return None
        if self.monitor not in metrics:
            raise ValueError(
                f"the monitored metric {self.monitor!r} is not among the metrics of step "
                f"{head['step']}: {sorted(metrics)}."
            )
        value = metrics[self.monitor]
        if not (value is None or isinstance(value, int | float)):
            raise ValueError(
                f"the monitored metric {self.monitor!r} of step {head['step']} is {value!r}, "
                "not a number."
            )
        return as_number(value)

    def _commit(
        self,
        step: int,
        head: Mapping[str, Any],
        value: float | None,
        layout: Layout,
        snapshot: Snapshot,
        staging: Staging,
        linked: Linked,
    ) -> None:
        """Write and commit a step, then delete what it makes superfluous; in the background."""
        begun = time.perf_counter()
        where = repr(str(self.directory))
        what = f"checkpoint of step {step} was not written to {where}"
        try:
            with self._barriers.together():
                with self._in_place_of(step):
                    self._folder.prepare(step)
                    arrays = self._with_links(step, snapshot.on_host(layout), linked, layout)
                    self._writer.write(step, head, layout, arrays)
                    self._publish(step, layout, arrays.linked)
                # Committed, and on the disk. Only now may anything be deleted: whatever happens
                # from here on, or has happened before, one good step is there.
                self._values[step] = value
                self._skipped.pop(step, None)
                self._given_up.pop(step, None)
                what = f"after step {step} old checkpoints were not deleted in {where}"
                dropped = self._delete_old(step) if is_first() else ()
                self._note_dropped(self._barriers.committed(dropped))
                # Not sooner: a save that another process failed gives nothing up.
                self._given_up.clear()
        except Exception as error:
            self._barriers.failed()
            self._held = None  # whatever it was that failed
            failure = CheckpointWriteError(f"{what}: {_files.reason(error)}")
            failure.errno = _files.errno_of(error)
            raise failure from error
        finally:
            self._unfinished.discard(step)
            self._needed.pop(step, None)
            self._staging.append(staging)
            self._save_seconds = time.perf_counter() - begun

    def _publish(self, step: int, layout: Layout, linked: Linked) -> None:
        if not layout.constant:
            self._folder.publish(step, self._barriers)
            return
        held = Held(step, layout.constant, {})
        if is_first():
            root = self._folder.path / str(step)
            held = held_by(step, root, layout)
            self._copied |= is_copied(linked, root)
        linked_to = int(linked.root.name) if _is_whole(linked, layout) else None
        self._folder.publish(step, self._barriers, folders_of(layout), linked_to)
        self._held = held

    def _in_place_of(self, step: int) -> contextlib.AbstractContextManager[None]:
        # The rename that commits needs the name to be free, so the old step is set aside first,
        # under a name from which the next store puts it back if this program is killed.
        if is_first() and step in self._replaceable() and step in self._committed():
            return self._folder.in_place_of(step)
        return contextlib.nullcontext()

    def close(self) -> None:
        """Wait, and free the store's memory; nothing can be saved afterwards.

        Raises:
            CheckpointWriteError: If a save failed, and nobody was told yet.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Store(folder).close()
        """
        if self._closed:
            return
        try:
            self.wait()
        finally:
            self._background.join()
            self._staging.clear()
            self._closed = True
            self._writer.close()
            self._lock.release()
        self._failures.sum_up(self.directory)
        self._tell_undeleted()
        if self._copied:
            self._copied = False
            warnings.warn(
                f"the file system of {str(self.directory)!r} gave no hard links: what does not "
                "change was copied from checkpoint to checkpoint",
                CheckpointWriteWarning,
                stacklevel=2,
            )


def _is_whole(linked: Linked, layout: Layout) -> bool:
    """Return whether a step has all that does not change from an earlier one."""
    return linked.arrays.keys() == layout.constant.keys()
