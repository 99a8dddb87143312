"""From a checkpoint's arrays to leaves like the target's: values, dtypes and shardings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.store._format import decode
from odyssey_jax.store._layout import Place
from odyssey_jax.store._leaves import SCALARS, Leaf, is_key, is_scalar
from odyssey_jax.store._snapshot import unpack


def check_shardings(places: Sequence[Place], targets: Sequence[Any]) -> None:
    """Raise ValueError for a sharding that its leaf cannot have, before anything is read.

    Args:
        places: Where the targets' leaves lie.
        targets: The target's leaves, in the same order.

    Raises:
        ValueError: If a sharding does not divide the leaf's shape.
    """
    for place, target in zip(places, targets, strict=True):
        sharding = _sharding(target)
        if sharding is None or sharding.is_fully_replicated:
            continue
        try:
            sharding.shard_shape(place.shape)
        except ValueError as error:
            raise ValueError(
                f"leaf {place.leaf} cannot be spread as its target is, by {sharding}; give a "
                "sharding that divides its shape."
            ) from error


def loose_shardings(places: Sequence[Place], targets: Sequence[Any]) -> dict[str, Any]:
    """Choose how to read each array that lies by itself.

    Args:
        places: Where the targets' leaves lie.
        targets: The target's leaves, in the same order.

    Returns:
        Array's name -> sharding to read it into, or None to read it into host memory.
    """
    return {
        place.array: _sharding(target) if _is_spread(target) else None
        for place, target in zip(places, targets, strict=True)
        if place.lies == "loose"
    }


def _sharding(target: Any) -> jax.sharding.Sharding | None:
    # An array that is on the default device only because nothing was said stays so: one
    # that was put there is another thing to `jax.jit`, which would compile once more.
    if isinstance(target, jax.Array) and not target.committed:
        return None
    return getattr(target, "sharding", None)


def _is_spread(target: Any) -> bool:
    sharding = _sharding(target)
    return sharding is not None and not sharding.is_fully_replicated and not is_key(target)


def place_all(
    places: Sequence[Place],
    targets: Sequence[Any],
    packed: Mapping[str, np.ndarray],
    loose: Mapping[str, Any],
) -> list[Any]:
    """Make leaves like the target's.

    Args:
        places: Where the targets' leaves lie.
        targets: The target's leaves, in the same order.
        packed: The packed arrays.
        loose: The arrays by themselves.

    Returns:
        One for each target: numpy where it is numpy, Python where it is Python, otherwise
        a jax array with the target's sharding.

    Raises:
        ValueError: If JAX would narrow a leaf.
    """
    results: list[Any] = [None] * len(targets)
    anywhere: list[int] = []
    somewhere: list[int] = []
    for i, (place, target) in enumerate(zip(places, targets, strict=True)):
        data = loose[place.array] if place.lies == "loose" else None
        if is_scalar(target):
            results[i] = decode(place.value)
        elif isinstance(target, np.ndarray | np.generic):
            results[i] = np.array(unpack(place, packed)) if data is None else data
            if isinstance(target, np.generic):
                results[i] = results[i][()]
        else:
            if not _has_width(place.data_dtype):
                raise ValueError(
                    f"leaf {place.path} is {place.data_dtype}, which jax would narrow; set "
                    "jax_enable_x64, or give a numpy array as its target."
                )
            results[i] = unpack(place, packed) if data is None else data
            if not (isinstance(data, jax.Array) or is_key(target)):
                (anywhere if _sharding(target) is None else somewhere).append(i)
    # On the CPU these use the packed arrays' memory where it lies. Nothing else refers to
    # it; XLA copies such a leaf when it is donated, and never writes to it.
    for i, array in zip(anywhere, jax.device_put([results[i] for i in anywhere]), strict=True):
        results[i] = array
    shardings = [_sharding(targets[i]) for i in somewhere]
    arrays = _put([results[i] for i in somewhere], shardings)
    for i, array in zip(somewhere, arrays, strict=True):
        results[i] = array
    for i, (place, target) in enumerate(zip(places, targets, strict=True)):
        if is_key(target):
            results[i] = _keys(results[i], place.impl, _sharding(target))
        elif getattr(target, "weak_type", False):
            results[i] = _weaken(results[i])
    return results


def blank(place: Place) -> Any:
    """Make a target for a leaf of which nothing is known but its place.

    Args:
        place: Where it lies.

    Returns:
        A numpy array of its shape and dtype, that takes no memory; of a typed key a
        description; of a Python value one of its type.
    """
    if place.lies == "inline":
        return SCALARS[place.dtype]()
    if place.impl is not None:
        return key_like(place.data_shape, place.impl)
    return np.broadcast_to(np.zeros((), place.dtype), place.shape)


def description(place: Place) -> Any:
    """Describe a leaf; one that is a Python value is that."""
    if place.lies == "inline":
        return decode(place.value)
    if place.impl is not None:
        return key_like(place.data_shape, place.impl)
    return jax.ShapeDtypeStruct(place.shape, np.dtype(place.dtype))


@lru_cache(maxsize=256)
def key_like(data_shape: tuple[int, ...], impl: str) -> jax.ShapeDtypeStruct:
    """Describe the typed keys that words of a shape make; raise ValueError if they make none."""
    return jax.eval_shape(
        lambda: jax.random.wrap_key_data(jnp.zeros(data_shape, jnp.uint32), impl=impl)
    )


def keep(leaf: Leaf, target: Any) -> Any:
    """Return the target's own value, for a leaf that is not restored.

    Args:
        leaf: The leaf.
        target: Its value.

    Returns:
        A copy, which may be donated or changed.

    Raises:
        ValueError: If the target describes an array and has none.
    """
    if isinstance(target, jax.Array):
        return target.copy()
    if is_scalar(target) or isinstance(target, np.ndarray | np.generic):
        return copy.copy(target)
    raise ValueError(
        f"leaf {leaf.path} is to keep the target's value, and the target is a "
        f"{type(target).__name__}, which has none; give an array."
    )


def _keys(data: np.ndarray, impl: str | None, sharding: Any) -> jax.Array:
    if sharding is None or sharding.is_fully_addressable:
        keys = jax.random.wrap_key_data(jnp.asarray(data), impl=impl)
        return keys if sharding is None else jax.device_put(keys, sharding)
    return jax.random.wrap_key_data(_put([data], [sharding])[0], impl=impl)


def _put(values: list[np.ndarray], shardings: list[Any]) -> list[jax.Array]:
    """Put whole arrays on devices; of those that other processes have, this one's part.

    `jax.device_put` would compare them between the processes, one by one.
    """
    if all(sharding.is_fully_addressable for sharding in shardings):
        return jax.device_put(values, shardings)
    return [
        jax.make_array_from_callback(value.shape, sharding, lambda index, value=value: value[index])
        for value, sharding in zip(values, shardings, strict=True)
    ]


def _weaken(array: jax.Array) -> jax.Array:
    # Weak type is part of what `jax.jit` compiles for, and is not in the file. An update
    # keeps the type of what is updated.
    weak = jnp.full(array.shape, np.zeros((), array.dtype).item())
    return weak.at[...].set(array) if weak.dtype == array.dtype else array


@lru_cache(maxsize=256)
def _width(dtype: str, x64: bool) -> bool:
    del x64  # part of the key only: the answer depends on it
    return jax.dtypes.canonicalize_dtype(np.dtype(dtype)) == np.dtype(dtype)


def _has_width(dtype: str) -> bool:
    return _width(dtype, bool(jax.config.read("jax_enable_x64")))
