"""The lease of a bucket's writer: one program at a time saves there and deletes."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
import secrets
import socket
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

from odyssey_jax.store._errors import CheckpointError, CheckpointInUseError, CheckpointWriteWarning
from odyssey_jax.store._objects import Objects

SECONDS = 60.0  # without a renewal, after which another writer may take over
_NAME = re.compile(r"writer\.lease\.(\d{12})")
_PAUSE = 1.0  # seconds between two looks at another's lease
_RENEWALS = 4  # in the time after which a lease expires
_SAFE = 0.8  # of that time, which the holder itself relies on


class Lease:
    """A lease on a bucket's prefix: a numbered object that is made by a conditional put.

    Whoever makes the next number has it, so of two that try one wins. It is renewed by a thread
    while the program lives; one that nobody renewed for `SECONDS` is taken over, as is at once one
    that was given back, or whose process on this machine has ended. No clocks are compared: who
    waits looks whether the object changes.

    Args:
        objects: Where.
        seconds: After how long without a renewal it expires.

    Example:
        >>> from odyssey_jax.store._objects import BucketPath
        >>> lease = Lease(Objects(BucketPath("memory://doctest/lease")))
        >>> lease.acquire()
        >>> lease.held
        True
        >>> lease.release()
    """

    def __init__(self, objects: Objects, seconds: float | None = None) -> None:
        self._objects, self._seconds = objects, SECONDS if seconds is None else seconds
        self._held: _Held | None = None
        self._process = 0

    @property
    def held(self) -> bool:
        """True while it is held: then nobody else writes there."""
        return self._held is not None and not self._held.lost and self._process == os.getpid()

    @property
    def id(self) -> object:
        """What tells one time that it is held from another; None while it is not."""
        return self._held if self.held else None

    def acquire(self, *, wait: bool = True) -> None:
        """Take the lease, if it is not held already.

        Args:
            wait: True to wait until it is renewed, which refuses this one, or expires.

        Raises:
            CheckpointInUseError: If somebody else holds it.
        """
        if self.held:
            return
        seen: tuple[int, bytes] | None = None
        since = patience = time.monotonic()
        while True:
            number, text = newest(self._objects)
            said = _parse(text)
            state = _state(said)
            expired = seen == (number, text) and time.monotonic() - since >= self._seconds
            if number == 0 or state == "free" or expired:
                if self._take(number + 1):
                    return
                seen = None
                continue
            renewed = seen is not None and seen != (number, text)
            # A store that is closed, or that nobody refers to any more, is about to give it back.
            lives = state == "lives" and time.monotonic() - patience > 0.5
            if renewed or lives or not wait:
                raise self._in_use(said)
            if seen is None:
                seen, since = (number, text), time.monotonic()
            gc.collect()
            time.sleep(min(_PAUSE, self._seconds / 10, 0.1 if state == "lives" else _PAUSE))

    def _take(self, number: int) -> bool:
        held = _Held(self._objects, number, self._seconds)
        if not held.begin():
            return False
        self._held, self._process = held, os.getpid()
        self._end = weakref.finalize(self, held.stop.set)
        return True

    def check(self) -> None:
        """Raise CheckpointInUseError unless it is held still: before what others must not see."""
        if not self.held:
            raise self._in_use(_parse(newest(self._objects)[1]))
        assert self._held is not None
        if not self._held.renew_if_old():
            raise self._in_use(_parse(newest(self._objects)[1]))

    def release(self) -> None:
        """Give it back, if it is held."""
        held, self._held = self._held, None
        if held is not None and self._process == os.getpid():
            held.stop.set()
            held.thread.join()

    def _in_use(self, said: dict[str, Any]) -> CheckpointInUseError:
        who, what = "another program", "wait until it ends, or end it"
        if "process" in said:
            who = f"process {said['process']} on {said.get('host')}"
        if said.get("token") in _tokens:
            who, what = "another Store of this program", "close() that one"
        return CheckpointInUseError(
            f"checkpoint directory {str(self._objects.path)!r} is being written to by {who}, and "
            f"one at a time may: {what}, or give another directory; to look at it, use a Reader"
        )


class _Held:
    """A lease that is held, and the thread that renews it."""

    def __init__(self, objects: Objects, number: int, seconds: float) -> None:
        self._objects, self._number, self._seconds = objects, number, seconds
        self._token, self._renewed = secrets.token_hex(8), 0
        self._safe_until = 0.0
        self._lock = threading.Lock()
        self.lost = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="odyssey_jax lease", daemon=True)

    def begin(self) -> bool:
        begun, name = time.monotonic(), _name(self._number)
        if not self._objects.create(name, self._text()):
            return False
        self._safe_until = begun + _SAFE * self._seconds
        if self._objects.create(name, b"{}"):
            self._objects.write(name, self._text())
            warnings.warn(
                f"the store of {str(self._objects.path)!r} has no conditional put, so that another "
                "program that writes there is not refused: run one at a time",
                CheckpointWriteWarning,
                stacklevel=5,
            )
        older = (_NAME.fullmatch(name) for name in self._objects.entries())
        self._objects.delete([x[0] for x in older if x and int(x[1]) < self._number])
        _tokens.add(self._token)
        _all.add(self)
        self.thread.start()
        return True

    def renew_if_old(self) -> bool:
        """Return whether it is held still; look, and renew it if that was long ago."""
        if time.monotonic() >= self._safe_until:
            self._renew()
        else:
            self._look()
        return not self.lost

    def _look(self) -> None:
        self.lost = self.lost or newest(self._objects)[0] > self._number

    def _renew(self, released: bool = False) -> None:
        with self._lock:
            self._look()
            if not self.lost:
                begun, self._renewed = time.monotonic(), self._renewed + 1
                self._objects.write(_name(self._number), self._text(released))
                self._look()
                self._safe_until = begun + _SAFE * self._seconds

    def _run(self) -> None:
        while not self.stop.wait(self._seconds / _RENEWALS) and not self.lost:
            with contextlib.suppress(CheckpointError):  # the next time, or `check` says so
                self._renew()
        with contextlib.suppress(Exception):  # it expires
            self._renew(released=True)
        _tokens.discard(self._token)

    def _text(self, released: bool = False) -> bytes:
        said = {
            "token": self._token,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "renewed": self._renewed,
            "released": released,
        }
        return json.dumps(said).encode()


_tokens: set[str] = set()  # of this process
_all: weakref.WeakSet[_Held] = weakref.WeakSet()


def _end_all() -> None:
    for held in list(_all):
        held.stop.set()
        held.thread.join(5)


atexit.register(_end_all)


def newest(objects: Objects) -> tuple[int, bytes]:
    """Return the number and the text of the newest lease; 0 if there is none."""
    found = (_NAME.fullmatch(name) for name in objects.entries())
    number = max((int(x[1]) for x in found if x), default=0)
    if number:
        with contextlib.suppress(FileNotFoundError):
            return number, objects.read(_name(number))
    return number, b""


def _name(number: int) -> str:
    return f"writer.lease.{number:012d}"


def _parse(text: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict):
            return said
    return {}


def _state(said: dict[str, Any]) -> str:
    """Return whether a lease is "free", its holder "lives", or that is "unknown"."""
    if said.get("released") is True:
        return "free"
    if said.get("token") in _tokens:
        return "lives"
    machine, process = _machine(), said.get("process")
    if machine is None or said.get("machine") != machine or not isinstance(process, int):
        return "unknown"
    return "lives" if _started(process) == said.get("started") else "free"


def _machine() -> str | None:
    """Identify the machine since it was started, and the namespace of process numbers on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(process: int) -> str | None:
    """Return when a process was started: numbers are used again; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
