"""Where each leaf lies in a checkpoint: packed with others of its dtype, or by itself.

Orbax's cost is per array, about a millisecond each, so small leaves are laid end to end in one
array for each dtype. A large leaf is an array by itself under its own name, where Orbax shows it
and restores it alone; so is one that is spread over devices, whatever its size, because gathering
it would need its whole size on one device. This file is the plan only; it reads and writes no
array.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from odyssey_jax.store._format import decode
from odyssey_jax.store._leaves import SCALARS, Leaf, dtype_name, split
from odyssey_jax.store._structure import numbers_in

ALIGNMENT = 64  # bytes; what XLA needs to use a slice where it lies
CHUNK_BYTES = 32 * 2**20  # one file each: fewer fsyncs, and still read side by side
PACK_BELOW = 2**20  # bytes; smaller leaves are packed

_DIMENSIONS = 64  # the most that NumPy has
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")  # of packs and dtypes: nothing that leads elsewhere
_LOOSE = re.compile(r"(tree|loose)\.[A-Za-z0-9_.%~-]{1,240}")  # `loose.` up to format version 2
_LONGEST = 200  # characters of a leaf's own name: a file system has room for 255

# What the Zarr format has a name for; other dtypes are stored as their bytes.
_NAMED = frozenset(
    [
        "bool",
        "int2",
        "int4",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        "float4_e2m1fn",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e4m3b11fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
    ]
)


class Source(NamedTuple):
    """A leaf and the array that holds its data.

    Attributes:
        leaf: The leaf.
        shape: Shape of the data; longer than the leaf's for typed keys.
        dtype: Name of the data's dtype; empty for a Python value.
        home: ``"host"``, the number of a device, or ``"spread"`` over several.
        value: The leaf itself, encoded for JSON, where it is a Python value.
        impl: Name of a typed key's implementation.
    """

    leaf: Leaf
    shape: tuple[int, ...] = ()
    dtype: str = ""
    home: str = "host"
    value: Any = None
    impl: str | None = None


class Place(NamedTuple):
    """A leaf and where its data lies.

    Attributes:
        path: The leaf's path.
        shape: The leaf's shape.
        dtype: The leaf's dtype by name.
        lies: ``"packed"`` in an array with others, ``"loose"`` as an array by itself,
            ``"inline"`` here as a Python value, ``"empty"`` nowhere (no elements).
        data_shape: Shape of the data; longer than the leaf's for typed keys.
        data_dtype: Name of the data's dtype.
        array: Name of the packed array it lies in, or the directory of the array it is.
        offset: Its first element in a packed array.
        value: The Python value, encoded for JSON.
        impl: Name of a typed key's implementation.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    lies: Literal["packed", "loose", "inline", "empty"]
    data_shape: tuple[int, ...] = ()
    data_dtype: str = ""
    array: str = ""
    offset: int = 0
    value: Any = None
    impl: str | None = None

    @property
    def leaf(self) -> Leaf:
        """The leaf without its place."""
        return Leaf(self.path, self.shape, self.dtype)

    @property
    def directory(self) -> str:
        """Where in the ``state`` item its array is; empty where it lies in none."""
        return f"packed.{self.array}" if self.lies == "packed" else self.array

    @property
    def size(self) -> int:
        """Number of elements of its data."""
        return math.prod(self.data_shape)


@dataclass(frozen=True)
class Pack:
    """An array that holds several leaves end to end.

    Attributes:
        dtype: Name of the leaves' dtype.
        stored: Name of the dtype in the file; ``uint8`` where Zarr has no name for it.
        size: Number of elements, the gaps between leaves included.
        chunk: Number of elements in one file; divides the size.
    """

    dtype: str
    stored: str
    size: int
    chunk: int


@dataclass(frozen=True)
class Layout:
    """The plan of a checkpoint.

    Attributes:
        places: One for each leaf, in the tree's order.
        packs: The packed arrays by name.
        tree: The nodes that the tree is made of, as `structure_of` says it.
        homes: The home of each array, while it is saved; not in the file.
        constant: The arrays in which no leaf changes from save to save, alike.
    """

    places: tuple[Place, ...]
    packs: Mapping[str, Pack]
    tree: Any = None
    homes: Mapping[str, str] = field(default_factory=dict, compare=False)
    constant: Mapping[str, Content] = field(default_factory=dict, compare=False)


class Content(NamedTuple):
    """What an array holds: two that are of equal contents may be one file.

    Attributes:
        places: Its leaves.
        pack: How they are packed; None for an array by itself.
    """

    places: tuple[Place, ...]
    pack: Pack | None


