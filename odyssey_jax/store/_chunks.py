"""The files that hold a step's arrays, read side by side and summed on the way.

Orbax wrote them as plain bytes, one file for each chunk, so a block is summed while it is still in
the processor's cache. Of an array that is spread over devices a process reads the chunks that its
own devices have a part of, and no device is given more than that.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksum, Checksums, chunk_file, loose_file
from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._layout import Layout, Pack, Place, aligned_array

_LEAVES_NAMED = 3  # in an error


class _Packed(NamedTuple):
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
    root: Path,
    layout: Layout,
    places: Iterable[Place],
    sums: Checksums,
    fetch: Callable[[Iterable[str]], None],
    *,
    verify: bool,
) -> dict[str, np.ndarray]:
    """Read packed arrays, of which only the files that hold what is asked for.

    Orbax wrote them as plain bytes, one file for each chunk, so they are read side by side and
    summed on the way, while each block is still in the processor's cache.

    Args:
        root: The step's directory.
        layout: Its layout.
        places: The leaves to read; what does not lie packed is passed over.
        sums: What the files must be.
        fetch: Called with the names of the files before they are read.
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
        check_sizes(name, pack, sums)
    numbers = _chunks(layout, places)
    files = [chunk_file(name, number) for name in packs for number in sorted(numbers[name])]
    fetch(files)
    # Before memory is taken for what they say that they hold.
    _checksums.check_files(root, files, sums, lengths_only=True)
    arrays = {
        name: aligned_array((pack.size,), np.dtype(pack.dtype)) for name, pack in packs.items()
    }
    chunks = [
        _Packed(
            name,
            start,
            chunk_file(name, number),
            _bytes(arrays[name], start, pack.chunk),
        )
        for name, pack in packs.items()
        for number, start in enumerate(range(0, pack.size, pack.chunk))
        if number in numbers[name]
    ]

    def read(chunk: _Packed) -> None:
        try:
            crc = _fill(chunk.memory, root, chunk.file, summed=verify)
            if verify:
                _checksums.compare(chunk.file, Checksum(len(chunk.memory), crc), sums)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"{error} ({_leaves(layout, chunk)})") from error

    _checksums.in_threads(read, chunks)
    return arrays


def check_sizes(name: str, pack: Pack, sums: Checksums) -> None:
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


def _leaves(layout: Layout, chunk: _Packed) -> str:
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


def pieces(length: int, chunk: int) -> int:
    """Return how many chunks an axis is cut into."""
    return -(-length // chunk)


Box = tuple[tuple[int, int], ...]  # of each axis the first index, and the one behind the last


class _Part(NamedTuple):
    """A part of an array, in memory.

    Attributes:
        box: Which part.
        memory: Its elements.
    """

    box: Box
    memory: np.ndarray


class _Loose(NamedTuple):
    """One file of an array by itself.

    Attributes:
        place: The leaf.
        file: Its name, relative to the step's directory.
        box: The part of the array that it holds; at the array's end it may reach beyond.
        parts: Where its elements go.
    """

    place: Place
    file: str
    box: Box
    parts: list[_Part]


def read_loose(
    root: Path,
    arrays: Sequence[tuple[Place, Sequence[int]]],
    shardings: Mapping[str, Sharding | None],
    sums: Checksums,
    fetch: Callable[[Iterable[str]], None],
    *,
    verify: bool,
) -> dict[str, Any]:
    """Read arrays by themselves.

    Args:
        root: The step's directory.
        arrays: Where each lies, and the shape of its chunks, which agree with the checksums.
        shardings: Name of an array -> the sharding to read it into, or None for host memory.
        sums: What the files must be.
        fetch: Called with the names of the files before they are read.
        verify: False to compare their lengths only.

    Returns:
        The arrays by name.

    Raises:
        CheckpointCorruptError: If a file is gone, of another length or damaged; the message
            names it and its leaf.
    """
    boxes = {place.array: _boxes(place, shardings[place.array]) for place, _ in arrays}
    wanted = [
        (place, loose_file(place.array, at), _box(at, chunk))
        for place, chunk in arrays
        for at in dict.fromkeys(at for box in boxes[place.array] for at in _cut(box, chunk))
    ]
    files = [file for _, file, _ in wanted]
    fetch(files)
    # Before memory is taken for what they say that they hold.
    _checksums.check_files(root, files, sums, lengths_only=True)
    memory = {
        place.array: {box: _empty(box, place.data_dtype) for box in boxes[place.array]}
        for place, _ in arrays
    }
    parts: dict[str, list[_Part]] = {}
    for place, chunk in arrays:
        for box in boxes[place.array]:
            for at in _cut(box, chunk):
                file = loose_file(place.array, at)
                parts.setdefault(file, []).append(_Part(box, memory[place.array][box]))

    def read(chunk: _Loose) -> None:
        try:
            _read_loose(root, chunk, sums, verify=verify)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"{error} (it is of leaf {chunk.place.path})") from error

    _checksums.in_threads(read, (_Loose(*chunk, parts[chunk[1]]) for chunk in wanted))
    return {
        place.array: _assemble(place, memory[place.array], shardings[place.array])
        for place, _ in arrays
    }


