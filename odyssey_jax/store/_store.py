"""The store: a reader that also saves, in the background, and keeps what is to be kept."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import jax

from odyssey_jax.parallel._agree import ProcessFailedError, from_first, greatest, is_first, together
from odyssey_jax.store import _files
from odyssey_jax.store._background import Background
from odyssey_jax.store._directory import Result, Which, as_number, check_step, check_whole
from odyssey_jax.store._encode import decode, dumps
from odyssey_jax.store._errors import (
    CheckpointError,
    CheckpointInUseError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    CheckpointWriteWarning,
)
from odyssey_jax.store._failures import Failures, OnFailedSave
from odyssey_jax.store._format import header
from odyssey_jax.store._layout import Layout, to_json
from odyssey_jax.store._lock import WriterLock
from odyssey_jax.store._pins import pin, pins, unpin
from odyssey_jax.store._planner import Planner
from odyssey_jax.store._reader import Reader
from odyssey_jax.store._retain import Mode, retain
from odyssey_jax.store._rounds import Rounds, alike, check_shared
from odyssey_jax.store._snapshot import Snapshot, Staging, loose_only, take
from odyssey_jax.store._superseded import superseded


class Store(Reader):
    """A directory of checkpoints, written in the background through Orbax.

    A step is committed by one rename, when all of it is on the disk, so whatever happens
    during a save, what had been committed stays. Old steps are deleted only after a newer
    one is committed.

    One store at a time writes to a directory: the first `save` takes its lock, `close` or the
    end of the process gives it back, and another writer is refused. Any number may read it,
    and pin steps. Where the file system has no locks, nobody is refused, and what killed saves
    left stays.

    On several processes (`jax.distributed`) the directory is one that all of them share, and
    all call the same methods in the same order, from the main thread: of an array that is
    spread over them each writes its own part, process 0 writes what is replicated and what it
    has for itself, deletes, and decides where they might see different things. A save that
    fails in one fails in all. To look at a directory in one process only, use a `Reader`.

    Args:
        directory: Where the steps are; made if it does not exist.
        keep_last: How many of the newest steps to keep, at least 1; None keeps all.
        keep_best: How many of the best steps by ``monitor`` to keep beside those.
        keep_every: Steps that are multiples of it are kept for good; None for none.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is.
        max_in_flight: How many saves may be unfinished at once, the one being written
            included, at least 1. Each holds a copy of the tree in host memory, which is kept
            for the next; a second copy is made only when saves overlap.
        on_failed_save: ``"raise"`` a save that failed, or ``"warn"`` of it with a count, and
            again when the store is closed; later saves are tried all the same.
        clock: Returns the time in seconds since the epoch, for the metadata.

    Raises:
        CheckpointError: An argument makes no sense, or the directory is a file.
        CheckpointWriteError: The directory cannot be made.

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
        mode: Mode = "min",
        max_in_flight: int = 2,
        on_failed_save: OnFailedSave = "raise",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._failures = Failures(on_failed_save)
        _check_policy(keep_last, keep_best, keep_every, monitor)
        check_whole("max_in_flight", max_in_flight, 1)
        super().__init__(directory, monitor=monitor, mode=mode)
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.keep_every = keep_every
        self._clock = clock
        self._planner = Planner()
        self._staging: list[Staging] = []  # those that no snapshot is in
        self._unfinished: set[int] = set()
        self._given_up: dict[int, float | None] = {}  # -> their timestamps
        self._tidied = False
        self._background = Background(f"odyssey_jax store {self.directory}", max_in_flight)
        self._save_seconds = 0.0
        self._closed = False
        with together():
            _files.make_directory(self.directory)
            check_shared(self.directory)
        self._lock = WriterLock(self.directory)
        self._begin()
        self._rounds = Rounds(self.directory)
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        kind = _orbax.Writer if is_first() else _orbax.ShardWriter
        self._writer = kind(self.directory, self._rounds)

    @property
    def in_flight(self) -> int:
        """How many saves are not committed yet, the one being written included."""
        return self._background.unfinished

    @property
    def would_block(self) -> bool:
        """Whether a save requested now would wait for one in flight to be committed."""
        return self._background.full

    @property
    def save_seconds(self) -> float | None:
        """Seconds that the last save was written for; None while one is in flight.

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

    def acquire(self) -> None:
        """Takes the directory for this store to write to, as the first `save` does.

        `close` gives it back. One that is about to be given back is waited for, for half a second.

        Raises:
            CheckpointInUseError: Another program, or another store of this one, writes there.
            CheckpointError: The store is closed.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.acquire()
            ...     Store(folder).acquire()
            Traceback (most recent call last):
            odyssey_jax.store._errors.CheckpointInUseError: checkpoint directory ...
        """
        if self._closed:
            raise CheckpointError(f"the store of {str(self.directory)!r} is closed; make another")
        self._acquire()

    def _acquire(self) -> None:
        held = self._lock.held
        with together():
            if is_first():
                self._lock.acquire()
            from_first(None, "Store.acquire")  # the others wait until it is taken
        if self._lock.held and not (held or self.in_flight):
            self._tidy()

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Saves a pytree in the background.

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

        Raises:
            CheckpointWriteError: A save before failed; this one is not begun. (A warning,
                if the store was asked for one; this one is begun then.)
            CheckpointInUseError: Somebody else writes to the directory.
            CheckpointError: The step is committed already, the tree or the metadata hold
                what cannot be stored, or the metrics lack the monitored one.

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
        dumps(head)
        value = self._monitored(head)
        layout, data = self._planner.plan(tree)
        staging = self._staging.pop() if self._staging else Staging()
        snapshot = take(layout, data, staging) if is_first() else loose_only(layout, data)
        self._unfinished.add(step)
        try:
            self._background.start(
                lambda: self._commit(step, head, value, layout, snapshot, staging),
                afterwards=self._sweep,
            )
        except RuntimeError as error:
            self._unfinished.discard(step)
            self._staging.append(staging)
            raise CheckpointWriteError(
                f"checkpoint of step {step} was not written to {str(self.directory)!r}: {error}"
            ) from error

    def _check_new(self, step: int) -> None:
        with together():
            if step in self._unfinished:
                raise CheckpointError(f"step {step} is being saved already")
        replaceable = self._replaceable()  # before the look: a save in flight shortens both
        if self._is_committed(step) and step not in replaceable:
            raise CheckpointError(
                f"step {step} is already in {str(self.directory)!r}; forget([{step}]) first to "
                "replace it"
            )

    def _is_committed(self, step: int) -> bool:
        """Looks for one step: to list a directory takes a ms or two after a save."""
        with together():
            return from_first(os.path.isdir(self.directory / str(step)), "Store.save")

    def _replaceable(self) -> set[int]:
        return {*self._skipped, *self._given_up}

    def _retention(self) -> dict[str, Any]:
        names = ("keep_last", "keep_best", "keep_every", "monitor", "mode")
        return {name: getattr(self, name) for name in names}

    def _monitored(self, head: Mapping[str, Any]) -> float | None:
        metrics = decode(head.get("metrics", {}))
        if self.monitor is None or not metrics:
            return None
        if self.monitor not in metrics:
            raise CheckpointError(
                f"the monitored metric {self.monitor!r} is not among the metrics of step "
                f"{head['step']}: {sorted(metrics)}"
            )
        value = metrics[self.monitor]
        if not (value is None or isinstance(value, int | float)):
            raise CheckpointError(
                f"the monitored metric {self.monitor!r} of step {head['step']} is {value!r}, "
                "not a number"
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
    ) -> None:
        begun = time.perf_counter()
        where = repr(str(self.directory))
        what = f"checkpoint of step {step} was not written to {where}"
        try:
            with self._rounds.together():
                with self._in_place_of(step):
                    self._writer.write(
                        step,
                        head,
                        layout,
                        to_json(layout),
                        snapshot.on_host(layout),
                        snapshot.loose,
                    )
                self._values[step] = value
                self._skipped.pop(step, None)
                self._given_up.pop(step, None)
                what = f"after step {step} old checkpoints were not deleted in {where}"
                self._drop_given_up()
                self._delete_old(step)
                self._rounds.committed()
                self._given_up.clear()
        except Exception as error:
            self._rounds.failed()
            failure = CheckpointWriteError(f"{what}: {_files.reason(error)}")
            failure.errno = _files.errno_of(error)
            raise failure from error
        finally:
            self._unfinished.discard(step)
            self._staging.append(staging)
            self._save_seconds = time.perf_counter() - begun

    def _in_place_of(self, step: int) -> contextlib.AbstractContextManager[None]:
        if is_first() and step in self._replaceable() and step in self._committed():
            return _files.set_aside(self.directory, step)
        return contextlib.nullcontext()

    def _drop_given_up(self) -> None:
        given_up = self._given_up.keys() & set(self._committed())
        if doomed := given_up - pins(self.directory):
            self._drop(doomed)

    def _begin(self) -> None:
        """Tidies up, unless somebody writes, who does so."""
        if is_first():
            with contextlib.suppress(CheckpointInUseError):
                self._lock.acquire(patience=0)
                try:
                    self._tidy()
                finally:
                    self._lock.release()

    def _tidy(self) -> None:
        """Finishes what killed programs have begun."""
        self._sweep()
        if not self._tidied:
            self._finish_giving_up()
            self._tidied = True

    def _finish_giving_up(self) -> None:
        """Deletes what a program gave up for a step that is committed, and was killed before."""
        if not is_first():
            return
        found = {step: self._metadata_or_none(step) for step in self._committed()}
        if doomed := superseded(found) - pins(self.directory):
            with self._deleting(doomed):
                self._drop(doomed)

    def _metadata_or_none(self, step: int) -> dict[str, Any]:
        try:
            return self.metadata(step)
        except CheckpointError:
            return {}

    def _delete_old(self, step: int) -> None:
        # What cannot be read is not ours to delete: it may be of a newer format.
        values, _ = self._read_values(set(self._committed()) - self._skipped.keys())
        pinned = pins(self.directory)
        old = values.keys() - retain(
            values, self.keep_last, self.keep_best, self.mode, self.keep_every, pinned
        )
        # What was skipped for being corrupt is in nobody's place, and goes when the run is
        # past it.
        if self.keep_last is not None:
            old |= {corrupt for corrupt in self._skipped if corrupt < step} - pinned
        if doomed := old & set(self._committed()):
            self._drop(doomed)

    def _drop(self, steps: Iterable[int]) -> None:
        if is_first():
            _files.remove(self.directory, sorted(steps))
        for step in steps:
            self._values.pop(step, None)
            self._skipped.pop(step, None)

    def _sweep(self) -> None:
        if is_first():
            _files.sweep(self.directory, unfinished=self._lock.held)

    def wait(self) -> None:
        """Waits until all saves in flight are committed.

        Raises:
            CheckpointWriteError: One failed. It is raised once, by whichever of `save`,
                `wait`, `check_for_errors` and `close` is called first, with notes of those
                that failed after it; the store can be used afterwards. A
                `CheckpointWriteWarning` for each, if the store was asked for those.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.wait()
        """
        self._background.wait()
        self.check_for_errors()

    def check_for_errors(self) -> None:
        """Tells of saves that failed, without waiting for those in flight.

        Raises:
            CheckpointWriteError: One failed, as for `wait`; a warning, if the store was asked
                for those.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.check_for_errors()
        """
        if jax.process_count() > 1:
            (failed,) = greatest(self._background.failed, what="Store.check_for_errors")
            if failed:  # what failed in one process failed in all, or is about to
                self._background.wait()
        self._failures.tell(self._background.take_failures())

    def close(self) -> None:
        """Waits, and frees the store's memory; nothing can be saved afterwards.

        Raises:
            CheckpointWriteError: A save failed, and nobody was told yet.

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

    def steps(self) -> tuple[int, ...]:
        """Lists the committed steps.

        Returns:
            Their numbers, ascending; on several processes what process 0 sees. The one being
            saved is not among them.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.steps()
            ()
        """
        with together():
            return tuple(from_first(super().steps(), "Store.steps"))

    def _candidate(self, which: Which, skipped: dict[int, str]) -> int | None:
        with together():
            return from_first(super()._candidate(which, skipped), f"Store.{which}")

    def _pick(
        self, step: int | Which, attempt: Callable[[int], Result]
    ) -> tuple[Result, dict[int, str]]:
        self._background.wait()
        with together():
            return super()._pick(step, lambda found: alike(lambda: attempt(found)))

    def pin(self, step: int) -> None:
        """Keeps a step whatever else is kept, in this program and any later one.

        If it is being saved, this waits until it is committed.

        Args:
            step: A committed step; nothing happens if it is pinned already.

        Raises:
            CheckpointNotFoundError: The step is not committed.
            CheckpointWriteError: The mark cannot be written, or the save failed.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     for step in (1, 2, 3):
            ...         store.save(step, {"w": np.zeros(3)}, {})
            ...         if step == 1:
            ...             store.pin(step)
            ...     store.wait()
            ...     store.steps()
            (1, 3)
        """
        self.wait()
        step = check_step(step)
        with together():
            if is_first():
                pin(self.directory, step)
            if step not in self.steps():  # looked at last, when nobody would delete it any more
                self._unpin(step)
                raise self._not_found(step)

    def unpin(self, step: int) -> None:
        """Takes a pin away: the step goes when no other rule keeps it, after the next save.

        Args:
            step: A committed step; nothing happens if it is not pinned.

        Raises:
            CheckpointNotFoundError: The step is not committed.
            CheckpointWriteError: The mark cannot be deleted.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros(3)}, {})
            ...     store.pin(1)
            ...     store.unpin(1)
            ...     store.pinned()
            ()
        """
        with together():
            if check_step(step) not in self.steps():
                raise self._not_found(step)
            self._unpin(step)

    def _unpin(self, step: int) -> None:
        if is_first():
            unpin(self.directory, step)
        from_first(None, "Store.unpin")  # the others wait until it is done

    def forget(self, steps: Iterable[int]) -> None:
        """Deletes steps.

        Args:
            steps: Committed steps, none of them pinned.

        Raises:
            CheckpointNotFoundError: One of them is not committed; none is deleted then.
            CheckpointError: One of them is pinned; none is deleted then.
            CheckpointInUseError: Somebody else writes to the directory.
            CheckpointWriteError: One could not be deleted.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.arange(3.0)}, {})
            ...     store.wait()
            ...     store.forget([1])
            ...     store.steps()
            ()
        """
        self._background.join()
        doomed = self._may_go(steps)
        held = self._lock.held
        self._acquire()
        try:
            with self._deleting(doomed), together():
                self._drop(doomed)
                from_first(None, "Store.forget")  # the others wait until they are gone
            self._sweep()
        finally:
            if not held:
                self._lock.release()

    def _may_go(self, steps: Iterable[int]) -> set[int]:
        doomed = {check_step(step) for step in steps}
        if unknown := sorted(doomed - set(self.steps())):
            raise CheckpointNotFoundError(
                f"no steps {unknown} in {str(self.directory)!r}; committed are {list(self.steps())}"
            )
        if pinned := sorted(doomed & pins(self.directory)):
            raise CheckpointError(
                f"steps {pinned} in {str(self.directory)!r} are pinned; unpin them first to "
                "delete them"
            )
        return doomed

    @contextlib.contextmanager
    def _deleting(self, doomed: Iterable[int]) -> Iterator[None]:
        try:
            yield
        except (OSError, ProcessFailedError) as error:
            raise CheckpointWriteError(
                f"steps {sorted(doomed)} in {str(self.directory)!r} were not deleted: "
                f"{_files.reason(error)}"
            ) from error

    def give_up(self, steps: Iterable[int]) -> None:
        """Deletes steps as soon as a save is committed, and none of them before.

        For a run that begins again, or goes on from an older step: until it has saved
        something, what there was stays, whatever happens. A save may have the number of one of
        them, and takes its place. If the program is killed between the commit and the deletion,
        the next store that opens the directory deletes them.

        Args:
            steps: Committed steps, none of them pinned.

        Raises:
            CheckpointNotFoundError: One of them is not committed.
            CheckpointError: One of them is pinned.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(5, {"w": np.arange(3.0)}, {})
            ...     store.wait()
            ...     store.give_up([5])
            ...     print(store.steps())
            ...     store.save(2, {"w": np.zeros(3)}, {})
            ...     store.wait()
            ...     print(store.steps())
            (5,)
            (2,)
        """
        self._background.join()
        given_up = sorted(self._may_go(steps))
        self._given_up |= {step: self._metadata_or_none(step).get("timestamp") for step in given_up}


def _check_policy(
    keep_last: int | None, keep_best: int, keep_every: int | None, monitor: str | None
) -> None:
    check_whole("keep_last", keep_last, 1, "None for all")
    check_whole("keep_every", keep_every, 1, "None for none")
    check_whole("keep_best", keep_best, 0)
    if keep_best and monitor is None:
        raise CheckpointError(
            f"keep_best = {keep_best} needs a monitor, the name of a metric such as 'valid/loss'"
        )
