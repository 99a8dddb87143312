"""Orbax's log lines, kept off the user's terminal while the store uses it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

# Orbax reports through absl what it also raises, with whole tracebacks, and warns of
# things that are as the store wants them. Other users of absl are not touched.
_ORBAX = f"{os.sep}orbax{os.sep}"
_lock = threading.Lock()
_users = 0


def _not_orbax(record: logging.LogRecord) -> bool:
    return _ORBAX not in record.pathname


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops Orbax's log records while it is open, in any thread; may be nested."""
    global _users
    logger = logging.getLogger("absl")
    with _lock:
        _users += 1
        if _users == 1:
            logger.addFilter(_not_orbax)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                logger.removeFilter(_not_orbax)
