"""New files, made where a stranger may have left something."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO


def create(path: Path) -> BinaryIO:
    """Open a new file to write to, in place of what is there: a link is replaced, not followed.

    Raises:
        OSError: If it can't be made, such as where there is a directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     link, victim = Path(folder, "link"), Path(folder, "victim")
        ...     _ = victim.write_text("precious")
        ...     link.symlink_to(victim)
        ...     with create(link) as file:
        ...         _ = file.write(b"new")
        ...     victim.read_text(), link.read_text()
        ('precious', 'new')
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    # O_EXCL also refuses a link that is put there in between.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; what was there is replaced, and no link is followed.

    Raises:
        OSError: If it can't be written; what was there before is kept.
    """
    scratch = path.with_name(path.name + ".tmp")
    try:
        with create(scratch) as file:
            file.write(content)
        os.replace(scratch, path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
