"""Orbax's log lines, kept off the user's terminal while the store uses it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

# Orbax reports through absl what it also raises, with whole tracebacks, and warns of
# things that are as the store wants them. Other users of absl are not touched.
_ORBAX = f"{os.sep}orbax{os.sep}"
_lock = threading.Lock()
_users = 0


def _not_orbax(record: logging.LogRecord) -> bool:
    return _ORBAX not in record.pathname


def _hook(report: sys.UnraisableHookArgs) -> None:
    """Reports an exception that cannot be raised, except what TensorStore's writes end in.

    When one write of a save fails, Orbax closes its event loop under the others; each then
    reports "Event loop is closed", which says nothing that the save's own error does not.
    """
    closed = isinstance(report.exc_value, RuntimeError) and report.object is None
    if not (closed and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)


def _install() -> None:
    logging.getLogger("absl").addFilter(_not_orbax)
    if sys.unraisablehook is sys.__unraisablehook__:  # a hook of the user's own is left alone
        sys.unraisablehook = _hook


def _remove() -> None:
    logging.getLogger("absl").removeFilter(_not_orbax)
    if sys.unraisablehook is _hook:
        sys.unraisablehook = sys.__unraisablehook__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops Orbax's reports while it is open, in any thread; may be nested.

    After a failure it stays so: Orbax's other threads go on failing, and reporting, for a
    while, and the store reports the failure itself.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()
    yield  # not in a `finally`: an exception leaves the count as it is
    with _lock:
        _users -= 1
        if _users == 0:
            _remove()
