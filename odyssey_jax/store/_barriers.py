"""The barriers at which several processes meet during a save, and what they agree on.

They meet by the key-value service of jax.distributed, in the background thread: no device
takes part, so that the main thread's programs go on meanwhile. Whoever fails fails the save of
all (`Meeting.together`). With one process each of these returns at once.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax

from odyssey_jax.parallel._agree import (
    Meeting,
    ProcessFailedError,
    decide,
    first,
    from_first,
    greatest,
    is_first,
)
from odyssey_jax.store import _files
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._errors import CheckpointCorruptError, CheckpointError
from odyssey_jax.store._objects import BucketPath

Result = TypeVar("Result")


class Barriers:
    """The barriers of a store's saves, in the order in which a save comes to them.

    Args:
        directory: The store's directory, the same in every process.
    """

    def __init__(self, directory: Path | BucketPath) -> None:
        self._meeting = Meeting(f"saves to {directory}")

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Enclose a save: if it fails in one process, it fails in all, for that reason."""
        return self._meeting.together(_files.reason)

    def begun(self) -> None:
        """Meet when the first process has made the directories."""
        self._meeting.decide(None, first, "begun")

    def written(self) -> None:
        """Meet when all have written their arrays; the first process may finish and rename."""
        self._meeting.decide(None, first, "written")

    def finished(self, cuts: Mapping[str, list[int]] | None) -> dict[str, list[int]]:
        """Meet when the first process has finished all but the checksums, which can be taken.

        Args:
            cuts: In the first process, how the arrays were cut into files.

        Returns:
            The same, in every process.
        """
        return self._meeting.decide(cuts, first, "finished")

    def summed(self, sums: Mapping[str, Checksum]) -> dict[str, Checksum]:
        """Bring the checksums of what each process holds to the first.

        Args:
            sums: File -> checksum, of this process's shards.

        Returns:
            In the first process, those of all; in others, nothing of use.
        """
        found: dict[str, Checksum] = {}

        def collect(shares: list[dict[str, Any]]) -> None:
            for share in shares:
                found.update({file: Checksum(*known) for file, known in share.items()})

        self._meeting.decide(dict(sums), collect, "summed")
        return found

    def placed(self, place: Sequence[str] | None) -> Sequence[str]:
        """Meet when the first process knows where to upload to.

        Args:
            place: In the first process, the folders.

        Returns:
            The same, in every process.
        """
        return self._meeting.decide(place, first, "placed")

    def uploaded(self) -> None:
        """Meet when all have uploaded what they have; the first process may commit.

        However long that takes: of what all have a copy the first process uploads the whole.
        """
        self._meeting.decide(None, first, "uploaded", patience=math.inf)

    def committed(self, dropped: Iterable[int]) -> list[int]:
        """Meet when the first process has committed, and deleted what is old.

        Args:
            dropped: In the first process, the steps that it deleted.

        Returns:
            The same, in every process.
        """
        return self._meeting.decide(sorted(dropped), first, "committed")

    def failed(self) -> None:
        """Meet when all know that the save has failed; none is at its files, which may be swept."""
        gone = (ProcessFailedError, TimeoutError, jax.errors.JaxRuntimeError)
        with contextlib.suppress(*gone):  # one of them is
            self._meeting.decide(None, first, "failed")


def read_alike(read: Callable[[], Result]) -> Result:
    """Read a step: what is corrupt to one process is corrupt to all.

    Args:
        read: Reads it, or this process's part of it.

    Returns:
        What it returned.

    Raises:
        CheckpointCorruptError: If one process raised it.
    """
    try:
        result, wrong = read(), None
    except CheckpointCorruptError as error:
        if jax.process_count() == 1:
            raise
        result, wrong = None, [str(error), error.reason]
    wrong = decide(wrong, lambda found: next(filter(None, found), None), "Store.restore")
    if wrong is not None:
        raise CheckpointCorruptError(*wrong)
    return cast(Result, result)


def check_shared(
    directory: Path | BucketPath,
    make: Callable[[str], object],
    sees: Callable[[str], bool],
    delete: Callable[[str], object],
) -> None:
    """Raise CheckpointError unless all processes see in a directory what process 0 writes there.

    Args:
        directory: The store's directory.
        make: Makes what has a name there, which ends in these 8 hexadecimal digits.
        sees: Returns whether it is there.
        delete: Deletes it.
    """
    if jax.process_count() == 1:
        return
    probe = from_first(secrets.token_hex(4), "Store")
    if is_first():
        make(probe)
    from_first(None, "Store")
    blind = 0 if sees(probe) else jax.process_index()
    (blind,) = greatest(blind, what="Store")
    if is_first():
        delete(probe)
    if blind:
        raise CheckpointError(
            f"checkpoint directory {str(directory)!r} is not shared: process {blind} does not see "
            "what process 0 writes there; give one that all processes share, on a file system or "
            "in a bucket"
        )
