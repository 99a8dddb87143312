"""A store's directory: what is committed, pinned and left over, and what is durable."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from odyssey_jax.parallel._agree import ProcessFailedError
from odyssey_jax.store._errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointInUseError,
    CheckpointWriteError,
    CheckpointWriteWarning,
)

# Names that are Orbax's: of a save that is unfinished, and of the markers of one that is finished,
# from which nothing is read.
UNFINISHED = "orbax-checkpoint-tmp"
MARKERS = ("_CHECKPOINT_METADATA", "commit_success.txt")

# The longest document (JSON) that is written, and so that is read, in bytes.
DOCUMENT_BYTES = 64 * 2**20

_STEP = re.compile(r"(0|[1-9][0-9]*)")
# An empty file beside the step, not in it: what is committed is never touched again.
_PIN = re.compile(r"(0|[1-9][0-9]*)\.pinned")
# Unfinished saves, and what a deletion has begun with.
_LEFTOVER = re.compile(rf"[0-9]+\.({UNFINISHED}.*|deleted|replaced)")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of 2 letters at least: C:/ is a drive
_LOCAL_URL = re.compile(r"file://(?:localhost)?(/.*)", re.DOTALL)

# Neither follow a link, nor wait for a FIFO.
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# What a file system answers that cannot sync a directory, as CIFS and shared folders.
_UNSYNCABLE = frozenset([errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])

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


def local_directory(directory: str | os.PathLike[str], name: str = "directory") -> Path:
    """Return a directory as an absolute path of this machine.

    Args:
        directory: A path, in which ``~`` is the home directory, or a ``file:///`` URL.
        name: What to call it in an error.

    Returns:
        The path, absolute, so that a change of the working directory does not move it.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is a URL of another kind, as ``s3://`` and ``gs://``, or has no home.

    Example:
        >>> str(local_directory("file:///runs/a%20b"))
        '/runs/a b'
        >>> local_directory("gs://bucket/run")
        Traceback (most recent call last):
        ValueError: directory must be a local path, or a file:/// URL, got 'gs://bucket/run'; ...
    """
    try:
        text = os.fsdecode(directory)
    except TypeError as error:
        raise TypeError(f"{name} must be a path, got {directory!r}.") from error
    if isinstance(directory, str) and (found := _LOCAL_URL.fullmatch(text)):
        text = urllib.parse.unquote(found[1])
    elif _SCHEME.match(text):
        raise ValueError(
            f"{name} must be a local path, or a file:/// URL, got {text!r}; give a path on a file "
            "system, such as one that the bucket is mounted to, and copy it afterwards."
        )
    if "\0" in text:
        raise ValueError(f"{name} must be a path, and {text!r} has a null character.")
    home = os.path.expanduser(text)
    if text.startswith("~") and home == text:
        raise ValueError(
            f"{name} is {text!r}, and the home directory of {text.split(os.sep)[0]!r} is not known;"
            " give an absolute path."
        )
    return Path(os.path.abspath(home))


def make_directory(directory: Path) -> None:
    """Make a store's directory, so that it survives a power loss.

    A `CheckpointWriteWarning` is given where the file system cannot promise that.

    Raises:
        ValueError: If TensorStore would write elsewhere than the path says.
        CheckpointError: If there is a file of that name, or in its way, or one that is called as a
            step is.
        CheckpointWriteError: If the system refuses.
    """
    _check_name(directory)
    _check_outside(directory)
    try:
        new = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        synced = [sync(path.parent) for path in new] or [sync(directory)]
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
    if odd := min((e.name for e in _entries(directory) if _is_in_the_way(e)), default=None):
        raise CheckpointError(f"{why_no_step(directory, int(odd))}; move it away")
    if not all(synced):
        warnings.warn(
            f"the file system of {str(directory)!r} cannot sync a directory: a power loss may take "
            "the newest checkpoints, though not the older ones",
            CheckpointWriteWarning,
            stacklevel=5,  # the line that made the store
        )


def _check_name(directory: Path) -> None:
    """Raise ValueError for a path that TensorStore reads as another."""
    text = str(directory)
    why = None
    if "\\" in text and os.sep != "\\":
        # https://github.com/google/tensorstore: its paths have slashes only, on every system.
        why = "a backslash"
    try:
        text.encode()
    except UnicodeEncodeError:
        why = "bytes that are not UTF-8"
    if why is not None:
        raise ValueError(
            f"directory must be a path that TensorStore can write to, and {text!r} has {why}; "
            "give another."
        )


def _check_outside(directory: Path) -> None:
    """Raise CheckpointError for a directory within a checkpoint."""
    for path in (directory, *directory.parents):
        if _STEP.fullmatch(path.name) and os.path.lexists(path / "checksums.json"):
            raise CheckpointError(
                f"checkpoint directory {str(directory)!r} lies in the checkpoint {str(path)!r}; "
                "give another"
            )


def committed_steps(directory: Path) -> tuple[int, ...]:
    """Return the steps that are committed: a directory has its number as its name only then.

    A link is none, wherever it leads: it would be another step's data, or somebody else's.
    """
    return tuple(sorted(int(e.name) for e in _entries(directory) if _is_step(e)))


def _is_step(entry: os.DirEntry[str]) -> bool:
    return _STEP.fullmatch(entry.name) is not None and entry.is_dir(follow_symlinks=False)


def _is_in_the_way(entry: os.DirEntry[str]) -> bool:
    return _STEP.fullmatch(entry.name) is not None and not entry.is_dir(follow_symlinks=False)


def is_ours(step: Path) -> bool:
    """Return whether a directory is a step of a store's, or was before it was damaged."""
    return os.path.lexists(step / "layout") or os.path.lexists(step / "checksums.json")


