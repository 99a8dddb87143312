"""The size and CRC-32 of every file of a step, in one more file that is written last.

The sums of arrays are of what was in memory, so they also cover the way to the disk. They
are by file, and a file holds one chunk of one array, so that each process can sum what it
writes itself, and a reader only what it reads.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._files import (
    DOCUMENT_BYTES,
    MARKERS,
    check_inside,
    open_regular,
    read_document,
    too_long,
)
from odyssey_jax.store._layout import Pack

FILE = "checksums.json"
BLOCK = 2**20  # bytes read and summed at a time: they stay in the processor's cache

Item = TypeVar("Item")
Result = TypeVar("Result")


class Checksum(NamedTuple):
    """The length and the CRC-32 of a file.

    Attributes:
        size: Its length in bytes.
        crc: Its CRC-32.
    """

    size: int
    crc: int


Checksums = Mapping[str, Checksum]  # file, relative to the step's directory -> what it must be


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map side by side: reading and zlib release the interpreter's lock."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def of_array(array: np.ndarray) -> Checksum:
    """Sum the bytes of an array.

    Example:
        >>> of_array(np.frombuffer(b"123456789", np.uint8)) == (9, 0xCBF43926)
        True
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Checksum(data.size, zlib.crc32(data.data))


def of_whole(
    packed: Mapping[str, np.ndarray],
    packs: Mapping[str, Pack],
    whole: Mapping[str, np.ndarray],
) -> dict[str, Checksum]:
    """Sum the files that arrays of one piece will be written to; the arguments are `files_of`'s.

    Returns:
        File -> checksum.
    """
    files = files_of(packed, packs, whole)
    return dict(zip(files, in_threads(of_array, files.values()), strict=True))


