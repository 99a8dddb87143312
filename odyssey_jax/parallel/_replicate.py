"""One process's arrays, or those that every process holds alike, on all devices of a mesh."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from odyssey_jax.parallel._agree import decide


def replicate(tree: Any, sharding: jax.sharding.NamedSharding | None) -> Any:
    """Puts every array on every device of the sharding's mesh.

    Args:
        tree: pytree of arrays; on several processes each holds them all, with equal values.
        sharding: how a batch is laid out, or None to leave the arrays where they are.

    Returns:
        The same, replicated over the mesh.
    """
    if sharding is None:
        return tree
    everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(lambda x: _on_all(x, everywhere), tree)


def check_alike(values: Mapping[str, Any]) -> None:
    """Refuses what differs between the processes, where all must hold the same.

    Args:
        values: what it is, in words -> pytree of arrays, numbers and strings.

    Raises:
        ValueError: one process has others than process 0.
    """
    if jax.process_count() == 1:
        return
    own = [_fingerprint(value) for value in values.values()]
    found = decide(own, _first_to_differ, "fit")
    if found is not None:
        process, number = found
        raise ValueError(
            f"process {process} has another {list(values)[number]} than process 0: every process "
            "must call fit with the same arguments, and with the same whole arrays, from the same "
            "seeds."
        )


def _on_all(value: Any, everywhere: jax.sharding.NamedSharding) -> jax.Array:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value  # a restored one is there already
    if _is_key(value):
        data = _on_all(jax.random.key_data(value), everywhere)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    array = np.asarray(value)
    # `jax.device_put` would compare the values of all processes, array by array.
    return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])


def _is_key(value: Any) -> bool:
    return hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _fingerprint(tree: Any) -> int:
    found = 0
    for leaf in jax.tree.leaves(tree):
        data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        found = zlib.crc32(np.asarray(data).tobytes(), found)
    return found


def _first_to_differ(all_of_them: list[list[int]]) -> list[int] | None:
    first = all_of_them[0]
    for process, own in enumerate(all_of_them):
        for number, (a, b) in enumerate(zip(first, own, strict=True)):
            if a != b:
                return [process, number]
    return None