def is_foreign(step: Path) -> bool:
    """Return whether a directory is a step that Orbax alone wrote.

    Beside a step of a store's it is none, but one that is damaged: it must not hide the others.
    """
    steps = (step, *(step.parent / str(other) for other in committed_steps(step.parent)))
    return os.path.lexists(step / MARKERS[0]) and not any(map(is_ours, steps))


def why_no_step(directory: Path, step: int) -> str | None:
    """Say why what is called as a step is none: a file or a link; None if there is nothing."""
    path = directory / str(step)
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
        return None
    what = "a link, which is not followed" if path.is_symlink() else "a file"
    return f"{str(path)!r} is {what}, and no checkpoint"


def pinned_steps(directory: Path) -> frozenset[int]:
    """Return the steps that are pinned, committed or not."""
    names = (entry.name for entry in _entries(directory))
    return frozenset(int(found[1]) for name in names if (found := _PIN.fullmatch(name)))


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
    _change_pin(directory, step, "pinned", _touch)


def unpin(directory: Path, step: int) -> None:
    """Take a pin away, if there is one."""
    _change_pin(directory, step, "unpinned", lambda mark: mark.unlink(missing_ok=True))


def _touch(mark: Path) -> None:
    os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | NO_LINK, 0o666))


def _change_pin(directory: Path, step: int, done: str, act: Callable[[Path], None]) -> None:
    try:
        act(directory / f"{step}.pinned")
        sync(directory)
    except OSError as error:
        raise CheckpointWriteError(
            f"step {step} in {str(directory)!r} was not {done}: {reason(error)}"
        ) from error


def size_of(root: Path) -> int:
    """Return the bytes of the files in a directory and below, following no link."""
    found = (path.lstat() for path in root.rglob("*"))
    return sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))


def freed(roots: Iterable[Path]) -> int:
    """Return the bytes of the files that are in these directories alone."""
    links: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for status in (path.lstat() for root in roots for path in root.rglob("*")):
        if stat.S_ISREG(status.st_mode):
            links[status.st_dev, status.st_ino] += 1
            found[status.st_dev, status.st_ino] = status
    return sum(known.st_size for file, known in found.items() if links[file] == known.st_nlink)


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | NO_LINK)


