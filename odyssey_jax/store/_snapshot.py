"""A copy of the leaves, so that the originals may be donated at once.

On the CPU the copy is a memcpy into buffers that the store keeps from save to save: the first
touch of fresh memory costs several times the copy itself. On an accelerator one compiled program
lays the leaves end to end in device memory, and they reach the host in the background. This is
all that a training waits for at a save.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.store._checksums import Checksums
from odyssey_jax.store._errors import CheckpointError
from odyssey_jax.store._format import encode
from odyssey_jax.store._layout import (
    ALIGNMENT,
    PACK_BELOW,
    Layout,
    Place,
    Source,
    has_name,
    plan,
    round_up,
)
from odyssey_jax.store._leaves import Leaf, flatten, is_key, is_scalar
from odyssey_jax.store._structure import find, numbers_in, structure_of


class Snapshot(NamedTuple):
    """Arrays that nothing else refers to.

    Attributes:
        packed: Packed arrays by name, on the host or on a device.
        whole: Arrays by themselves by name, on the host or on a device.
        spread: Arrays by themselves by name, sharded as they were.
    """

    packed: dict[str, Any]
    whole: dict[str, Any]
    spread: dict[str, jax.Array]

    def on_host(self, layout: Layout) -> Arrays:
        """Bring what is whole to the host, as it is to be stored; may take long."""
        packs = layout.packs
        packed = {
            name: np.asarray(array).view(packs[name].stored) for name, array in self.packed.items()
        }
        whole = {name: np.asarray(array) for name, array in self.whole.items()}
        return Arrays(packed, whole, self.spread)


class Linked(NamedTuple):
    """Arrays that a step has from an earlier one, by links to their files.

    Attributes:
        root: The directory of the step that has them.
        arrays: Their names, and where in the ``state`` item they are.
        sums: The checksums of their files.
    """

    root: Path
    arrays: Mapping[str, str]
    sums: Checksums


NOTHING = Linked(Path(), {}, {})


class Arrays(NamedTuple):
    """What a step's files hold.

    Attributes:
        packed: The packed arrays by name.
        whole: The arrays by themselves of one piece, by name.
        spread: The arrays by themselves that are spread over devices, by name.
        linked: Those that an earlier step holds.
    """

    packed: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]
    spread: dict[str, jax.Array]
    linked: Linked = NOTHING


def sources(
    leaves: Sequence[Leaf], values: Sequence[Any], *, on_device: bool | None = None
) -> tuple[list[Source], list[Any]]:
    """Return what a layout must know of the leaves, and the arrays that hold their data.

    Args:
        leaves: The leaves' descriptions.
        values: The leaves.
        on_device: True to pack on the device; None does so for accelerators.

    Returns:
        What `plan` takes, and the data of each leaf: of a typed key its words.

    Raises:
        ValueError: If a leaf's data is on other processes than the first, which saves it.
    """
    pairs = [_source(leaf, value, on_device) for leaf, value in zip(leaves, values, strict=True)]
    return [source for source, _ in pairs], [data for _, data in pairs]


def _source(leaf: Leaf, value: Any, on_device: bool | None) -> tuple[Source, Any]:
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(f"leaf {leaf.path} describes an array; give the array to be saved.")
    if is_scalar(value):
        return Source(leaf, value=encode(value, f"leaf {leaf.path}")), value
    if is_key(value):
        data, impl = jax.random.key_data(value), str(jax.random.key_impl(value))
        about = (leaf, tuple(data.shape), data.dtype.name)
    else:
        data, impl, about = value, None, (leaf, leaf.shape, leaf.dtype)
    if not isinstance(data, jax.Array):
        return Source(*about), data
    home = _home(data.sharding, on_device)
    if home is None:
        raise ValueError(
            f"leaf {leaf.path} is on devices of other processes only, and process 0 writes what is "
            f"replicated: give it a sharding over all devices, not {data.sharding}."
        )
    if home == "spread" and not has_name(data.dtype.name):
        raise ValueError(
            f"leaf {leaf.path} is {leaf.dtype} and spread over devices, for which the files have "
            "no name; replicate it, or give it another dtype."
        )
    return Source(*about, home=home, impl=impl), data


@lru_cache(maxsize=256)
def _home(sharding: jax.sharding.Sharding, on_device: bool | None) -> str | None:
    if not sharding.is_fully_replicated:
        # Orbax writes no array that one of several processes has for itself.
        own = sharding.is_fully_addressable and jax.process_count() > 1
        return "host" if own else "spread"
    device = min(sharding.device_set, key=lambda device: device.id)
    if not sharding.is_fully_addressable and device.process_index > 0:
        return None
    packs_there = device.platform != "cpu" if on_device is None else on_device
    return str(device.id) if packs_there else "host"


class Planner:
    """A planner of where the leaves of trees lie, which remembers its last plan.

    Args:
        pack_below: Leaves of so many bytes and more are arrays by themselves.

    To name every leaf and to find its dtype and home takes some 10 us a leaf, for which the
    training would wait at each save; to see that nothing has changed takes less than one.

    Example:
        >>> planner = Planner()
        >>> first, _ = planner.plan({"w": np.zeros(3)})
        >>> planner.plan({"w": np.ones(3)})[0] is first
        True
        >>> planner.plan({"w": np.ones(4)})[0] is first
        False
    """

    def __init__(self, pack_below: int = PACK_BELOW) -> None:
        self._pack_below = pack_below
        self._kinds: list[Any] = []
        self._layout = Layout((), {})
        self._keys: list[int] = []

    def plan(self, tree: Any, constant: Sequence[str] = ()) -> tuple[Layout, list[Any]]:
        """Plan a tree.

        Args:
            tree: Any pytree whose leaves can be stored.
            constant: The nodes whose leaves do not change.

        Returns:
            The layout, the very same one while only the arrays' values change, and the
            data of each leaf: of a typed key its words.

        Raises:
            ValueError: If a leaf cannot be stored, two leaves have one path, or there is no such
                node.
        """
        values, structure = jax.tree.flatten(tree)
        # The structure as text too: 1, 1.0 and True are equal as keys, and are three names.
        kinds = [structure, str(structure), *_kinds(values), list(constant)]
        if kinds != self._kinds:
            leaves, values, _ = flatten(tree)
            described, data = sources(leaves, values)
            nodes = structure_of(tree)
            below = _numbers_below(nodes, constant)
            self._layout = plan(described, nodes, self._pack_below, below)
            self._kinds = kinds
            self._keys = [i for i, value in enumerate(values) if is_key(value)]
            return self._layout, data
        for i in self._keys:
            values[i] = jax.random.key_data(values[i])
        return self._layout, values


def _numbers_below(nodes: Any, names: Sequence[str]) -> frozenset[int]:
    try:
        return frozenset(number for one in names for number in numbers_in(find(nodes, one)[1]))
    except CheckpointError as error:
        raise ValueError(f"constant must name nodes of the tree: {error}.") from error


def _kinds(values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return what a layout depends on; the arrays of one compiled program share these objects.

    In two lists: thousands of tuples would wake the garbage collector.
    """
    kinds = [value.aval if hasattr(value, "aval") else _kind(value) for value in values]
    return kinds, [value.sharding for value in values if hasattr(value, "aval")]


