"""One committed step: its documents and arrays, each compared with its checksum."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksum, Checksums, chunk_file
from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._format import check_version, decode, migrate
from odyssey_jax.store._layout import Layout, Place, aligned_array, from_json

_LEAVES_NAMED = 3  # in an error


class StoredStep:
    """A step's directory, read as any format version has it.

    Documents are always compared with their checksums. What is damaged is a
    `CheckpointCorruptError` or the system's error, and nothing else is: a device without
    memory says nothing of the checkpoint. The reader puts the checkpoint's name to it.

    Args:
        root: The step's directory.
        name: What to call the checkpoint.

    Raises:
        CheckpointCorruptError: If it has no checksums; its methods raise that too.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._checksums = _checksums.load(root)

    def metadata(self) -> dict[str, Any]:
        """Read the metadata, as the current format version has it."""
        version = self._version
        with _making_sense("metadata/metadata"):
            return decode(migrate("metadata", self._metadata, version))

    def layout(self) -> Layout:
        """Read the layout."""
        document, version = self._document("layout"), self._version
        with _making_sense("layout/metadata"):
            return from_json(migrate("layout", document, version))

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return self._document("metadata")

    @cached_property
    def _version(self) -> int:
        # The metadata agrees with its checksum by now, so that a version that looks newer is
        # newer: every format version has its checksums in the same place.
        return check_version(self._metadata, self._name)

    def _document(self, name: str) -> dict[str, Any]:
        file = f"{name}/metadata"
        try:
            text = (self._root / file).read_bytes()
        except FileNotFoundError as error:
            raise _checksums.missing(file) from error
        _checksums.compare(file, Checksum(len(text), zlib.crc32(text)), self._checksums)
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CheckpointCorruptError(f"{file} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise CheckpointCorruptError(f"{file} holds a {type(data).__name__}, not an object")
        return data

    def arrays(
        self,
        layout: Layout,
        places: Iterable[Place],
        loose: Mapping[str, Any],
        *,
        verify: bool,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read arrays.

        Args:
            layout: The step's layout.
            places: The leaves to read; of packed arrays only the files that they lie in.
            loose: Names of the arrays by themselves to read -> the sharding to read them
                into, or None for a numpy array.
            verify: True to compare their bytes with the checksums.

        Returns:
            The packed arrays, and the others.
        """
        wanted = self._checksums if verify else None
        if wanted is not None:
            folders = tuple(f"state/loose.{name}/" for name in loose)
            # The packed arrays are compared as they are read, below.
            others = [name for name in wanted if not _is_chunk(name) or name.startswith(folders)]
            _checksums.check_files(self._root, others, wanted)
        with _making_sense("layout/metadata"):
            found = read_packs(self._root, layout, places, wanted)
        if not loose:
            return found, {}
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        # What agrees with its checksums is not damaged, whatever goes wrong with it.
        unknown = _making_sense("state") if wanted is None else contextlib.nullcontext()
        with unknown:
            return found, _orbax.read_loose(self._root, loose)

    def verify(self) -> int:
        """Read all of it, and compare it with its checksums.

        Returns:
            How many bytes had one.
        """
        self.metadata()
        self.layout()
        _checksums.check_files(self._root, self._checksums, self._checksums)
        return sum(wanted.size for wanted in self._checksums.values())


@contextlib.contextmanager
def _making_sense(what: str) -> Iterator[None]:
    """Turn what Python and TensorStore raise of damaged data into CheckpointCorruptError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if _files.errno_of(error) in _files.REFUSALS:
            raise
        raise CheckpointCorruptError(f"{what} makes no sense: {_files.reason(error)}") from error


def _is_chunk(file: str) -> bool:
    """True for a file that holds a part of an array, and so may be large."""
    folder, _, name = file.rpartition("/")
    return folder.startswith(("state/packed.", "state/loose.")) and name != ".zarray"


class _Chunk(NamedTuple):
    """One file of a packed array.

    Attributes:
        pack: The array's name.
        start: Its first element.
        file: Its name, relative to the step's directory.
        memory: Where its bytes go.
    """

    pack: str
    start: int
    file: str
    memory: memoryview


def read_packs(
    root: Path, layout: Layout, places: Iterable[Place], wanted: Checksums | None
) -> dict[str, np.ndarray]:
    """Read packed arrays, of which only the files that hold what is asked for.

    Orbax wrote them as plain bytes, one file for each chunk, so they are read side by side and
    summed on the way, while each block is still in the processor's cache.

    Args:
        root: The step's directory.
        layout: Its layout.
        places: The leaves to read; what does not lie packed is passed over.
        wanted: What the files must be; None compares their lengths only.

    Returns:
        The arrays by name, of the leaves' own dtypes. Memory that no leaf is in is never
        written to, so that the system need not provide it.

    Raises:
        CheckpointCorruptError: If a file is gone, of another length or damaged; the message
            names it and leaves in it.
    """
    numbers = _chunks(layout, places)
    packs = {name: layout.packs[name] for name in numbers}
    arrays = {
        name: aligned_array((pack.size,), np.dtype(pack.dtype)) for name, pack in packs.items()
    }
    chunks = [
        _Chunk(
            name,
            start,
            chunk_file(name, number),
            _bytes(arrays[name], start, pack.chunk),
        )
        for name, pack in packs.items()
        for number, start in enumerate(range(0, pack.size, pack.chunk))
        if number in numbers[name]
    ]

    def read(chunk: _Chunk) -> None:
        try:
            crc = _fill(chunk.memory, root / chunk.file, chunk.file, summed=wanted is not None)
            if wanted is not None:
                _checksums.compare(chunk.file, Checksum(len(chunk.memory), crc), wanted)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"{error} ({_leaves(layout, chunk)})") from error

    _checksums.in_threads(read, chunks)
    return arrays


def _chunks(layout: Layout, places: Iterable[Place]) -> dict[str, set[int]]:
    """Return the numbers of the chunks that leaves lie in, by pack."""
    numbers: dict[str, set[int]] = {}
    for place in places:
        if place.lies == "packed":
            chunk = layout.packs[place.array].chunk
            last = (place.offset + place.size - 1) // chunk
            numbers.setdefault(place.array, set()).update(range(place.offset // chunk, last + 1))
    return numbers


def _bytes(array: np.ndarray, start: int, length: int) -> memoryview:
    return array[start : start + length].view(np.uint8).data


def _fill(memory: memoryview, path: Path, name: str, *, summed: bool) -> int:
    """Read a whole file into memory, and return its CRC-32 if asked to."""
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise _checksums.missing(name) from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if size != len(memory):
            raise CheckpointCorruptError(f"{name} is {size} bytes long, not {len(memory)}")
        crc = done = 0
        while done < size:
            count = stream.readinto(memory[done : done + _checksums.BLOCK])
            if not count:
                raise CheckpointCorruptError(f"{name} ends at {done} bytes, not {size}")
            if summed:
                crc = zlib.crc32(memory[done : done + count], crc)
            done += count
    return crc


def _leaves(layout: Layout, chunk: _Chunk) -> str:
    """Name the leaves that lie in a chunk, the first ones only."""
    end = chunk.start + layout.packs[chunk.pack].chunk
    inside = [
        place.path
        for place in layout.places
        if place.lies == "packed" and place.array == chunk.pack
        if place.offset < end and place.offset + place.size > chunk.start
    ]
    more = f" and {len(inside) - _LEAVES_NAMED} more" if len(inside) > _LEAVES_NAMED else ""
    return f"in it {', '.join(inside[:_LEAVES_NAMED])}{more}"
