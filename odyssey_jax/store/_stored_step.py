"""One committed step: its documents and arrays, each compared with its checksum."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksum, Checksums, chunk_file
from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._format import check_header, check_version, decode, migrate
from odyssey_jax.store._layout import Layout, Pack, Place, aligned_array, from_json
from odyssey_jax.store._place import key_like

# What `.zarray` may say.
_ZARRAY = {"chunks", "compressor", "dimension_separator", "dtype", "fill_value", "filters"}
_ZARRAY |= {"order", "shape", "zarr_format"}

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
        self._step = int(root.name)
        self._checksums = _checksums.load(root)

    def metadata(self) -> dict[str, Any]:
        """Read the metadata, as the current format version has it."""
        version = self._version
        with _making_sense("metadata/metadata"):
            metadata = decode(migrate("metadata", self._metadata, version))
        check_header(metadata, self._step)
        return metadata

    def layout(self) -> Layout:
        """Read the layout."""
        document, version = self._document("layout/metadata"), self._version
        self.metadata()  # which says whether it is this step's at all
        with _making_sense("layout/metadata"):
            layout = from_json(migrate("layout", document, version))
            for place in layout.places:
                if place.impl is not None:
                    _check_key(place)
        return layout

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return self._document("metadata/metadata")

    @cached_property
    def _version(self) -> int:
        # The metadata agrees with its checksum by now, so that a version that looks newer is
        # newer: every format version has its checksums in the same place.
        return check_version(self._metadata, self._name)

    def _document(self, file: str) -> dict[str, Any]:
        known = self._checksums.get(file)
        try:
            text = _files.read_document(self._root, file, known and known.size)
        except FileNotFoundError as error:
            raise _checksums.missing(file) from error
        _checksums.compare(file, Checksum(len(text), zlib.crc32(text)), self._checksums)
        return _checksums.parse(file, text)

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
        places, sums = list(places), self._checksums
        folders = tuple(f"state/loose.{name}/" for name in loose)
        # The packed arrays are compared as they are read, below.
        others = [
            name for name in sums if not _checksums.is_chunk(name) or name.startswith(folders)
        ]
        if not verify:
            others = [name for name in others if name.startswith(folders)]
        if loose:
            self._check_all_loose(places)  # before anything as long as it says is read
        _checksums.check_files(self._root, others, sums, lengths_only=not verify)
        with _making_sense("layout/metadata"):
            found = read_packs(self._root, layout, places, sums, verify=verify)
        if not loose:
            return found, {}
        # TensorStore takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        # What agrees with its checksums is not damaged, whatever goes wrong with it.
        unknown = contextlib.nullcontext() if verify else _making_sense("state")
        with unknown:
            return found, _orbax.read_loose(self._root, loose)

    def _check_all_loose(self, places: Iterable[Place]) -> None:
        """Raise CheckpointCorruptError unless arrays by themselves are what the layout says."""
        lengths: dict[str, list[int]] = {}
        for name, known in self._checksums.items():
            if _checksums.is_chunk(name):
                lengths.setdefault(name.rpartition("/")[0], []).append(known.size)
        for place in places:
            if place.lies == "loose":
                folder = f"state/loose.{place.array}"
                with _making_sense(f"{folder}/.zarray"):
                    self._check_loose(place, folder, lengths.get(folder, []))

    def _check_loose(self, place: Place, folder: str, lengths: list[int]) -> None:
        """Raise unless TensorStore will find an array of this shape, in files of these lengths."""
        zarray, dtype = self._document(f"{folder}/.zarray"), np.dtype(place.data_dtype)
        chunks = zarray["chunks"]
        if not (
            zarray.keys() <= _ZARRAY
            and zarray["shape"] == list(place.data_shape)
            and zarray["dtype"] in (dtype.name, dtype.str)
            and (zarray["zarr_format"], zarray["order"]) == (2, "C")
            and zarray.get("dimension_separator", ".") == "."
            and all(zarray.get(name) is None for name in ("compressor", "filters", "fill_value"))
            and all(type(n) is int and n > 0 for n in chunks)
            and set(lengths) == {math.prod(chunks) * dtype.itemsize}
            and len(lengths) == math.prod(map(_pieces, place.data_shape, chunks))
            and len(chunks) == len(place.data_shape)
        ):
            raise ValueError(f"it is not of leaf {place.path[:200]}")

    def verify(self) -> int:
        """Read all of it, and compare it with its checksums.

        Returns:
            How many bytes had one.
        """
        layout = self.layout()
        for name, pack in layout.packs.items():
            _check_sizes(name, pack, self._checksums)
        self._check_all_loose(layout.places)
        _checksums.check_files(self._root, self._checksums, self._checksums)
        return sum(wanted.size for wanted in self._checksums.values())


@contextlib.contextmanager
def _making_sense(what: str) -> Iterator[None]:
    """Turn what Python and TensorStore raise of damaged data into CheckpointCorruptError."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        if _files.errno_of(error) in _files.REFUSALS:
            raise
        raise CheckpointCorruptError(f"{what} makes no sense: {_files.reason(error)}") from error