def plan(
    sources: Sequence[Source],
    tree: Any = None,
    pack_below: int = PACK_BELOW,
    constant: Collection[int] = (),
) -> Layout:
    """Decide where each leaf lies.

    Args:
        sources: The leaves and their data, in the tree's order.
        tree: The nodes that the tree is made of, as `structure_of` says it.
        pack_below: Leaves of so many bytes and more are arrays by themselves.
        constant: Numbers of the leaves that do not change: they share no array with others.

    Returns:
        The layout. The small leaves of one dtype and home share a packed array, each beginning
        at a multiple of 64 bytes.

    Example:
        >>> leaf = Leaf("['w']", (3,), "float32")
        >>> layout = plan([Source(leaf, (3,), "float32"), Source(leaf, (5,), "float32")])
        >>> [(place.array, place.offset) for place in layout.places]
        [('float32', 0), ('float32', 16)]
        >>> layout.packs["float32"].size
        21
    """
    places: list[Place] = []
    ends: dict[str, int] = {}
    dtypes: dict[str, str] = {}
    homes: dict[str, str] = {}
    names = _Names()
    for number, source in enumerate(sources):
        size = math.prod(source.shape)
        lies, array, offset = "packed", "", 0
        if not source.dtype:
            lies = "inline"
        elif size == 0:
            lies = "empty"
        elif source.home == "spread" or _is_large(source, size, pack_below):
            lies, array = "loose", names.take(source.leaf.path, number)
            homes[array] = source.home
        else:
            host = source.home == "host"
            array = source.dtype if host else f"{source.dtype}_{source.home}"
            array += "_constant" if number in constant else ""
            homes[array] = source.home
            offset = round_up(ends.get(array, 0), source.dtype)
            ends[array], dtypes[array] = offset + size, source.dtype
        data = (source.shape, source.dtype, array, offset, source.value, source.impl)
        places.append(Place(*source.leaf, lies, *data))
    packs = {name: _pack(dtypes[name], ends[name]) for name in ends}
    found: dict[str, list[Place]] = {}
    for number in sorted(constant):
        if (place := places[number]).array:
            found.setdefault(place.array, []).append(place)
    contents = {name: Content(tuple(held), packs.get(name)) for name, held in found.items()}
    return Layout(tuple(places), packs, tree, homes, contents)


def _is_large(source: Source, size: int, pack_below: int) -> bool:
    return size * np.dtype(source.dtype).itemsize >= pack_below and has_name(source.dtype)


class _Names:
    """The names of arrays by themselves: as the leaves are called, each once.

    Orbax joins the keys of a path with dots to a directory's name, so what is no letter, digit,
    ``_`` or ``-`` in a key is written as ``%`` and its hexadecimal digits. A leaf whose name is
    taken (as that of ``[1]`` and ``['1']``), too long or empty is called by its number.
    """

    def __init__(self) -> None:
        self._leaves: set[str] = set()
        self._nodes: set[str] = set()

    def take(self, path: str, number: int) -> str:
        """Return the name of a leaf, which no other will have."""
        keys = [_quote(str(part.key)) for part in split(path)]
        name = ".".join(keys).lower()  # two of one name are one on some file systems
        nodes = {".".join(keys[:end]).lower() for end in range(1, len(keys))}
        free = name not in self._leaves and name not in self._nodes
        free = free and nodes.isdisjoint(self._leaves)
        if not (free and all(keys) and 0 < len(name) <= _LONGEST):
            return f"tree.~{number:05d}"
        self._leaves.add(name)
        self._nodes |= nodes
        return ".".join(["tree", *keys])


def _quote(key: str) -> str:
    quoted = urllib.parse.quote(key, safe="", errors="surrogatepass")
    return quoted.replace(".", "%2E").replace("~", "%7E")


def has_name(dtype: str) -> bool:
    """True if the Zarr format has a name for a dtype: an array by itself needs one."""
    return dtype in _NAMED