def _boxes(place: Place, sharding: Sharding | None) -> list[Box]:
    """Return the parts of an array that this process's devices have; replicas are one."""
    shape = place.data_shape
    if sharding is None:
        return [tuple((0, length) for length in shape)]
    found = sharding.addressable_devices_indices_map(shape).values()
    return list(dict.fromkeys(_box_of(index, shape) for index in found))


def _box_of(index: Any, shape: tuple[int, ...]) -> Box:
    return tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))


def _box(at: Sequence[int], chunk: Sequence[int]) -> Box:
    return tuple((i * n, (i + 1) * n) for i, n in zip(at, chunk, strict=True))


def _cut(box: Box, chunk: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the chunks that a box has a part of."""
    axes = zip(box, chunk, strict=True)
    return itertools.product(*(range(a // n, pieces(b, n)) for (a, b), n in axes))


def _shared(one: Box, other: Box) -> Box:
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
    pairs = zip(box, outer, strict=True)
    return tuple(slice(start - first, stop - first) for (start, stop), (first, _) in pairs)


def _empty(box: Box, dtype: str) -> np.ndarray:
    return aligned_array(_shape(box), np.dtype(dtype))


def _shape(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def _read_loose(root: Path, chunk: _Loose, sums: Checksums, *, verify: bool) -> None:
    found = [_view(chunk.box, part) for part in chunk.parts]
    direct = len(found) == 1 and found[0].memory.shape == _shape(chunk.box)
    direct = direct and found[0].memory.flags.c_contiguous
    dtype = np.dtype(chunk.place.data_dtype)
    data = found[0].memory if direct else np.empty(_shape(chunk.box), dtype)
    memory = data.reshape(-1).view(np.uint8).data
    crc = _fill(memory, root, chunk.file, summed=verify)
    if verify:
        _checksums.compare(chunk.file, Checksum(len(memory), crc), sums)
    if not direct:
        for part in found:
            part.memory[...] = data[(..., *_within(part.box, chunk.box))]


def _view(box: Box, part: _Part) -> _Part:
    """Return what a box shares with a part, as a view of the part's memory."""
    shared = _shared(box, part.box)
    return _Part(shared, part.memory[(..., *_within(shared, part.box))])


def _assemble(place: Place, memory: Mapping[Box, np.ndarray], sharding: Sharding | None) -> Any:
    if sharding is None:
        return next(iter(memory.values()))
    shape, kind = place.data_shape, sharding.memory_kind
    shards = [
        jax.device_put(memory[_box_of(index, shape)], SingleDeviceSharding(d, memory_kind=kind))
        for d, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)