def _kind(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.shape, value.dtype
    if is_scalar(value):
        # Its value is in the layout. Of a float its text: 0.0 == -0.0, and NaN is unlike itself.
        return type(value), repr(value) if isinstance(value, float) else value
    return object()


class Staging:
    """Host memory for one snapshot at a time, kept from save to save.

    Attributes:
        packed: Packed arrays by name: what was copied last.
        whole: Arrays by themselves by name, alike.
        elsewhere: The numbers of the leaves that are not copied to it.
    """

    def __init__(self) -> None:
        self._fits: tuple[Layout, Collection[str]] | None = None
        # By pack, and for each dtype one of all arrays by themselves.
        self._memory: dict[str, mmap.mmap] = {}
        self.packed: dict[str, np.ndarray] = {}
        self.whole: dict[str, np.ndarray] = {}
        self.elsewhere: list[int] = []
        self._copies: list[_Copy | None] = []

    def fit(self, layout: Layout, left_out: Collection[str] = ()) -> None:
        """Make the buffers that a layout needs, less some arrays, and keep those that fit."""
        if self._fits is not None and layout is self._fits[0] and left_out == self._fits[1]:
            return
        # Before new ones are made: these refer to the old memory, which is freed so.
        self._fits, self._copies, self.packed, self.whole = None, [], {}, {}
        here = {n for n, home in layout.homes.items() if home == "host"}.difference(left_out)
        packs = {n: pack for n, pack in layout.packs.items() if n in here}
        sizes = {n: pack.size * np.dtype(pack.dtype).itemsize for n, pack in packs.items()}
        starts: dict[str, int] = {}
        whole = [p for p in layout.places if p.lies == "loose" and p.array in here]
        for place in whole:
            memory = _memory_of(place)
            starts[place.array] = sizes.get(memory, 0)
            nbytes = round_up(place.size, place.data_dtype) * np.dtype(place.data_dtype).itemsize
            sizes[memory] = starts[place.array] + nbytes
        self._memory = {n: m for n, m in self._memory.items() if sizes.get(n) == _size(m)}
        for name in sizes.keys() - self._memory.keys():
            self._memory[name] = _new_memory(sizes[name])
        self.packed = {
            name: np.frombuffer(self._memory[name], pack.dtype, pack.size)
            for name, pack in packs.items()
        }
        for place in whole:
            memory, start = self._memory[_memory_of(place)], starts[place.array]
            found = np.frombuffer(memory, place.data_dtype, place.size, start)
            self.whole[place.array] = found.reshape(place.data_shape)
        self._copies = [self._copy(place) for place in layout.places]
        self.elsewhere = [
            i
            for i, (copy, place) in enumerate(zip(self._copies, layout.places, strict=True))
            if copy is None and place.array not in left_out
        ]
        self._fits = layout, left_out

    def _copy(self, place: Place) -> _Copy | None:
        if place.array not in self.packed and place.array not in self.whole:
            return None
        gap = round_up(place.size, place.data_dtype) - place.size
        dtype = np.dtype(place.data_dtype)
        return _Copy(self._memory[_memory_of(place)].write, bytes(gap * dtype.itemsize), dtype)

    def copy(self, values: Sequence[Any]) -> None:
        """Copy the leaves that lie on the host, each behind the one before."""
        # `mmap.write` takes a jax array by the buffer protocol. NumPy would make an array of its
        # own of it first, which takes as long as to copy 40 kB, and would leave a view of the
        # buffer in the jax array, which JAX then copies instead of donating it.
        for memory in self._memory.values():
            memory.seek(0)
        for copy, value in zip(self._copies, values, strict=True):
            if copy is None:
                continue
            write, gap, dtype = copy
            try:
                write(value if hasattr(value, "aval") else _bytes(value, dtype))
            except BufferError:  # several devices, or a dtype that Python has no name for
                write(_bytes(value, dtype))
            if gap:
                write(gap)


class _Copy(NamedTuple):
    """How a leaf is copied.

    Attributes:
        write: Copies bytes to where the last ones end.
        gap: The bytes between it and the next leaf.
        dtype: The dtype that it is to have.
    """

    write: Callable[[Any], object]
    gap: bytes
    dtype: np.dtype


def _memory_of(place: Place) -> str:
    return place.array if place.lies == "packed" else f"whole.{place.data_dtype}"


def _size(memory: mmap.mmap) -> int:
    return len(memory) - ALIGNMENT


def _new_memory(size: int) -> mmap.mmap:
    """Make memory of huge pages, where the system has them, with room for a last gap."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size + ALIGNMENT)
    memory = mmap.mmap(-1, size + ALIGNMENT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # 512 times fewer page faults at the first save, which is the one that touches the memory.
    with contextlib.suppress(OSError):  # a kernel without them, as every PREEMPT_RT one
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def take(
    layout: Layout, values: Sequence[Any], staging: Staging, left_out: Collection[str] = ()
) -> Snapshot:
    """Copy the leaves.

    Args:
        layout: Where each lies.
        values: Their data, in the layout's order.
        staging: Host memory that no other snapshot is in.
        left_out: The arrays that are not copied.

    Returns:
        The snapshot. When this returns the values may be donated or changed.
    """
    staging.fit(layout, left_out)
    staging.copy(values)
    groups: dict[str, list[Any]] = {}
    whole: dict[str, Any] = {}
    for i in staging.elsewhere:
        place = layout.places[i]
        if place.lies == "packed":
            groups.setdefault(place.array, []).append(values[i].addressable_data(0))
        elif place.lies == "loose" and layout.homes[place.array] != "spread":
            whole[place.array] = jnp.copy(values[i].addressable_data(0))
    packed = {n: _concatenate(group, layout.packs[n].size) for n, group in groups.items()}
    spread = _spread(layout, values, left_out)
    return Snapshot(staging.packed | packed, staging.whole | whole, spread)


def spread_only(layout: Layout, values: Sequence[Any], left_out: Collection[str] = ()) -> Snapshot:
    """Copy the leaves that are spread over devices: what a process but the first saves."""
    return Snapshot({}, {}, _spread(layout, values, left_out))


def _spread(
    layout: Layout, values: Sequence[Any], left_out: Collection[str]
) -> dict[str, jax.Array]:
    """Copy what is spread over devices, as it was: each device copies its own part."""
    if "spread" not in layout.homes.values():
        return {}
    return {
        place.array: jnp.copy(value)
        for place, value in zip(layout.places, values, strict=True)
        if layout.homes.get(place.array) == "spread" and place.array not in left_out
    }


def _bytes(value: Any, dtype: np.dtype) -> np.ndarray:
    """Return the bytes of an array as they are to be saved: in order, in this machine's order."""
    if isinstance(value, jax.Array):
        # NumPy leaves its view in the array that it is given: here in a new one.
        value = value.addressable_data(0) if value.is_fully_replicated else value
    return np.ascontiguousarray(value, dtype).reshape(-1).view(np.uint8)


def _lay_end_to_end(values: Sequence[jax.Array], size: int) -> jax.Array:
    parts: list[jax.Array] = []
    end = 0
    for value in values:
        start = round_up(end, value.dtype.name)
        parts += [jnp.zeros(start - end, value.dtype), value.ravel()]
        end = start + value.size
    return jnp.concatenate([*parts, jnp.zeros(size - end, parts[0].dtype)])


_concatenate = jax.jit(_lay_end_to_end, static_argnums=1)


def unpack(place: Place, packed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a leaf's data, out of the packed arrays.

    Args:
        place: Where it lies.
        packed: The packed arrays, of the leaves' own dtypes.

    Returns:
        A view, or a new array where the leaf has no elements.
    """
    if place.lies == "empty":
        return np.zeros(place.data_shape, place.data_dtype)
    whole = packed[place.array]
    return whole[place.offset : place.offset + place.size].reshape(place.data_shape)
