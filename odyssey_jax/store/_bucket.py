"""Steps in a bucket: written and read in a directory of this machine, and copied.

A bucket has no rename and no lock. So a step is committed by an object that is written last, its
marker, which names the folder of the step's files and has the checksum of their checksums; and a
`Lease` keeps other writers out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from odyssey_jax.parallel._agree import is_first
from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._barriers import Barriers, check_shared
from odyssey_jax.store._checksums import Checksums
from odyssey_jax.store._errors import CheckpointCorruptError, CheckpointError, CheckpointInUseError
from odyssey_jax.store._folder import Folder
from odyssey_jax.store._lease import Lease
from odyssey_jax.store._lock import WriterLock
from odyssey_jax.store._objects import BucketPath, Objects

_MARKER = re.compile(r"(0|[1-9][0-9]*)\.committed")
_PIN = re.compile(r"(0|[1-9][0-9]*)\.pinned")
_FOLDER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9a-f]{8})?")
_SHARED = re.compile(r"constant\.[0-9a-f]{8}")  # of files that several steps have
_YOUNG = 60.0  # seconds in which a staging directory may not be locked yet


class _Marker(NamedTuple):
    """What commits a step.

    Attributes:
        folder: The folder of its files.
        checksums: The SHA-256 of their `checksums.json`.
        constant: The folder of those files that other steps may have as well; empty for none.
    """

    folder: str
    checksums: str
    constant: str = ""

    def to_json(self) -> bytes:
        """Return the marker's content."""
        return json.dumps({name: x for name, x in self._asdict().items() if x}).encode()