def _pieces(length: int, chunk: int) -> int:
    return -(-length // chunk)


def _check_key(place: Place) -> None:
    """Raise ValueError unless a typed key is what its words make."""
    like = key_like(place.data_shape, str(place.impl))
    if (like.shape, str(like.dtype)) != (place.shape, place.dtype):
        raise ValueError(f"leaf {place.path[:200]} is not what its words make")


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
    root: Path, layout: Layout, places: Iterable[Place], sums: Checksums, *, verify: bool
) -> dict[str, np.ndarray]:
    """Read packed arrays, of which only the files that hold what is asked for.

    Orbax wrote them as plain bytes, one file for each chunk, so they are read side by side and
    summed on the way, while each block is still in the processor's cache.

    Args:
        root: The step's directory.
        layout: Its layout.
        places: The leaves to read; what does not lie packed is passed over.
        sums: What the files must be.
        verify: False to compare their lengths only.

    Returns:
        The arrays by name, of the leaves' own dtypes. Memory that no leaf is in is never
        written to, so that the system need not provide it.

    Raises:
        CheckpointCorruptError: If a file is gone, of another length or damaged; the message
            names it and leaves in it.
    """
    packs = {place.array: layout.packs[place.array] for place in places if place.lies == "packed"}
    for name, pack in packs.items():
        _check_sizes(name, pack, sums)
    numbers = _chunks(layout, places)
    # Before memory is taken for what they say that they hold.
    files = [chunk_file(name, number) for name in packs for number in sorted(numbers[name])]
    _checksums.check_files(root, files, sums, lengths_only=True)
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
            crc = _fill(chunk.memory, root, chunk.file, summed=verify)
            if verify:
                _checksums.compare(chunk.file, Checksum(len(chunk.memory), crc), sums)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"{error} ({_leaves(layout, chunk)})") from error

    _checksums.in_threads(read, chunks)
    return arrays


def _check_sizes(name: str, pack: Pack, sums: Checksums) -> None:
    """Raise CheckpointCorruptError unless all files of a packed array are known, of its lengths."""
    size = pack.chunk * np.dtype(pack.dtype).itemsize
    count = pack.size // pack.chunk
    if count > len(sums) or any(
        known is None or known.size != size
        for known in (sums.get(chunk_file(name, number)) for number in range(count))
    ):
        raise CheckpointCorruptError(
            f"{_checksums.FILE} does not agree with layout/metadata on state/packed.{name}"
        )


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


def _fill(memory: memoryview, root: Path, name: str, *, summed: bool) -> int:
    """Read a whole file into memory, and return its CRC-32 if asked to."""
    size = len(memory)
    try:
        stream = _files.open_regular(root, name, size)
    except FileNotFoundError as error:
        raise _checksums.missing(name) from error
    with stream:
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
