"""The files that writers keep of a run in a bucket: written on this machine, and copied."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from odyssey_jax.store import BucketPath
from odyssey_jax.store._objects import Objects
from odyssey_jax.writers import Live, Row, RunInfo, Writer

_SECONDS = 10.0  # from one copy to the next


class CopiedLogs:
    """A writer that brings the others' files from a bucket, and what changes of them to it.

    The first to be opened, and so the last to be closed. It copies in a thread, about every 10 s
    (`_SECONDS`) and at the end.

    Args:
        url: The run's, of which the checkpoints are left alone.
        clock: Seconds, from any origin.
    """

    reads_state = False
    wants_progress = True

    def __init__(self, url: BucketPath, clock: Callable[[], float] = time.monotonic):
        self._objects, self._clock = Objects(url), clock
        self.path = Path(tempfile.mkdtemp(prefix="odyssey-jax-logs-"))
        self._copied: dict[str, tuple[int, int]] = {}
        self._opened = False
        self._thread = ThreadPoolExecutor(1, "odyssey_jax logs")
        self._running: Future[None] | None = None
        self._last = clock()

    def open(self, run: RunInfo) -> None:
        """Download what there is."""
        del run
        names = [n for n in self._objects.sizes() if not n.startswith("checkpoints/")]
        self._objects.download({name: self.path / name for name in names})
        self._copied = self._files()
        self._opened = True

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Upload what has changed, if that is due; raise what the upload before raised."""
        del rows, live
        if self._running is not None and self._running.done():
            running, self._running = self._running, None
            running.result()
        if self._running is None and self._clock() - self._last >= _SECONDS:
            self._last = self._clock()
            self._running = self._thread.submit(self._copy)

    def close(self) -> None:
        """Upload the rest."""
        try:
            self._thread.shutdown(wait=True)
            if self._opened:  # else what is here may be half of what is there
                self._copy()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.path.rglob("*"):
            if path.is_file() and path.suffix != ".tmp":
                status = path.stat()
                name = path.relative_to(self.path).as_posix()
                found[name] = status.st_mtime_ns, status.st_size
        return found

    def _copy(self) -> None:
        now = self._files()
        for name in now:
            if self._copied.get(name) != now[name]:
                self._objects.replace(name, self.path / name)
                self._copied[name] = now[name]
        gone = [name for name in self._copied if name not in now]
        self._objects.delete(gone)
        for name in gone:
            del self._copied[name]


def with_logs(directory: Any, writers: Sequence[Writer]) -> tuple[Path | None, list[Writer]]:
    """Return the directory that writers are told of, and the writers.

    Args:
        directory: The run's: a path, the URL of a bucket, or None.
        writers: Those of the run.
    """
    if isinstance(directory, BucketPath) and writers:
        logs = CopiedLogs(directory)
        return logs.path, [logs, *writers]
    return None if isinstance(directory, BucketPath) else directory, list(writers)
