"""TensorBoard's files: records of events, each with its length and two checksums.

tensorboardX has the events and the checksum. Its own file is not used: it calls fsync each time
that somebody shall see what was written, and can't be read back.
"""

from __future__ import annotations

import importlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def new_event() -> Any:
    """An empty event."""
    # By its name: the module's contents are made when it is imported, which no checker sees.
    return importlib.import_module("tensorboardX.proto.event_pb2").Event()


def encode(events: Iterable[Any]) -> bytes:
    """Events as records."""
    from tensorboardX.record_writer import masked_crc32c

    parts: list[bytes] = []
    for event in events:
        data = event.SerializeToString()
        size = struct.pack("<Q", len(data))
        parts += [size, struct.pack("<I", masked_crc32c(size)), data]
        parts.append(_FOOTER.pack(masked_crc32c(data)))
    return b"".join(parts)


def decode(path: Path) -> Iterator[Any]:
    """The events of a file, up to a record that is not whole: there a process died."""
    from tensorboardX.record_writer import masked_crc32c

    data, start = path.read_bytes(), 0
    while start + _HEADER.size <= len(data):
        (size, _), start = _HEADER.unpack_from(data, start), start + _HEADER.size
        record, start = data[start : start + size], start + size + _FOOTER.size
        if start > len(data) or _FOOTER.unpack_from(data, start - _FOOTER.size) != (
            masked_crc32c(record),
        ):
            return
        event = new_event()
        event.ParseFromString(record)
        yield event


def replace(folder: Path, name: str, events: Iterable[Any]) -> Path:
    """Puts one file in place of every event file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    old = event_files(folder)
    scratch, path = folder / "new.tmp", folder / name
    scratch.write_bytes(encode(events))
    os.replace(scratch, path)
    for file in old:
        if file != path:
            file.unlink()
    return path


def event_files(folder: Path) -> list[Path]:
    """The event files in a folder, from the oldest on."""
    return sorted(folder.glob("events.out.tfevents.*"))