def files_of(
    packed: Mapping[str, np.ndarray],
    packs: Mapping[str, Pack],
    whole: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the files that arrays of one piece will be written to, and what each holds.

    Args:
        packed: The packed arrays by name.
        packs: Their descriptions.
        whole: The arrays by themselves by name; each is one chunk.
    """
    files = {
        chunk_file(name, number): array[start : start + packs[name].chunk]
        for name, array in packed.items()
        for number, start in enumerate(range(0, packs[name].size, packs[name].chunk))
    }
    return files | {loose_file(name, (0,) * array.ndim): array for name, array in whole.items()}


def chunk_file(pack: str, number: int) -> str:
    """Return the file that holds a chunk of a packed array."""
    return f"state/packed.{pack}/{number}"


def loose_file(name: str, chunk: tuple[int, ...]) -> str:
    """Return the file that holds a chunk of an array by itself."""
    return f"state/{name}/{'.'.join(map(str, chunk)) or '0'}"


def cuts_of(root: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return the shapes of the chunks of arrays, as Orbax has said in ``.zarray`` of each.

    Args:
        root: The step's directory.
        names: The arrays.
    """
    read = lambda name: (root / "state" / name / ".zarray").read_bytes()
    return {name: json.loads(read(name))["chunks"] for name in names}


def of_spread(
    cuts: Mapping[str, list[int]], spread: Mapping[str, jax.Array]
) -> dict[str, Checksum]:
    """Sum the files of arrays that are spread over devices, as far as this process has them.

    Args:
        cuts: How they were cut, by name.
        spread: The arrays by name.

    Returns:
        File -> checksum.
    """
    found: dict[str, Checksum] = {}
    for name, array in spread.items():
        files = {
            loose_file(name, place): piece
            for shard in array.addressable_shards
            for place, piece in _pieces(shard, cuts[name])
        }
        found |= zip(files, in_threads(of_array, files.values()), strict=True)
    return found


def _pieces(shard: jax.Shard, chunk: list[int]) -> Iterable[tuple[tuple[int, ...], np.ndarray]]:
    """Cut a shard where the array is cut; a chunk is a shard, or a part of one."""
    data = np.asarray(shard.data)
    counts = [length // size for length, size in zip(data.shape, chunk, strict=True)]
    first = [(part.start or 0) // size for part, size in zip(shard.index, chunk, strict=True)]
    for at in itertools.product(*map(range, counts)):
        inside = tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, chunk, strict=True))
        yield tuple(map(sum, zip(first, at, strict=True))), data[inside]


def of_file(root: Path, name: str, size: int | None = None) -> Checksum:
    """Sum a file as it is on the disk; the arguments and errors are `open_regular`'s."""
    with open_regular(root, name, size) as stream:
        size = crc = 0
        while block := stream.read(BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return Checksum(size, crc)


def write(root: Path, arrays: Checksums, *, whole: bool = True) -> None:
    """Write down what each file of a step must be.

    Args:
        root: The step's directory, complete but for this file.
        arrays: The checksums of the files that hold arrays; the others are read back.
        whole: False if other processes have files of arrays elsewhere.

    Raises:
        FileNotFoundError: If an array was written elsewhere.
        ValueError: If a document is longer than one that is read.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file())
    names = [path.relative_to(root).as_posix() for path in files if path.name not in MARKERS]
    lost = sorted(arrays.keys() - set(names))
    if lost and whole:
        raise FileNotFoundError(f"{lost[0]} is not in {str(root)!r}, where it was written to")
    found = {name: arrays.get(name) or of_file(root, name) for name in sorted([*names, *lost])}
    text = json.dumps({"crc32": found}).encode()
    lengths = {name: sums.size for name, sums in found.items() if name not in arrays}
    for name, size in (lengths | {FILE: len(text)}).items():
        if size > DOCUMENT_BYTES:
            raise ValueError(
                f"{name} would be {size} bytes long, and a document has at most {DOCUMENT_BYTES}: "
                "save what is long as an array"
            )
    (root / FILE).write_bytes(text)


def load(root: Path) -> Checksums:
    """Read what `write` wrote.

    Args:
        root: The step's directory.

    Returns:
        File -> checksum.

    Raises:
        CheckpointCorruptError: If the file is missing, or makes no sense.
    """
    try:
        text = read_document(root, FILE)
    except FileNotFoundError as error:
        raise CheckpointCorruptError(
            f"{FILE} is missing: the step is damaged, or not odyssey_jax's"
        ) from error
    rows = parse(FILE, text).get("crc32")
    if not isinstance(rows, dict) or not all(map(_is_row, rows.values())):
        raise CheckpointCorruptError(f"{FILE} makes no sense")
    return {check_inside(name): Checksum(*row) for name, row in rows.items()}


def _is_row(row: Any) -> bool:
    return type(row) is list and len(row) == 2 and all(type(n) is int and n >= 0 for n in row)


def parse(name: str, text: bytes) -> dict[str, Any]:
    """Parse a document; raise CheckpointCorruptError unless it is a JSON object."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CheckpointCorruptError(f"{name} is no JSON: {why}") from error
    if not isinstance(data, dict):
        raise CheckpointCorruptError(f"{name} holds a {type(data).__name__}, not an object")
    return data


def compare(name: str, found: Checksum, wanted: Checksums) -> None:
    """Raise CheckpointCorruptError unless a file is as it was written.

    Args:
        name: The file, relative to the step's directory.
        found: Its checksum.
        wanted: What the files must be.

    Raises:
        CheckpointCorruptError: If it differs, or nothing is known about it.

    Example:
        >>> compare("a", Checksum(3, 7), {"a": Checksum(4, 7)})
        Traceback (most recent call last):
        odyssey_jax.store._errors.CheckpointCorruptError: a is 3 bytes long, not 4
    """
    if name not in wanted:
        raise CheckpointCorruptError(f"{FILE} does not name {name}")
    if found.size != wanted[name].size:
        raise CheckpointCorruptError(f"{name} is {found.size} bytes long, not {wanted[name].size}")
    if found.crc != wanted[name].crc:
        raise CheckpointCorruptError(f"{name} is damaged: its bytes do not have their checksum")


def is_chunk(file: str) -> bool:
    """Return whether a file holds a part of an array, and so may be large; others are documents."""
    folder, _, name = file.rpartition("/")
    return folder.startswith(("state/packed.", "state/tree.", "state/loose.")) and name != ".zarray"


def missing(name: str) -> CheckpointCorruptError:
    """Return the error for a file that is gone."""
    return CheckpointCorruptError(f"{name} is missing")


def check_files(
    root: Path, names: Iterable[str], wanted: Checksums, *, lengths_only: bool = False
) -> None:
    """Read files; raise CheckpointCorruptError unless each is as it was written.

    Args:
        root: The step's directory.
        names: The files, relative to it.
        wanted: What the files must be.
        lengths_only: True to open them and to read nothing.
    """

    def check(name: str) -> None:
        if name not in wanted:
            raise CheckpointCorruptError(f"{FILE} does not name {name}")
        size = wanted[name].size
        if size > DOCUMENT_BYTES and not is_chunk(name):
            raise CheckpointCorruptError(too_long(name, size))
        try:
            if lengths_only:
                open_regular(root, name, size).close()
                return
            found = of_file(root, name, size)
        except FileNotFoundError as error:
            raise missing(name) from error
        compare(name, found, wanted)

    in_threads(check, names)
