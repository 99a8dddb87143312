"""Where the leaves of a batch and of a carry lie: what a run asks of its placement."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import jax

from odyssey_jax._types import PyTree

AxisNames = Mapping[str, Sequence[str | None]]


class Placement(Protocol):
    """Where a run's arrays lie; hashable and compared by value.

    What it says of a train state holds for all that mirrors it: see `place`.
    """

    def of(self, axis_names: Callable[[], AxisNames], init: Callable[[], PyTree]) -> Self:
        """Return the placement of a task, whose parameters may say themselves where they lie.

        Args:
            axis_names: As in `Task.axis_names`.
            init: Makes the parameters and the model state.
        """
        ...

    def check(self, batch_size: int) -> None:
        """Raise ValueError unless a batch of this size, on these processes, can lie so."""
        ...

    def context(self) -> AbstractContextManager[Any]:
        """Return what holds while a compiled program is called, such as the mesh being set."""
        ...

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a task's function as the program calls it."""
        ...

    def init(self, init: Callable[[jax.Array], PyTree], key: jax.Array) -> PyTree:
        """Make the parameters and the model state of a key where they belong."""
        ...

    def place(self, tree: PyTree, state: Any) -> PyTree:
        """Put a tree where it belongs: leaves that mirror one of the train state's lie as that."""
        ...

    def put(self, tree: PyTree) -> PyTree:
        """Put arrays that belong to no parameter where the program reads them."""
        ...

    @property
    def words(self) -> str:
        """What is compared, and said, where a run goes on in another placement."""
        ...

    @property
    def devices(self) -> Sequence[Any] | None:
        """The devices that train; None is JAX's default one."""
        ...

    def shardings(self, tree: PyTree, state: Any) -> PyTree | None:
        """Return where each leaf of a tree belongs, as `place` puts it; None leaves it to JAX."""
        ...

    def constrain(self, tree: PyTree, state: Any) -> PyTree:
        """Do within a compiled program what `place` does outside."""
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

    def of(self, axis_names: Any, init: Any) -> Self:
        """Return itself."""
        del axis_names, init
        return self

    def check(self, batch_size: int) -> None:
        """Raise ValueError on several processes, which train one model together."""
        del batch_size
        if jax.process_count() > 1:
            raise ValueError(
                f"this program runs on {jax.process_count()} processes, which fit trains one model "
                "together: pass a placement= over the devices of all, such as ody.data_parallel()."
            )

    def context(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function."""
        return function

    def init(self, init: Callable[[jax.Array], PyTree], key: jax.Array) -> PyTree:
        """Make the parameters and the model state, which must lie whole."""
        params, model_state = init(key)
        check_whole("the parameter", params)
        check_whole("the model state's", model_state)
        return params, model_state

    def place(self, tree: PyTree, state: Any) -> PyTree:
        """Return the tree as it is."""
        del state
        return tree

    def put(self, tree: PyTree) -> PyTree:
        """Return the tree as it is."""
        return tree

    @property
    def words(self) -> str:
        """Its name."""
        return "one device"

    @property
    def devices(self) -> None:
        """JAX's default one."""

    def shardings(self, tree: PyTree, state: Any) -> None:
        """Leave it to JAX."""
        del tree, state

    def constrain(self, tree: PyTree, state: Any) -> PyTree:
        """Return the tree as it is."""
        del state
        return tree

    def batch(self, batch: PyTree) -> PyTree:
        """Return the batch as it is."""
        return batch

    def stacked(self, batches: PyTree) -> PyTree:
        """Put batches on the device."""
        return jax.device_put(batches)


def check_placement(placement: Any) -> None:
    """Raise TypeError if it is no placement."""
    if not hasattr(placement, "constrain"):
        raise TypeError(
            "placement must be from ody.data_parallel, ody.fully_sharded, ody.sharded, "
            f"ody.parallel.as_given or ody.parallel.one_device, got {placement!r}."
        )


def check_whole(what: str, tree: PyTree) -> None:
    """Raise ValueError if an array lies in parts on several devices: one device would hold it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{what} {name!r} lies in parts on {len(leaf.sharding.device_set)} devices: to "
                "keep it so pass placement=ody.parallel.as_given(mesh); for other placements pass "
                "it whole, as jax.device_get makes it, or a function that makes the model."
            )


def is_key(value: Any) -> bool:
    """Return whether a leaf is an array of typed PRNG keys."""
    return hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
