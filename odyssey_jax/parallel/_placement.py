"""Where the leaves of a batch and of a carry lie: on one device, or on a mesh."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, Protocol

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from odyssey_jax._types import PyTree


class Placement(Protocol):
    """Where a run's arrays lie; hashable and compared by value."""

    def check(self, batch_size: int) -> None:
        """Raise ValueError unless a batch of this size, on these processes, can lie so."""
        ...

    def put(self, tree: PyTree) -> PyTree:
        """Put the arrays of a carry or of a data set where they belong."""
        ...

    def batch(self, batch: PyTree) -> PyTree:
        """Lay out a batch, within the compiled program."""
        ...

    def stacked(self, batches: PyTree) -> PyTree:
        """Put batches [batches, batch_size, ...] from the host where the program reads them.

        Of several processes each has its share of every batch.
        """
        ...


@dataclasses.dataclass(frozen=True)
class OneDevice:
    """The trivial placement: everything stays where JAX puts it."""

    def check(self, batch_size: int) -> None:
        """Raise ValueError on several processes, which train one model together."""
        del batch_size
        if jax.process_count() > 1:
            raise ValueError(
                f"this program runs on {jax.process_count()} processes, which fit trains one model "
                "together: pass batch_sharding=, such as NamedSharding(mesh, "
                "PartitionSpec('data')) with mesh = jax.sharding.Mesh(jax.devices(), ('data',))."
            )

    def put(self, tree: PyTree) -> PyTree:
        """Return the tree as it is."""
        return tree

    def batch(self, batch: PyTree) -> PyTree:
        """Return the batch as it is."""
        return batch

    def stacked(self, batches: PyTree) -> PyTree:
        """Put batches on the device."""
        return jax.device_put(batches)


@dataclasses.dataclass(frozen=True)
class Replicated:
    """Batches laid out over a mesh, all else on each of its devices.

    Attributes:
        sharding: How a batch is laid out, such as `NamedSharding(mesh, PartitionSpec("data"))`.

    Raises:
        TypeError: If it is no `NamedSharding`.
    """

    sharding: NamedSharding

    def __post_init__(self) -> None:
        if not isinstance(self.sharding, NamedSharding):
            raise TypeError(
                "batch_sharding must be a jax.sharding.NamedSharding, got "
                f"{type(self.sharding).__name__}."
            )

    def check(self, batch_size: int) -> None:
        """Raise ValueError unless the mesh can hold such a batch, and spans all processes."""
        sharding = self.sharding
        if len(sharding.spec) > 1:
            raise ValueError(
                f"batch_sharding={sharding} names {len(sharding.spec)} axes, and a batch is cut "
                f"along its first alone: pass PartitionSpec({sharding.spec[0]!r})."
            )
        try:
            sharding.shard_shape((batch_size,))
        except ValueError as error:
            raise ValueError(
                f"a batch of {batch_size} examples can't be cut evenly by {sharding}: choose "
                "a batch_size that is a multiple of the devices."
            ) from error
        if any(kind is not AxisType.Auto for kind in sharding.mesh.axis_types):
            raise ValueError(
                f"batch_sharding={sharding} has a mesh whose axes are not automatic: make it with "
                "jax.sharding.Mesh(jax.devices(), ('data',)), or give jax.make_mesh "
                "axis_types=(jax.sharding.AxisType.Auto,)."
            )
        missing = set(range(jax.process_count())) - {d.process_index for d in sharding.device_set}
        if missing:
            raise ValueError(
                f"batch_sharding={sharding} has no device of the processes {sorted(missing)}: make "
                "its mesh of jax.devices(), which are all processes'."
            )

    def put(self, tree: PyTree) -> PyTree:
        """Put every array on every device; on several processes each holds them all alike."""
        everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
        if everywhere.is_fully_addressable:
            return jax.device_put(tree, everywhere)
        return jax.tree.map(lambda x: _on_all(x, everywhere), tree)

    def batch(self, batch: PyTree) -> PyTree:
        """Constrain a batch to its sharding."""
        return lax.with_sharding_constraint(batch, self.sharding)

    def stacked(self, batches: PyTree) -> PyTree:
        """Lay out each of the batches; a smaller one that can't be cut evenly lies everywhere."""
        mesh, spec = self.sharding.mesh, self.sharding.spec
        laid_out = NamedSharding(mesh, PartitionSpec(None, *spec))
        several = jax.process_count() > 1

        def put(x: Any) -> jax.Array:
            if several:
                return jax.make_array_from_process_local_data(laid_out, x)
            try:
                laid_out.shard_shape(x.shape)
            except ValueError:
                return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
            return jax.device_put(x, laid_out)

        return jax.tree.map(put, batches)


def _on_all(value: Any, everywhere: NamedSharding) -> jax.Array:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value  # a restored one is there already
    if is_key(value):
        data = _on_all(jax.random.key_data(value), everywhere)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    array = np.asarray(value)
    # `jax.device_put` would compare the values of all processes, array by array.
    return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])


_warned: list[bool] = []


def warn_of_idle_devices() -> None:
    """Say once that a run on one of several devices leaves the others idle."""
    devices = jax.local_devices()
    if len(devices) > 1 and not _warned:
        _warned.append(True)
        warnings.warn(
            f"training on {devices[0]}, and {len(devices) - 1} more device(s) idle: pass "
            "batch_sharding=NamedSharding(mesh, PartitionSpec('data')) with mesh = "
            "jax.sharding.Mesh(jax.devices(), ('data',)) to use them all, or show JAX one alone",
            RuntimeWarning,
            stacklevel=2,
        )


def check_whole(what: str, tree: PyTree) -> None:
    """Raise ValueError if an array lies in parts on several devices: it would be replicated."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{what} {name!r} lies in parts on {len(leaf.sharding.device_set)} devices, and "
                "fit keeps it whole on each: pass it whole, as jax.device_get makes it. Batches "
                "alone are divided, by batch_sharding=."
            )


def is_key(value: Any) -> bool:
    """Return whether a leaf is an array of typed PRNG keys."""
    return hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
