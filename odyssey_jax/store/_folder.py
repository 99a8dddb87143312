"""Where a store's steps are: a directory of this machine, or (`_bucket.py`) a bucket.

The one seam between the two: the rest of the store writes and reads a step in `path`, and tells
its place when the step is to exist, to be read, or to go.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

from odyssey_jax.store import _files
from odyssey_jax.store._barriers import Barriers, check_shared
from odyssey_jax.store._lock import WriterLock
from odyssey_jax.store._objects import BucketPath


class Lock(Protocol):
    """What one writer at a time holds: see `WriterLock` and `Lease`."""

    @property
    def held(self) -> bool:
        """True while it is held."""
        ...

    def acquire(self, *, wait: bool = True) -> None:
        """Take it; raise CheckpointInUseError if somebody else has it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Folder:
    """A directory of this machine: a step is committed by the rename that wrote it.

    Args:
        path: The directory.

    Attributes:
        path: Where steps are written and read.
        shared: Whether all processes see there what one of them writes.
        tidied_when_opened: Whether a store tidies up before it writes.
    """

    shared = True
    tidied_when_opened = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the directory; all processes must see it."""
        _files.make_directory(self.path)
        # Named so that it is swept away, should the program be killed here.
        at = lambda probe: self.path / f"0.{_files.UNFINISHED}-shared-{probe}"
        check_shared(
            self.path, lambda p: at(p).mkdir(), lambda p: at(p).exists(), lambda p: at(p).rmdir()
        )

    def lock(self) -> Lock:
        """Return the lock of its writer."""
        return WriterLock(self.path)

    def committed(self) -> tuple[int, ...]:
        """Return the steps that are committed, ascending."""
        return _files.committed_steps(self.path)

    def has(self, step: int) -> bool:
        """Look for one committed step: to list the directory takes 1 to 2 ms after a save."""
        return os.path.lexists(self.path / str(step))

    def fetch(self, step: int) -> None:
        """Have the documents of a committed step in `path`."""

    def fetch_files(self, step: int, names: Iterable[str]) -> None:
        """Have files of a step there, of which the documents are."""

    def has_files(self, step: int) -> bool:
        """Return whether the files of a committed step are in `path`, to be linked to."""
        return self.has(step)

    def forget(self, step: int) -> None:
        """Take note that what was fetched of a step is not good."""

    def size(self, step: int) -> int:
        """Return the bytes of a step's files; raise FileNotFoundError if it is gone."""
        return _files.size_of(self.path / str(step))

    def freed(self, steps: Collection[int]) -> int:
        """Return the bytes that go with steps, and that no other step has."""
        return _files.freed(self.path / str(step) for step in steps)

    def in_place_of(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Enclose the writing of a step that is committed already."""
        return _files.set_aside(self.path, step)

    def prepare(self, step: int) -> None:
        """Make room in `path` for a step to be written."""

    def publish(
        self,
        step: int,
        barriers: Barriers,
        constant: Collection[str] = (),
        linked_to: int | None = None,
    ) -> None:
        """Commit a step that was written to `path`; all processes do, each with what it wrote.

        Args:
            step: The step.
            barriers: Where the processes meet.
            constant: The directories of the files that later steps may link to.
            linked_to: The step that has all of those; the first process's counts.
        """

    def remove(self, steps: Iterable[int]) -> None:
        """Take steps off the list; their bytes go at the next `sweep`."""
        _files.remove(self.path, steps)

    def sweep(self, *, unfinished: bool) -> list[Path]:
        """Delete what was removed, and what killed programs left; return what stays."""
        return _files.sweep(self.path, unfinished=unfinished)

    def pinned(self) -> frozenset[int]:
        """Return the steps that are pinned."""
        return _files.pinned_steps(self.path)

    def pin(self, step: int) -> None:
        """Pin a step."""
        _files.pin(self.path, step)

    def unpin(self, step: int) -> None:
        """Take a pin away."""
        _files.unpin(self.path, step)

    def why_no_step(self, step: int) -> str | None:
        """Say why what is called as a step is none."""
        return _files.why_no_step(self.path, step)


def open_folder(directory: Path | BucketPath) -> Folder:
    """Return the place of a directory's steps."""
    if isinstance(directory, BucketPath):
        from odyssey_jax.store._bucket import Bucket  # it is a `Folder` itself

        return Bucket(directory)
    return Folder(directory)
