"""The store's errors: one base, and one class for each thing a caller may do about it.

They are of what is on the disk; a bad argument is a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class CheckpointError(Exception):
    """Something about a checkpoint is not as it must be; the base of the store's errors.

    Example:
        >>> issubclass(CheckpointMismatchError, CheckpointError)
        True
    """


class CheckpointNotFoundError(CheckpointError, LookupError):
    """The step that was asked for is not among the committed ones.

    Example:
        >>> issubclass(CheckpointNotFoundError, LookupError)
        True
    """


class CheckpointCorruptError(CheckpointError):
    """A committed checkpoint cannot be read back: a file is missing, short or damaged.

    Args:
        message: What is wrong, and with which checkpoint.
        reason: What is wrong alone, naming the file; None is the message.

    Example:
        >>> error = CheckpointCorruptError("step 3 cannot be read: f is missing", "f is missing")
        >>> error.reason
        'f is missing'
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = message if reason is None else reason


class CheckpointSkippedWarning(UserWarning):
    """The newest or the best checkpoint is corrupt, and another one was taken.

    Example:
        >>> issubclass(CheckpointSkippedWarning, UserWarning)
        True
    """


class CheckpointVersionError(CheckpointError):
    """A checkpoint's format is newer than this version of odyssey_jax can read.

    Example:
        >>> issubclass(CheckpointVersionError, CheckpointError)
        True
    """


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint could not be written or deleted: no space, no permission.

    It is an ``OSError`` too, so that a program that handles those handles this.
    What had been committed before is untouched.

    Example:
        >>> issubclass(CheckpointWriteError, OSError)
        True
    """


class CheckpointInUseError(CheckpointError):
    """Another program, or another `Store` of this one, writes to the directory.

    Example:
        >>> issubclass(CheckpointInUseError, CheckpointError)
        True
    """


class CheckpointWriteWarning(UserWarning):
    """A checkpoint could not be written, and the store was asked to go on without it.

    Example:
        >>> issubclass(CheckpointWriteWarning, UserWarning)
        True
    """


class CheckpointMismatchError(CheckpointError):
    """The target differs from what was saved; the message lists the leaves.

    Args:
        message: One line for each leaf that differs.
        missing: Paths in the target that the checkpoint has not.
        extra: Paths in the checkpoint that the target has not.
        shape: Path -> (saved shape, target's shape).
        dtype: Path -> (saved dtype, target's dtype), by name.

    Example:
        >>> error = CheckpointMismatchError("...", missing=["['w']"])
        >>> error.missing
        ("['w']",)
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        extra: Sequence[str] = (),
        shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        dtype: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.shape = dict(shape or {})
        self.dtype = dict(dtype or {})