def open_regular(root: Path, name: str, size: int | None = None) -> io.FileIO:
    """Open a file of a step: a regular one of a known size, in the step's directory.

    A stranger's checkpoint may hold a FIFO, which is waited for, or a link, which leads to any file
    of this machine, or to one without an end.

    Args:
        root: The step's directory.
        name: The file, relative to it.
        size: How long it must be, in bytes; None for any length.

    Returns:
        The file, without a buffer.

    Raises:
        CheckpointCorruptError: If it is another kind of file, of another length, or elsewhere.
        OSError: If it is not there, or the system refuses.
    """
    parts = check_inside(name).split("/")
    for end in range(1, len(parts)):
        if root.joinpath(*parts[:end]).is_symlink():
            raise CheckpointCorruptError(
                f"{'/'.join(parts[:end])} is a link, which is not followed"
            )
    path = root / name
    try:
        stream = io.open(path, "rb", buffering=0, opener=_without_following)  # noqa: UP020, SIM115
    except OSError as error:
        if path.is_symlink():
            raise CheckpointCorruptError(f"{name} is a link, which is not followed") from error
        if path.is_dir():
            raise CheckpointCorruptError(f"{name} is a directory, not a file") from error
        raise
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
        return stream
    stream.close()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointCorruptError(f"{name} is no regular file")
    raise CheckpointCorruptError(f"{name} is {status.st_size} bytes long, not {size}")


def check_inside(name: str) -> str:
    """Return the name of a file in a step's directory.

    Raises:
        CheckpointCorruptError: If it leads out of it.
    """
    parts = name.split("/")
    if "\0" in name or "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise CheckpointCorruptError(f"{name!r} is no name of a file in the step's directory")
    return name


def read_document(root: Path, name: str, size: int | None = None) -> bytes:
    """Read a whole document; the arguments and errors are `open_regular`'s."""
    if size is not None and size > DOCUMENT_BYTES:
        raise CheckpointCorruptError(too_long(name, size))
    with open_regular(root, name, size) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > DOCUMENT_BYTES:
            raise CheckpointCorruptError(too_long(name, size))
        return stream.read(size) or b""


def too_long(name: str, size: int) -> str:
    """Return the reason not to read a document of so many bytes."""
    return f"{name} is {size} bytes long, and a document has at most {DOCUMENT_BYTES}"


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


def sweep(directory: Path, *, unfinished: bool) -> list[Path]:
    """Delete what killed saves and deletions left, and put back what one was to replace.

    Where it may not, the leftovers stay: they are never listed.

    Args:
        directory: The store's directory.
        unfinished: True to sweep what is left of saves too: nobody may be at one.

    Returns:
        The deleted steps whose files the system does not delete.
    """
    left: list[Path] = []
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir()):
            found = _LEFTOVER.fullmatch(path.name)
            if found and (unfinished or found[1] == "deleted"):
                if found[1] == "replaced":
                    _put_back(path)
                shutil.rmtree(path, ignore_errors=True)
                if path.is_symlink() or path.is_file():
                    with contextlib.suppress(OSError):
                        path.unlink()
                if found[1] == "deleted" and os.path.lexists(path):
                    left.append(path)
    return left


def sync(path: Path) -> bool:
    """Make a file's bytes, or a directory's names, survive a power loss.

    Returns:
        False if the file system cannot sync a directory; of a file that is an error.
    """
    if os.name == "nt" and path.is_dir():  # pragma: no cover - cannot be opened there
        return True
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _UNSYNCABLE and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return False
        raise
    finally:
        os.close(descriptor)
    return True


def sync_tree(root: Path) -> None:
    """Make every file and directory under a root, and the root, survive a power loss."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_files(Path(folder))


def sync_files(folder: Path) -> None:
    """Make the files that lie directly in a directory, and it, survive a power loss.

    One that has another name as well was made so under that.
    """
    for path in folder.iterdir():
        if path.is_file() and path.lstat().st_nlink < 2:
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
    if isinstance(error, ProcessFailedError | CheckpointWriteError | CheckpointInUseError):
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
