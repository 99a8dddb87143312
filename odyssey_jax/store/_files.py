"""A store's directory: what is committed, pinned and left over, and what is durable."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from odyssey_jax.parallel._agree import ProcessFailedError
from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError

# Names that are Orbax's: of a save that is unfinished, and of the markers of one that is finished,
# from which nothing is read.
UNFINISHED = "orbax-checkpoint-tmp"
MARKERS = ("_CHECKPOINT_METADATA", "commit_success.txt")

_STEP = re.compile(r"(0|[1-9]\d*)$")
# An empty file beside the step, not in it: what is committed is never touched again.
_PIN = re.compile(r"(0|[1-9]\d*)\.pinned$")
# Unfinished saves, and what a deletion has begun with.
_LEFTOVER = re.compile(rf"\d+\.({UNFINISHED}.*|deleted|replaced)$")

# The system's refusals of the moment: they say nothing of what is in the file.
REFUSALS = frozenset(
    [
        errno.EACCES,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EPERM,
        errno.ESTALE,
        errno.ETIMEDOUT,
    ]
)


def make_directory(directory: Path) -> None:
    """Make a store's directory, so that it survives a power loss.

    Raises:
        CheckpointError: If there is a file of that name, or in its way.
        CheckpointWriteError: If the system refuses.
    """
    try:
        new = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync(path.parent)
    except (FileExistsError, NotADirectoryError) as error:
        paths = (directory, *directory.parents)
        file = next((p for p in paths if p.is_file() or p.is_symlink()), directory)
        what = "a file" if file.exists() else "a link that leads nowhere"
        raise CheckpointError(
            f"checkpoint directory {str(directory)!r} cannot be made: {str(file)!r} is {what}; "
            "give another directory, or move it away"
        ) from error
    except OSError as error:
        raise CheckpointWriteError(
            f"checkpoint directory {str(directory)!r} cannot be made: {reason(error)}"
        ) from error


def committed_steps(directory: Path) -> tuple[int, ...]:
    """Return the steps that are committed: a directory has its number as its name only then."""
    found = [int(e.name) for e in _entries(directory) if _STEP.match(e.name) and e.is_dir()]
    return tuple(sorted(found))


def pinned_steps(directory: Path) -> frozenset[int]:
    """Return the steps that are pinned, committed or not."""
    names = (entry.name for entry in _entries(directory))
    return frozenset(int(found[1]) for name in names if (found := _PIN.match(name)))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """List a directory; one that does not exist is empty."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"checkpoint directory {str(directory)!r} cannot be listed: {reason(error)}"
        ) from error


def pin(directory: Path, step: int) -> None:
    """Pin a step, so that it stays pinned after a power loss."""
    _change_pin(directory, step, "pinned", lambda mark: mark.touch())


def unpin(directory: Path, step: int) -> None:
    """Take a pin away, if there is one."""
    _change_pin(directory, step, "unpinned", lambda mark: mark.unlink(missing_ok=True))


def _change_pin(directory: Path, step: int, done: str, act: Callable[[Path], None]) -> None:
    try:
        act(directory / f"{step}.pinned")
        sync(directory)
    except OSError as error:
        raise CheckpointWriteError(
            f"step {step} in {str(directory)!r} was not {done}: {reason(error)}"
        ) from error


def size_of(root: Path) -> int:
    """Return the bytes of the files in a directory and below."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def remove(directory: Path, steps: Iterable[int]) -> None:
    """Take steps off the list; their bytes go at the next `sweep`.

    A step loses its name before any of its files is touched, so no half of it is ever listed.
    """
    for step in steps:
        doomed = directory / f"{step}.deleted"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(directory / str(step), doomed)
    sync(directory)


@contextlib.contextmanager
def set_aside(directory: Path, step: int) -> Iterator[None]:
    """Take a step off the list while another is written in its place.

    If that fails, it is put back at once; if it is killed, by the next `sweep`.
    """
    aside = directory / f"{step}.replaced"
    os.rename(directory / str(step), aside)
    sync(directory)
    try:
        yield
    except BaseException:
        _put_back(aside)
        raise


def _put_back(aside: Path) -> None:
    """Give a step that was set aside its name again, unless another has it by now."""
    step = aside.with_suffix("")
    with contextlib.suppress(OSError):
        if not step.exists():
            os.rename(aside, step)
            sync(step.parent)


def sweep(directory: Path, *, unfinished: bool) -> None:
    """Delete what killed saves and deletions left, and put back what one was to replace.

    Where it may not, the leftovers stay: they are never listed.

    Args:
        directory: The store's directory.
        unfinished: True to sweep what is left of saves too: nobody may be at one.
    """
    with contextlib.suppress(OSError):
        for path in list(directory.iterdir()):
            found = _LEFTOVER.match(path.name)
            if found and (unfinished or found[1] == "deleted"):
                if found[1] == "replaced":
                    _put_back(path)
                shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power loss."""
    if os.name == "nt" and path.is_dir():  # pragma: no cover - cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make every file and directory under a root, and the root, survive a power loss."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_files(Path(folder))


def sync_files(folder: Path) -> None:
    """Make the files that lie directly in a directory, and it, survive a power loss."""
    for path in folder.iterdir():
        if path.is_file():
            sync(path)
    sync(folder)


def reason(error: BaseException) -> str:
    """Return in a few words, on one line, why something failed.

    Example:
        >>> reason(OSError(28, "No space left on device"))
        'No space left on device'
        >>> reason(ValueError("Failed to write: No space [os_error_code='28']"))
        'No space left on device'
    """
    if isinstance(error, ProcessFailedError):
        return str(error)
    if (number := errno_of(error)) is not None:
        return os.strerror(number)
    text = " ".join(str(error).split())
    if re.search(r"after (interpreter )?shutdown", text):
        return "the program ended first; call wait() or close() before it does"
    return f"{type(error).__name__}: {text[:300]}"


def errno_of(error: BaseException) -> int | None:
    """Return the number of the system's error behind an exception, if there is one.

    TensorStore's exceptions hold it in their text only.
    """
    if isinstance(error, OSError | ProcessFailedError) and error.errno:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'|\[OS error (\d+)", str(error))
    return int(found[1] or found[2]) if found else None
