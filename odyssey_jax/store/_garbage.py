"""Python's search for garbage, put off while a checkpoint's leaves are made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Puts the search for garbage off while it is open.

    Some thousand new leaves make Python look through all objects of the program, JAX's
    included: it takes longer than to read them, and finds nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