class Bucket(Folder):
    """A prefix in a bucket, by a staging directory of this process.

    While the lease is held nobody else commits or deletes, so that what is committed is known
    without asking. Steps leave the staging directory when they are uploaded, but for what later
    ones link to.

    Of several processes each stages and uploads the files that it has written, as they need not
    share a file system. Process 0 holds the lease, says where to, and writes the marker when all
    are there.

    Args:
        url: The prefix.

    Raises:
        ImportError: If what it needs is not installed.
    """

    shared = False
    tidied_when_opened = False  # to take the lease for that would keep others out

    def __init__(self, url: BucketPath) -> None:
        self._url, self._objects = url, Objects(url)
        self._lease = Lease(self._objects)
        self._known: dict[int, _Marker | None] = {}
        self._known_by: Any = None  # the lease that the list was made under
        self._listed: tuple[_Marker | None, dict[str, int]] = (None, {})
        self._staging: Path | None = None

    @property
    def path(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The staging directory, made when it is first asked for."""
        if self._staging is None:
            self._staging = _make_staging(self._url)
            lock = WriterLock(self._staging)
            lock.acquire()
            weakref.finalize(self, _end, lock, self._staging)
        return self._staging

    def make(self) -> None:
        """Check that the bucket answers, to all processes with the same."""
        self._objects.entries()
        at = lambda probe: f"0.{probe}/shared"  # in a folder that no marker names
        check_shared(
            self._url,
            lambda probe: self._objects.write(at(probe), b""),
            lambda probe: bool(self._objects.sizes(f"0.{probe}")),
            lambda probe: self._objects.delete([at(probe)]),
        )

    def lock(self) -> Lease:
        """Return the lease of its writer."""
        return self._lease

    def committed(self) -> tuple[int, ...]:
        """Return the steps that have a marker, ascending."""
        holds = self._lease.id
        if holds is not None and self._known_by is holds:
            return tuple(sorted(self._known))
        found = (_MARKER.fullmatch(name) for name in self._objects.entries())
        steps = {int(x[1]) for x in found if x}
        self._known = dict.fromkeys(steps)
        self._known_by = holds
        return tuple(sorted(steps))

    def has(self, step: int) -> bool:
        """Return whether a step is committed."""
        return step in self.committed()

    def _marker(self, step: int) -> _Marker:
        """Read a step's marker; raise FileNotFoundError if it has none."""
        holds = self._lease.id
        if holds is not None and self._known_by is holds and (known := self._known.get(step)):
            return known
        name = f"{step}.committed"
        said = _checksums.parse(name, self._objects.read(name))
        texts: list[Any] = [said.get(field, "") for field in _Marker._fields]
        marker = _Marker(*texts)
        if not all(isinstance(text, str) for text in texts):
            raise CheckpointCorruptError(f"{name} makes no sense")
        if (found := _FOLDER.fullmatch(marker.folder)) is None or int(found[1]) != step:
            raise CheckpointCorruptError(f"{name} makes no sense")
        if marker.constant and not _SHARED.fullmatch(marker.constant):
            raise CheckpointCorruptError(f"{name} makes no sense")
        if step in self._known:
            self._known[step] = marker
        return marker

    def fetch(self, step: int) -> None:
        """Download the documents of a step that are not here."""
        marker = self._marker(step)
        local = self.path / str(step)
        sums = local / _checksums.FILE
        if not (sums.is_file() and _digest(sums.read_bytes()) == marker.checksums):
            shutil.rmtree(local, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                self._objects.download({f"{marker.folder}/{_checksums.FILE}": sums})
            if not sums.is_file():
                local.mkdir(exist_ok=True)
                raise CheckpointCorruptError(f"{_checksums.FILE} is missing")
            if _digest(sums.read_bytes()) != marker.checksums:
                self.forget(step)
                raise CheckpointCorruptError(
                    f"{_checksums.FILE} is damaged: it is not the one that was committed"
                )
        self.fetch_files(step, [n for n in _checksums.load(local) if not _checksums.is_chunk(n)])

    def fetch_files(self, step: int, names: Iterable[str]) -> None:
        """Download files of a step that are not here."""
        local = self.path / str(step)
        if names := [name for name in names if not (local / name).exists()]:
            sums = _checksums.load(local)
            wanted = {name: sums[name] for name in names if name in sums}
            found = self._find(self._marker(step), wanted)
            self._objects.download({path: local / name for name, path in found.items()})

    def _find(self, marker: _Marker, wanted: Checksums) -> dict[str, str]:
        """Return the objects of files; raise CheckpointCorruptError unless all are there."""
        there = self._sizes(marker)
        found: dict[str, str] = {}
        for name, known in wanted.items():
            paths = [f"{folder}/{name}" for folder in (marker.folder, marker.constant)]
            path = next((path for path in paths if path in there), None)
            if path is None:
                raise _checksums.missing(name)
            if there[path] != known.size:
                raise CheckpointCorruptError(
                    f"{name} is {there[path]} bytes long, not {known.size}"
                )
            found[name] = path
        return found

    def _sizes(self, marker: _Marker) -> dict[str, int]:
        """Return the bytes of the objects of a step; of the one that was asked for last, again."""
        listed = self._listed  # which another thread may forget
        if listed[0] != marker:
            shared = self._objects.sizes(marker.constant) if marker.constant else {}
            listed = self._listed = marker, shared | self._objects.sizes(marker.folder)
        return listed[1]

    def has_files(self, step: int) -> bool:
        """Return whether the files of a committed step that later ones link to are here."""
        return self.has(step) and (self.path / str(step)).exists()

    def forget(self, step: int) -> None:
        """Delete what was downloaded of a step: it is asked for again."""
        self._listed = None, {}
        shutil.rmtree(self.path / str(step), ignore_errors=True)

    def size(self, step: int) -> int:
        """Return the bytes of a step's objects."""
        return sum(self._sizes(self._marker(step)).values())

    def freed(self, steps: Collection[int]) -> int:
        """Return the bytes that go with steps, and that no other step has."""
        others = [self._marker_or_none(step) for step in self.committed() if step not in steps]
        left = {marker.constant for marker in others if marker is not None}
        going = [self._marker(step) for step in steps]
        folders = {name for marker in going for name in (marker.folder, marker.constant)}
        return sum(sum(self._objects.sizes(name).values()) for name in folders - left if name)

    def in_place_of(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Do nothing: the marker is replaced, and then no marker names the old files."""
        del step
        return contextlib.nullcontext()

    def prepare(self, step: int) -> None:
        """Make room in the staging directory for a step to be written."""
        _files.sweep(self.path, unfinished=True)
        self.forget(step)

    def publish(
        self,
        step: int,
        barriers: Barriers,
        constant: Collection[str] = (),
        linked_to: int | None = None,
    ) -> None:
        """Upload a step, and then its marker, if the lease is held still.

        The files that later steps may link to are in a folder that all of their markers name.
        """
        local = self.path / (str(step) if is_first() else f"{step}.{_files.UNFINISHED}")
        files = {p.relative_to(local).as_posix(): p for p in local.rglob("*") if p.is_file()}
        kept: set[str] = set()
        try:
            place = self._place(step, bool(constant), linked_to) if is_first() else None
            folder, shared, new = barriers.placed(place)
            lasting = {name for name in files if name.rpartition("/")[0] in constant}
            own = {f"{folder}/{name}": files[name] for name in files.keys() - lasting}
            self._objects.upload(own | {f"{new}/{name}": files[name] for name in lasting if new})
            barriers.uploaded()
            if is_first():
                self._commit(step, _Marker(folder, _digest_of(local), shared))
                if constant:
                    kept = lasting | {name for name in files if not _checksums.is_chunk(name)}
        finally:
            if not kept:
                shutil.rmtree(local, ignore_errors=True)
            for name in files.keys() - kept if kept else ():
                files[name].unlink(missing_ok=True)

    def _place(self, step: int, constant: bool, linked_to: int | None) -> tuple[str, str, str]:
        """Return the folder of a step, that of what does not change, and this again if it is new.

        Raises:
            CheckpointInUseError: If the lease is lost.
        """
        self._lease.check()
        entries = self._objects.entries()
        folder = f"{step}.{secrets.token_hex(4)}" if entries.get(str(step)) else str(step)
        if linked_to is not None and (known := self._marker(linked_to).constant):
            return folder, known, ""
        new = f"constant.{secrets.token_hex(4)}" if constant else ""
        return folder, new, new

    def _commit(self, step: int, marker: _Marker) -> None:
        if jax.process_count() > 1:  # of what others have uploaded nothing is known yet
            self._find(marker, _checksums.load(self.path / str(step)))
        self._lease.check()
        self._objects.write(f"{step}.committed", marker.to_json())
        self._known[step] = marker

    def remove(self, steps: Iterable[int]) -> None:
        """Delete the markers of steps; their other objects go at the next `sweep`."""
        steps = list(steps)
        self._lease.check()
        try:
            self._objects.delete([f"{step}.committed" for step in steps])
        except BaseException:
            self._known_by = None  # to be listed anew
            raise
        for step in steps:
            self._known.pop(step, None)

    def sweep(self, *, unfinished: bool) -> list[Path]:
        """Delete the folders that no marker names, as those of killed uploads."""
        if unfinished:
            with contextlib.suppress(CheckpointError, FileNotFoundError):
                entries = self._objects.entries()
                steps = {int(x[1]) for name in entries if (x := _MARKER.fullmatch(name))}
                markers = [self._marker_or_none(step) for step in steps]
                if None in markers:  # which folders it names is not known
                    return []
                named = {name for x in markers if x for name in (x.folder, x.constant)}
                self._lease.check()
                for name, is_folder in entries.items():
                    ours = _FOLDER.fullmatch(name) or _SHARED.fullmatch(name)
                    if is_folder and ours and name not in named:
                        self._objects.delete(self._objects.sizes(name))
        return []

    def _marker_or_none(self, step: int) -> _Marker | None:
        try:
            return self._marker(step)
        except CheckpointCorruptError:
            return None

    def pinned(self) -> frozenset[int]:
        """Return the steps that are pinned."""
        found = (_PIN.fullmatch(name) for name in self._objects.entries())
        return frozenset(int(x[1]) for x in found if x)

    def pin(self, step: int) -> None:
        """Pin a step."""
        self._objects.write(f"{step}.pinned", b"\n")

    def unpin(self, step: int) -> None:
        """Take a pin away."""
        self._objects.delete([f"{step}.pinned"])

    def why_no_step(self, step: int) -> str | None:
        """Return None: what has no marker is not there."""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(root: Path) -> str:
    return _digest((root / _checksums.FILE).read_bytes())


def _make_staging(url: BucketPath) -> Path:
    """Make a staging directory, and delete those that killed programs left of the same URL."""
    prefix = f"odyssey-jax-{_digest(str(url).encode())[:16]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, CheckpointInUseError):
            status = left.lstat()
            ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if ours and time.time() - status.st_mtime > _YOUNG:
                lock = WriterLock(left)
                lock.acquire(wait=False)
                if lock.held:
                    _end(lock, left)
    return Path(tempfile.mkdtemp(prefix=prefix))


def _end(lock: WriterLock, staging: Path) -> None:
    lock.release()
    shutil.rmtree(staging, ignore_errors=True)