def round_up(elements: int, dtype: str) -> int:
    """Return the next element that begins at a multiple of 64 bytes (`ALIGNMENT`).

    Example:
        >>> round_up(17, "float32"), round_up(16, "float32"), round_up(1, "bool")
        (32, 16, 64)
    """
    step = _step(dtype)
    return -(-elements // step) * step


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Make an array that begins where XLA can use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


@cache
def _step(dtype: str) -> int:
    return max(1, ALIGNMENT // np.dtype(dtype).itemsize)


def _pack(dtype: str, end: int) -> Pack:
    pieces = -(-end * np.dtype(dtype).itemsize // CHUNK_BYTES)
    chunk = end if pieces == 1 else round_up(-(-end // pieces), dtype)
    stored = dtype if dtype in _NAMED else "uint8"
    return Pack(dtype, stored, pieces * chunk, chunk)


def to_json(layout: Layout) -> dict[str, Any]:
    """Return a layout as plain values.

    A leaf is a row: its path, shape, dtype, and how it lies; then the array and the offset in
    it, or the Python value; and last what its data has of its own, where that differs.

    Example:
        >>> layout = plan([Source(Leaf("['n']", (), "int"), value=3)], {"dict": {"n": 0}})
        >>> to_json(layout)["leaves"]
        [["['n']", [], 'int', 'inline', 3]]
        >>> from_json(to_json(layout)) == layout
        True
    """
    return {
        "packs": {name: asdict(pack) for name, pack in layout.packs.items()},
        "leaves": [_to_row(place) for place in layout.places],
        "tree": layout.tree,
    }


def _to_row(place: Place) -> list[Any]:
    row = [place.path, list(place.shape), place.dtype, place.lies]
    if place.lies == "inline":
        return [*row, place.value]
    row += [place.array, place.offset]
    if place.data_dtype == place.dtype:
        return row
    return [*row, list(place.data_shape), place.data_dtype, place.impl]


def from_json(data: Mapping[str, Any]) -> Layout:
    """Undo `to_json`.

    Raises:
        Exception: ValueError, TypeError, LookupError, AttributeError or RecursionError if the data
            make no sense.
    """
    places = tuple(_from_row(*row) for row in data["leaves"])
    packs = {name: _pack_from(name, **pack) for name, pack in data["packs"].items()}
    if len({place.path for place in places}) < len(places):
        raise ValueError("two of its leaves have one path")
    ends: dict[str, int] = {}
    for place in places:
        if place.lies == "packed":
            _check_packed(place, packs[place.array], ends.get(place.array, 0))
            ends[place.array] = place.offset + place.size
        elif place.lies == "loose":
            ok = _LOOSE.fullmatch(place.array) and place.array not in ends
            _require(ok and place.offset == 0 and place.size > 0, place)
            ends[place.array] = 0
        elif place.lies == "empty":
            _require((place.array, place.offset, place.size) == ("", 0, 0), place)
    tree = data["tree"]
    if numbers_in(tree) != list(range(len(places))):
        raise ValueError("its tree does not hold each leaf once")
    return Layout(places, packs, tree)


def _require(holds: Any, place: Place) -> None:
    if not holds:
        raise ValueError(f"leaf {place.path[:200]} cannot lie so")


def _check_packed(place: Place, pack: Pack, end: int) -> None:
    """Raise ValueError unless a leaf lies in its packed array, behind the one before."""
    inside = end <= place.offset and place.offset + place.size <= pack.size
    _require(inside and place.size > 0 and pack.dtype == place.data_dtype, place)


def _pack_from(name: str, dtype: str, stored: str, size: int, chunk: int) -> Pack:
    itemsize = _itemsize(dtype)
    counts = all(type(n) is int and n > 0 for n in (size, chunk))
    if not (
        counts
        and _NAME.fullmatch(name)
        and stored == (dtype if dtype in _NAMED else "uint8")
        and size % chunk == 0
        and chunk * itemsize <= CHUNK_BYTES + ALIGNMENT * itemsize
    ):
        raise ValueError(f"the packed array {name[:200]!r} cannot be so")
    return Pack(dtype, stored, size, chunk)


@cache
def _itemsize(dtype: str) -> int:
    """Return the bytes of an element; raise ValueError for what is no dtype of a leaf."""
    if not _NAME.fullmatch(dtype) or dtype_name(np.dtype(dtype)) != dtype:
        raise ValueError(f"{dtype[:200]!r} is no dtype")
    return np.dtype(dtype).itemsize


def _from_row(
    path: str, shape: list[int], dtype: str, lies: Any, where: Any, offset: int = 0, *data: Any
) -> Place:
    if not (isinstance(path, str) and isinstance(dtype, str)):
        raise TypeError("a leaf's path and dtype must be strings")
    if lies == "inline":
        if type(decode(where)) is not SCALARS[dtype] or shape:
            raise TypeError(f"leaf {path[:200]} is no {dtype}")
        return Place(path, (), dtype, lies, value=where)
    data_shape, data_dtype, impl = data or (shape, dtype, None)
    place = Place(
        path, tuple(shape), dtype, lies, tuple(data_shape), data_dtype, where, offset, impl=impl
    )
    itemsize = _itemsize(data_dtype)
    _require(lies in ("packed", "loose", "empty") and type(offset) is int, place)
    _require(all(type(n) is int and n >= 0 for n in (*place.shape, *place.data_shape)), place)
    # What NumPy can index, also where another length is 0.
    lengths = math.prod(max(n, 1) for n in place.data_shape) * itemsize
    _require(len(place.data_shape) <= _DIMENSIONS and lengths < 2**63, place)
    if data:
        key = isinstance(impl, str) and dtype.startswith("key<") and data_dtype == "uint32"
        _require(key and place.data_shape[: len(place.shape)] == place.shape, place)
    return place
