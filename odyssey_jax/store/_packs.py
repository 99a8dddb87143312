"""Packed arrays, read from their files into memory that XLA can use where it lies.

Orbax wrote them as plain bytes, one file for each chunk, so they are read side by side and
summed on the way, while each block is still in the processor's cache.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odyssey_jax.store._checksums import (
    BLOCK,
    Checksum,
    Checksums,
    chunk_file,
    compare,
    in_threads,
    missing,
)
from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._layout import ALIGNMENT, Layout, Place

_NAMED = 3  # leaves that an error names


class _Chunk(NamedTuple):
    pack: str
    start: int  # its first element
    file: str
    memory: memoryview  # where its bytes go


def read_packs(
    root: Path, layout: Layout, places: Iterable[Place], wanted: Checksums | None
) -> dict[str, np.ndarray]:
    """Reads packed arrays, of which only the files that hold what is asked for.

    Args:
        root: The step's directory.
        layout: Its layout.
        places: The leaves to read; what does not lie packed is passed over.
        wanted: What the files must be; None compares their lengths only.

    Returns:
        The arrays by name, of the leaves' own dtypes. Memory that no leaf is in is never
        written to, so that the system need not provide it.

    Raises:
        CheckpointCorruptError: A file is gone, of another length or damaged; the message
            names it and leaves in it.
    """
    numbers = _chunks(layout, places)
    packs = {name: layout.packs[name] for name in numbers}
    arrays = {name: aligned((pack.size,), np.dtype(pack.dtype)) for name, pack in packs.items()}
    chunks = [
        _Chunk(name, start, chunk_file(name, number), _bytes(arrays[name], start, pack.chunk))
        for name, pack in packs.items()
        for number, start in enumerate(range(0, pack.size, pack.chunk))
        if number in numbers[name]
    ]

    def read(chunk: _Chunk) -> None:
        try:
            crc = _fill(chunk.memory, root / chunk.file, chunk.file, summed=wanted is not None)
            if wanted is not None:
                compare(chunk.file, Checksum(len(chunk.memory), crc), wanted)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"{error} ({_leaves(layout, chunk)})") from error

    in_threads(read, chunks)
    return arrays


def _chunks(layout: Layout, places: Iterable[Place]) -> dict[str, set[int]]:
    """The numbers of the chunks that leaves lie in, by pack."""
    numbers: dict[str, set[int]] = {}
    for place in places:
        if place.lies == "packed":
            chunk = layout.packs[place.array].chunk
            last = (place.offset + place.size - 1) // chunk
            numbers.setdefault(place.array, set()).update(range(place.offset // chunk, last + 1))
    return numbers


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Makes an array that begins where XLA can use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _bytes(array: np.ndarray, start: int, length: int) -> memoryview:
    return array[start : start + length].view(np.uint8).data


def _fill(memory: memoryview, path: Path, name: str, *, summed: bool) -> int:
    """Reads a whole file into memory, and sums it if asked to."""
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise missing(name) from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if size != len(memory):
            raise CheckpointCorruptError(f"{name} is {size} bytes long, not {len(memory)}")
        crc = done = 0
        while done < size:
            count = stream.readinto(memory[done : done + BLOCK])
            if not count:
                raise CheckpointCorruptError(f"{name} ends at {done} bytes, not {size}")
            if summed:
                crc = zlib.crc32(memory[done : done + count], crc)
            done += count
    return crc


def _leaves(layout: Layout, chunk: _Chunk) -> str:
    """Names the leaves that lie in a chunk, the first ones only."""
    end = chunk.start + layout.packs[chunk.pack].chunk
    inside = [
        place.path
        for place in layout.places
        if place.lies == "packed" and place.array == chunk.pack
        if place.offset < end and place.offset + place.size > chunk.start
    ]
    more = f" and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
    return f"in it {', '.join(inside[:_NAMED])}{more}"
