"""The lock of a directory's writer: one program at a time saves there and deletes."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import time
import weakref
from pathlib import Path

from odyssey_jax.store._errors import CheckpointCorruptError, CheckpointInUseError
from odyssey_jax.store._files import NO_LINK, read_document

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has none
    fcntl = None

FILE = "writer.lock"
_PATIENCE = 0.5  # seconds to wait for a store that is opened: it holds the lock while it tidies up
_PAUSE = 0.05  # seconds
_TAKEN = frozenset([errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK])

# Locks that are held. A child by `os.fork` has them open too, and would keep them locked after
# this process ended.
_open: set[int] = set()


class WriterLock:
    """A lock on a file in the directory, which ends with the process at the latest.

    It is of the open file, so that another lock in the same process is refused like one in
    another process, or, where the file system says so, on another machine. Where there are no
    locks, or no file can be made, it is not held, and nobody is refused.

    Args:
        directory: The directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = WriterLock(Path(folder))
        ...     lock.acquire()
        ...     print(lock.held)
        ...     lock.release()
        True
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._release: weakref.finalize | None = None
        self._process = 0

    @property
    def held(self) -> bool:
        """True while it is held: then nobody else writes to the directory."""
        return self._release is not None and self._process == os.getpid()

    def acquire(self, *, wait: bool = True) -> None:
        """Take the lock, if it is not held already.

        Args:
            wait: True to wait up to 0.5 s (`_PATIENCE`) for somebody who gives it back.

        Raises:
            CheckpointInUseError: If somebody else holds it.
        """
        if self.held:
            return
        path = self._directory / FILE
        deadline = time.monotonic() + (_PATIENCE if wait else 0)
        while True:
            try:
                descriptor = _take(path)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise self._in_use(path) from error
            gc.collect()  # a store that nobody refers to any more may not be gone yet
            time.sleep(_PAUSE)
        if descriptor is not None:
            self._process = os.getpid()
            self._release = weakref.finalize(self, _let_go, descriptor, path, self._process)

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._release is not None:
            self._release()
            self._release = None

    def _in_use(self, path: Path) -> CheckpointInUseError:
        who, what = "another program", "wait until it ends, or end it"
        with contextlib.suppress(OSError, ValueError, CheckpointCorruptError):
            process, host = read_document(path.parent, path.name).decode().split()
            who = f"process {process} on {host}"
            if (int(process), host) == (os.getpid(), socket.gethostname()):
                who, what = "another Store of this program", "close() that one"
        return CheckpointInUseError(
            f"checkpoint directory {str(self._directory)!r} is being written to by {who}, and one "
            f"at a time may: {what}, or give another directory; to look at it, use a Reader"
        )


def _take(path: Path) -> int | None:
    """Lock the file and return its descriptor; None where that cannot be.

    Raises:
        BlockingIOError: If somebody else holds it.
    """
    while fcntl is not None:
        try:
            # Writable, without which NFS locks nothing; and no link, which may lead to a file
            # that is somebody's.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise BlockingIOError(error.errno, "the lock is taken") from error
            return None
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # a full disk: it is for an error's text only
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
            _open.add(descriptor)
            return descriptor
        os.close(descriptor)  # whoever held it has deleted the file meanwhile
    return None  # pragma: no cover


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _let_go(descriptor: int, path: Path, process: int) -> None:
    if process != os.getpid():
        return  # a child, in which it is closed already
    with contextlib.suppress(OSError):
        path.unlink()  # while it is locked, so that nobody else's is deleted
    _open.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _open:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
