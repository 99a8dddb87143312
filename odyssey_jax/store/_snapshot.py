"""A copy of the leaves, so that the originals may be donated at once.

On the CPU the copy is a memcpy into buffers that the store keeps from save to save (fresh
memory costs several times the copy itself). On an accelerator one compiled program lays
the leaves end to end in device memory, and they reach the host in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.store._encode import encode
from odyssey_jax.store._errors import CheckpointError
from odyssey_jax.store._layout import Layout, Place, Source, round_up
from odyssey_jax.store._leaves import Leaf, is_key, is_scalar


class Snapshot(NamedTuple):
    """Arrays that nothing else refers to.

    Attributes:
        packed: Packed arrays by name, on the host or on a device.
        loose: Arrays by themselves by name, sharded as they were.
    """

    packed: dict[str, Any]
    loose: dict[str, jax.Array]

    def on_host(self, layout: Layout) -> dict[str, np.ndarray]:
        """Brings the packed arrays to the host, as they are to be stored; may take long."""
        packs = layout.packs
        return {
            name: np.asarray(array).view(packs[name].stored) for name, array in self.packed.items()
        }


def sources(
    leaves: Sequence[Leaf], values: Sequence[Any], *, on_device: bool | None = None
) -> tuple[list[Source], list[Any]]:
    """Finds out what a layout must know of the leaves, and the arrays that hold their data.

    Args:
        leaves: The leaves' descriptions.
        values: The leaves.
        on_device: Whether to pack on the device; None does so for accelerators.

    Returns:
        What `plan` takes, and the data of each leaf: of a typed key its words.

    Raises:
        CheckpointError: A leaf's data is partly on other machines.
    """
    pairs = [_source(leaf, value, on_device) for leaf, value in zip(leaves, values, strict=True)]
    return [source for source, _ in pairs], [data for _, data in pairs]


def _source(leaf: Leaf, value: Any, on_device: bool | None) -> tuple[Source, Any]:
    if is_scalar(value):
        return Source(leaf, value=encode(value)), value
    if is_key(value):
        data, impl = jax.random.key_data(value), str(jax.random.key_impl(value))
        about = (leaf, tuple(data.shape), data.dtype.name)
    else:
        data, impl, about = value, None, (leaf, leaf.shape, leaf.dtype)
    if not isinstance(data, jax.Array):
        return Source(*about), data
    home = _home(data.sharding, on_device)
    if home is None:
        raise CheckpointError(
            f"leaf {leaf.path} is partly on other processes, which the store cannot save yet"
        )
    return Source(*about, home=home, impl=impl), data


@lru_cache(maxsize=256)
def _home(sharding: jax.sharding.Sharding, on_device: bool | None) -> str | None:
    if not sharding.is_fully_addressable:
        return None
    if not sharding.is_fully_replicated:
        return "spread"
    device = min(sharding.device_set, key=lambda device: device.id)
    packs_there = device.platform != "cpu" if on_device is None else on_device
    return str(device.id) if packs_there else "host"


def take(layout: Layout, values: Sequence[Any], staging: dict[str, np.ndarray]) -> Snapshot:
    """Copies the leaves.

    Args:
        layout: Where each lies.
        values: Their data, in the layout's order.
        staging: Host buffers by name, used again where they fit, and replaced where not.

    Returns:
        The snapshot. When this returns the values may be donated or changed.
    """
    members: dict[str, list[tuple[Place, Any]]] = {name: [] for name in layout.packs}
    loose: dict[str, jax.Array] = {}
    for place, value in zip(layout.places, values, strict=True):
        if place.lies == "packed":
            members[place.array].append((place, value))
        elif place.lies == "loose":
            loose[place.array] = jnp.copy(value)
    for name in staging.keys() - members.keys():
        del staging[name]
    packed = {
        name: _pack_on_host(layout, name, group, staging)
        if name == layout.packs[name].dtype
        else _pack_on_device(layout.packs[name].size, [_local(value) for _, value in group])
        for name, group in members.items()
    }
    return Snapshot(packed, loose)


def _local(value: Any) -> Any:
    # A new array over the same buffer: `np.asarray` leaves its view in the array it is
    # given, and a buffer with a view on it is no longer donated.
    return value.addressable_data(0) if isinstance(value, jax.Array) else value


def _pack_on_host(
    layout: Layout,
    name: str,
    group: Sequence[tuple[Place, Any]],
    staging: dict[str, np.ndarray],
) -> np.ndarray:
    pack = layout.packs[name]
    buffer = staging.get(name)
    if buffer is None or buffer.size != pack.size:
        staging.pop(name, None)  # before the new one is made
        buffer = staging[name] = np.zeros(pack.size, pack.dtype)
    for place, value in group:
        part = buffer[place.offset : place.offset + place.size].reshape(place.data_shape)
        part[...] = np.asarray(_local(value))
    return buffer


def _pack_on_device(size: int, values: Sequence[jax.Array]) -> jax.Array:
    return _concatenate(list(values), size)


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
    """Finds a leaf's data in the packed arrays.

    Args:
        place: Where it lies.
        packed: The packed arrays, of the leaves' own dtypes.

    Returns:
        A view, or a new array where the leaf has no elements.
    """
    if place.lies == "empty":
        return np.empty(place.data_shape, place.data_dtype)
    whole = packed[place.array]
    return whole[place.offset : place.offset + place.size].reshape(place.data_shape)
