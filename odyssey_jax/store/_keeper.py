"""Keeping a directory: its writer's lock, its pins, and which steps are deleted, and when."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from odyssey_jax._checks import check_count
from odyssey_jax.parallel._agree import ProcessFailedError, from_first, greatest, is_first, together
from odyssey_jax.store import _files
from odyssey_jax.store._background import Background, Failures, OnFailedSave
from odyssey_jax.store._barriers import read_alike
from odyssey_jax.store._directory import Result, Which, check_step
from odyssey_jax.store._errors import (
    CheckpointError,
    CheckpointInUseError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    CheckpointWriteWarning,
)
from odyssey_jax.store._reader import Reader
from odyssey_jax.store._retain import Mode, retain, superseded


class Keeper(Reader):
    """A `Store` but for its saves: what it locks, waits for, pins and deletes.

    Process 0 alone changes the directory; the others wait until it has. Steps are deleted by the
    background thread after a commit, or by the main thread while nothing runs in the background.

    Args:
        directory: Where the steps are; made if it does not exist.
        keep_last: As for `Store`, like all that follow.
        keep_best: Steps to keep for being best.
        keep_every: Steps that are multiples of it are kept for good.
        monitor: The metric that says what is best.
        mode: ``"min"`` or ``"max"``.
        max_in_flight: How many saves may be unfinished.
        on_failed_save: ``"raise"`` or ``"warn"``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int | None,
        keep_best: int,
        keep_every: int | None,
        monitor: str | None,
        mode: Mode | None,
        max_in_flight: int,
        on_failed_save: OnFailedSave,
    ) -> None:
        self._failures = Failures(on_failed_save)
        _check_policy(keep_last, keep_best, keep_every, monitor)
        max_in_flight = check_count("max_in_flight", max_in_flight, 1)
        super().__init__(directory, monitor=monitor, mode=mode)
        # Python's, as they are recorded as JSON.
        self.keep_last = None if keep_last is None else int(keep_last)
        self.keep_best = int(keep_best)
        self.keep_every = None if keep_every is None else int(keep_every)
        self._background = Background(f"odyssey_jax store {self.directory}", max_in_flight)
        self._given_up: dict[int, str | None] = {}  # -> their tokens
        self._needed: dict[int, int] = {}  # a save in flight -> the step that it links to
        self._tidied = False
        self._undeleted: set[Path] = set()  # steps that are deleted but for their files
        self._told: set[Path] = set()
        self._closed = False
        with together():
            self._folder.make()
        self._lock = self._folder.lock()
        if self._folder.tidied_when_opened:
            self._tidy_unless_in_use()
        self._tell_undeleted()

    def acquire(self) -> None:
        """Take the directory for this store to write to, as the first `save` does.

        `close` gives it back. One that is about to be given back is waited for, for 0.5 s.

        Raises:
            CheckpointInUseError: If another program, or another store of this one, writes there.
            RuntimeError: If the store is closed.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.acquire()
            ...     Store(folder).acquire()
            Traceback (most recent call last):
            odyssey_jax.store._errors.CheckpointInUseError: checkpoint directory ...
        """
        if self._closed:
            raise RuntimeError(f"the store of {str(self.directory)!r} is closed; make another.")
        self._acquire()

    def _acquire(self) -> None:
        held = self._lock.held
        with together():
            if is_first():
                self._lock.acquire()
            from_first(None, "Store.acquire")  # the others wait until it is taken
        if self._lock.held and not (held or self._background.unfinished):
            self._tidy()

    def wait(self) -> None:
        """Wait until all saves in flight are committed.

        Raises:
            CheckpointWriteError: If one failed. It is raised once, by whichever of `save`,
                `wait`, `check_for_errors` and `close` is called first, with notes of those
                that failed after it; the store can be used afterwards. A
                `CheckpointWriteWarning` for each, if the store was asked for those.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.wait()
        """
        self._background.wait()
        self.check_for_errors()

    @property
    def has_failed(self) -> bool:
        """True if a save failed, as far as this process knows, and nobody was told yet."""
        return self._background.failed

    def check_for_errors(self) -> None:
        """Raise or warn of saves that failed, without waiting for those in flight.

        Raises:
            CheckpointWriteError: If one failed, as for `wait`; a warning, if the store was asked
                for those.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.check_for_errors()
        """
        if jax.process_count() > 1:
            (failed,) = greatest(self._background.failed, what="Store.check_for_errors")
            if failed:  # what failed in one process failed in all, or is about to
                self._background.wait()
        self._failures.tell(self._background.take_failures())

    def steps(self) -> tuple[int, ...]:
        """List the committed steps.

        Returns:
            Their numbers, ascending; on several processes what process 0 sees. The one being
            saved is not among them.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.steps()
            ()
        """
        return tuple(self._of_first(super().steps, "Store.steps"))

    def _candidate(self, which: Which, skipped: dict[int, str]) -> int | None:
        with together():
            return from_first(super()._candidate(which, skipped), f"Store.{which}")

    def _check(self, step: int) -> object:
        with self._open(step) as opened:  # each a part: what is corrupt to one is so to all
            return opened.verify(jax.process_index(), jax.process_count())

    def _of_first(self, look: Callable[[], Any], what: str) -> Any:
        """Return what process 0 sees; the others do not look."""
        with together():
            return from_first(look() if is_first() else None, what)

    def _pick(
        self, step: int | Which, attempt: Callable[[int], Result]
    ) -> tuple[Result, dict[int, str]]:
        self._background.wait()
        with together():
            return super()._pick(step, lambda found: read_alike(lambda: attempt(found)))

    def pin(self, step: int) -> None:
        """Keep a step whatever else is kept, in this program and any later one.

        If it is being saved, this waits until it is committed.

        Args:
            step: A committed step; nothing happens if it is pinned already.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointWriteError: If the mark cannot be written, or the save failed.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
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
                self._folder.pin(step)
            if step not in self.steps():  # looked at last, when nobody would delete it any more
                self._unpin(step)
                raise self._not_found(step)

    def unpin(self, step: int) -> None:
        """Take a pin away: the step goes when no other rule keeps it, after the next save.

        Or when the next store of the same rule opens the directory.

        Args:
            step: A committed step; nothing happens if it is not pinned.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointWriteError: If the mark cannot be deleted.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
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
            self._folder.unpin(step)
        from_first(None, "Store.unpin")  # the others wait until it is done

    def forget(self, steps: Iterable[int]) -> None:
        """Delete steps.

        Args:
            steps: Committed steps, none of them pinned.

        Raises:
            CheckpointNotFoundError: If one of them is not committed; none is deleted then.
            CheckpointError: If one of them is pinned; none is deleted then.
            CheckpointInUseError: If somebody else writes to the directory.
            CheckpointWriteError: If one could not be deleted.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
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

    def give_up(self, steps: Iterable[int]) -> None:
        """Delete steps as soon as a save is committed, and none of them before.

        For a run that begins again, or goes on from an older step: until it has saved
        something, what there was stays, whatever happens. A save may have the number of one of
        them, and takes its place. If the program is killed between the commit and the deletion,
        the next store that opens the directory deletes them.

        Args:
            steps: Committed steps, none of them pinned.

        Raises:
            CheckpointNotFoundError: If one of them is not committed.
            CheckpointError: If one of them is pinned.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
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
        self._given_up |= {step: self._metadata_or_none(step).get("token") for step in given_up}

    def _may_go(self, steps: Iterable[int]) -> set[int]:
        doomed = {check_step(step) for step in steps}
        if unknown := sorted(doomed - set(self.steps())):
            raise CheckpointNotFoundError(
                f"no steps {unknown} in {str(self.directory)!r}; committed are {list(self.steps())}"
            )
        if pinned := sorted(doomed & self._folder.pinned()):
            raise CheckpointError(
                f"steps {pinned} in {str(self.directory)!r} are pinned; unpin them first to "
                "delete them"
            )
        return doomed

    def _replaceable(self) -> set[int]:
        """Return the steps whose place a save may take."""
        return {*self._skipped, *self._given_up}

    def _delete_old(self, step: int) -> set[int]:
        """Delete what was given up, and what the rule does not keep, now that a step is committed.

        Returns:
            The steps.
        """
        pinned = self._folder.pinned()
        given_up = (self._given_up.keys() & set(self._committed())) - pinned
        if given_up:
            self._drop(given_up)
        # What cannot be read is not ours to delete: it may be of a newer format.
        values, _ = self._read_values(set(self._committed()) - self._skipped.keys())
        old = values.keys() - self._retained(values, pinned)
        # What was skipped for being corrupt takes nobody's place in the rule, and goes when the
        # run is past it.
        if self.keep_last is not None:
            old |= {corrupt for corrupt in self._skipped if corrupt < step} - pinned
        # What saves in flight link to goes with the next.
        others = [needed for saved, needed in list(self._needed.items()) if saved != step]
        if doomed := old.intersection(self._committed()).difference(others):
            self._drop(doomed)
        return given_up | doomed

    def _drop(self, steps: Iterable[int]) -> None:
        if is_first():
            self._folder.remove(sorted(steps))
        self._note_dropped(steps)

    def _note_dropped(self, steps: Iterable[int]) -> None:
        for step in steps:
            self._values.pop(step, None)
            self._skipped.pop(step, None)
            self._folder.forget(step)

    @contextlib.contextmanager
    def _deleting(self, doomed: Iterable[int]) -> Iterator[None]:
        try:
            yield
        except (OSError, ProcessFailedError) as error:
            raise CheckpointWriteError(
                f"steps {sorted(doomed)} in {str(self.directory)!r} were not deleted: "
                f"{_files.reason(error)}"
            ) from error

    def _tidy_unless_in_use(self) -> None:
        if is_first():
            with contextlib.suppress(CheckpointInUseError):  # whoever writes there tidies up
                self._lock.acquire(wait=False)
                try:
                    self._tidy()
                finally:
                    self._lock.release()

    def _tidy(self) -> None:
        """Finish what killed programs have begun."""
        self._sweep()
        if not self._tidied:
            self._drop_overdue()
            self._tidied = True

    def _sweep(self) -> None:
        if is_first():
            self._undeleted.update(self._folder.sweep(unfinished=self._lock.held))

    def _tell_undeleted(self) -> None:
        """Warn once of each deleted step whose files the system does not delete."""
        left = sorted(path for path in self._undeleted - self._told if os.path.lexists(path))
        self._told.update(left)
        if left:
            names = ", ".join(path.name for path in left)
            warnings.warn(
                f"the files of deleted steps are still in {str(self.directory)!r}, since the "
                f"system does not delete them: {names}; delete them by hand",
                CheckpointWriteWarning,
                stacklevel=4,
            )

    def _drop_overdue(self) -> None:
        """Delete what a program, before it was killed, had a newer step committed to delete.

        That is what it gave up, and what the rule did not keep: the one that the newest step
        was saved by, if it is this store's too.
        """
        if not is_first():
            return
        found = {step: self._metadata_or_none(step) for step in self._committed()}
        pinned = self._folder.pinned()
        doomed = superseded(found)
        left = {step: metadata for step, metadata in found.items() if step not in doomed}
        newest = max(left, default=None)
        if newest is not None and left[newest].get("retention") == self._retention():
            values = {step: self._value(step) for step, metadata in left.items() if metadata}
            old = values.keys() - self._retained(values, pinned)
            if old and self._is_good(newest):
                doomed |= old
        if doomed := doomed - pinned:
            with self._deleting(doomed):
                self._drop(doomed)
            self._sweep()

    def _is_good(self, step: int) -> bool:
        try:
            return self.verify(step) > 0
        except CheckpointError:
            return False

    def _retained(
        self, values: Mapping[int, float | None], pinned: Collection[int]
    ) -> frozenset[int]:
        return retain(values, self.keep_last, self.keep_best, self.mode, self.keep_every, pinned)

    def _retention(self) -> dict[str, Any]:
        names = ("keep_last", "keep_best", "keep_every", "monitor", "mode")
        return {name: getattr(self, name) for name in names}

    def _metadata_or_none(self, step: int) -> dict[str, Any]:
        try:
            return self.metadata(step)
        except CheckpointError:
            return {}


def _check_policy(
    keep_last: int | None, keep_best: int, keep_every: int | None, monitor: str | None
) -> None:
    if keep_last is not None:
        check_count("keep_last", keep_last, 1, ", or None for all")
    if keep_every is not None:
        check_count("keep_every", keep_every, 1, ", or None for none")
    check_count("keep_best", keep_best)
    if keep_best and monitor is None:
        raise ValueError(
            f"keep_best = {keep_best} needs a monitor, the name of a metric such as 'valid/loss'."
        )
