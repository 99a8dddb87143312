"""Reading a step of a store's directory: its leaves, or a tree, with a target or without."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax.store._directory import Directory, Which, check_step
from odyssey_jax.store._format import decode
from odyssey_jax.store._layout import Layout, Place
from odyssey_jax.store._leaves import SavedLeaf, flatten, tail
from odyssey_jax.store._match import Report, Transfer, assign, mismatch
from odyssey_jax.store._place import (
    blank,
    check_shardings,
    description,
    keep,
    loose_shardings,
    place_all,
)
from odyssey_jax.store._structure import build, find, numbers_in


class Restored(NamedTuple):
    """The result of `Reader.restore` and `Reader.load`.

    Attributes:
        step: The step that was restored.
        tree: A pytree with the target's structure.
        metadata: What was saved with it, and what the store added.
        report: What was restored, and what a transfer renamed, initialized and ignored.
        skipped: Newer or better steps that are corrupt -> what is wrong with them.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]
    report: Report
    skipped: dict[int, str]


class Reader(Directory):
    """A directory of checkpoints, read and never changed.

    It makes no directory, sweeps nothing and holds no lock, so that it may look on while a
    `Store` in another program writes there.

    Args:
        directory: Where the steps are; one that does not exist holds none.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is; None is as its
            name says, such as "max" for an accuracy.

    Raises:
        ValueError: If the mode is neither, or None and the name does not say.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from odyssey_jax.store import Store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Store(folder) as store:
        ...         store.save(3, {"w": np.arange(3.0)}, {"epoch": 1})
        ...     reader = Reader(folder)
        ...     print(reader.steps(), reader.restore({"w": np.zeros(3)}).tree["w"])
        (3,) [0. 1. 2.]
    """

    def leaves(self, step: int) -> tuple[SavedLeaf, ...]:
        """List the leaves of a step, without reading their data.

        Args:
            step: A committed step.

        Returns:
            One for each leaf, in the tree's order.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it cannot be read.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros((2, 3)), "n": 5}, {})
            ...     store.wait()
            ...     [(leaf.name, str(leaf), leaf.nbytes) for leaf in store.leaves(1)]
            [('n', 'int 5', 0), ('w', 'float64[2,3]', 48)]
        """
        return tuple(map(_saved_leaf, self._layout(check_step(step)).places))

    def values(self, step: int, *, verify: bool = True) -> dict[str, Any]:
        """Read the leaves of a step by their paths: for tools, which have no target.

        Args:
            step: A committed step.
            verify: True to compare the arrays with their checksums.

        Returns:
            Path -> leaf, as `load` has it.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it cannot be read.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros(2), "n": 5}, {})
            ...     store.wait()
            ...     store.values(1)
            {"['n']": 5, "['w']": array([0., 0.])}
        """
        step = check_step(step)
        layout = self._layout(step)
        blanks = [blank(place) for place in layout.places]
        leaves = self._read(step, layout, layout.places, blanks, verify=verify)
        return {place.path: leaf for place, leaf in zip(layout.places, leaves, strict=True)}

    def restore(
        self,
        target: Any,
        step: int | Which = "latest",
        *,
        transfer: Transfer | None = None,
        subtree: str | Sequence[str] = "",
        verify: bool = True,
    ) -> Restored:
        """Restore a pytree.

        Strict: every leaf of the target must be in the checkpoint at the same path, with
        the same shape and dtype, and the other way round. A transfer says where not. Nodes are
        known by the paths of their leaves alone: a list restores into a tuple, and an NNX state
        into a dictionary.

        Args:
            target: A pytree like the one that was saved, of arrays or
                `jax.ShapeDtypeStruct`; its arrays are not changed.
            step: A committed step, or ``"latest"``, or ``"best"`` by the monitored metric. Of
                these two, one that is corrupt is skipped, with a `CheckpointSkippedWarning`,
                for the next one that is good.
            transfer: What is renamed, initialized and ignored, for a target that differs on
                purpose.
            subtree: The node of the saved tree that the target is like: its keys with ``/``
                between them, such as ``"state/params"``. Empty for the whole tree; several, whose
                leaves are those of the target together.
            verify: True to compare the arrays with their checksums; without, a restore from
                memory takes about 30 % less time. The metadata always is compared.

        Returns:
            The step, a tree with the target's structure and each leaf with the sharding of
            the target's, if it has one, the metadata, a report, and what was skipped. The
            arrays may be donated.

        Raises:
            ValueError: If an argument makes no sense, or a leaf cannot have the sharding or the
                dtype of the target's.
            CheckpointNotFoundError: If there is no such step.
            CheckpointMismatchError: If the target differs; the message lists the leaves.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it is damaged, and so are all others where others count.
            CheckpointError: If there is no such subtree, or the transfer names what is not there.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"params": {"w": np.arange(3.0)}, "count": 5}, {})
            ...     store.wait()
            ...     params = {"w": np.zeros(3)}
            ...     restored = store.restore(params, subtree="params")
            >>> restored.tree["w"], restored.report.matched
            (array([0., 1., 2.]), ("['w']",))
        """
        how = {"transfer": transfer, "subtree": subtree, "verify": verify}
        with gc_paused():
            restored, skipped = self._pick(step, lambda step: self._restore(target, step, **how))
        return restored._replace(skipped=skipped)

    def _restore(
        self,
        target: Any,
        step: int,
        *,
        transfer: Transfer | None,
        subtree: str | Sequence[str],
        verify: bool,
    ) -> Restored:
        metadata = self.metadata(step)
        layout = self._layout(step)
        by_path = {}
        names: Any = subtree if isinstance(subtree, (list, tuple)) else [subtree]
        for one in names:
            depth, node = find(layout.tree, one)
            below = [layout.places[number] for number in numbers_in(node)]
            by_path |= {tail(place.path, depth): place for place in below}
        if getattr(transfer, "convert", None) is not None:
            raise ValueError(
                f"convert is for other libraries' files, and {self._name(step)} is a store's own: "
                "rename by pattern, or change what was read."
            )
        read = lambda places, likes: self._read(step, layout, places, likes, verify=verify)
        tree, report = fill(by_path, target, transfer, self._name(step), read)
        return Restored(step, tree, metadata, report, {})

    def load(
        self, step: int | Which = "latest", *, subtree: str = "", verify: bool = True
    ) -> Restored:
        """Read a pytree without a target: neither the model's code nor an optimizer is needed.

        Args:
            step: A committed step, or ``"latest"``, or ``"best"``, as for `restore`.
            subtree: The node to read: its keys with ``/`` between them, such as
                ``"state/params"``. Empty for the whole tree.
            verify: True to compare the arrays with their checksums, as for `restore`.

        Returns:
            The step, the tree, the metadata, and a report of what was read. Dictionaries,
            lists, tuples and None are as they were; a NamedTuple, a dataclass or another
            node is a dictionary of its fields. Arrays are numpy's, of the dtype that was
            saved; typed keys are jax's.

        Raises:
            CheckpointNotFoundError: If there is no such step.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it cannot be read.
            CheckpointError: If there is no such subtree.

        Example:
            >>> import tempfile
            >>> import jax.numpy as jnp, optax
            >>> from odyssey_jax.store import Store
            >>> state = optax.sgd(0.1, momentum=0.9).init({"w": jnp.zeros(2)})
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"opt": state, "shape": (2, None)}, {})
            ...     store.wait()
            ...     store.load().tree
            {'opt': ({'trace': {'w': array([0., 0.], dtype=float32)}}, {}), 'shape': (2, None)}
        """
        loaded, skipped = self._pick(step, lambda step: self._load(step, subtree, verify))
        return loaded._replace(skipped=skipped)

    def _load(self, step: int, subtree: str, verify: bool) -> Restored:
        metadata = self.metadata(step)
        layout = self._layout(step)
        depth, node = find(layout.tree, subtree)
        numbers = numbers_in(node)
        places = [layout.places[number] for number in numbers]
        likes = [blank(place) for place in places]
        leaves = self._read(step, layout, places, likes, verify=verify)
        tree = build(node, dict(zip(numbers, leaves, strict=True)))
        report = Report(matched=tuple(tail(place.path, depth) for place in places))
        return Restored(step, tree, metadata, report, {})

    def describe(self, step: int, *, subtree: str = "") -> Any:
        """Describe a pytree, without reading its data.

        Args:
            step: A committed step.
            subtree: As for `load`.

        Returns:
            The tree that `load` returns, with a `jax.ShapeDtypeStruct` for each array.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it cannot be read.
            CheckpointError: If there is no such subtree.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros((2, 3)), "n": 5}, {})
            ...     store.wait()
            ...     store.describe(1)
            {'n': 5, 'w': ShapeDtypeStruct(shape=(2, 3), dtype=float64)}
        """
        layout = self._layout(check_step(step))
        _, node = find(layout.tree, subtree)
        return build(node, {n: description(layout.places[n]) for n in numbers_in(node)})

    def _read(
        self,
        step: int,
        layout: Layout,
        places: Sequence[Place],
        targets: Sequence[Any],
        *,
        verify: bool,
    ) -> list[Any]:
        """Read leaves like the targets: the one way to a checkpoint's arrays."""
        check_shardings(places, targets)
        shardings = loose_shardings(places, targets)
        with self._open(step) as opened:
            packed, loose = opened.arrays(layout, places, shardings, verify=verify)
        return place_all(places, targets, packed, loose)

    def _layout(self, step: int) -> Layout:
        with self._open(step) as opened:
            return opened.layout()


def fill(
    by_path: Mapping[str, Place],
    target: Any,
    transfer: Transfer | None,
    name: str,
    read: Callable[[Sequence[Place], Sequence[Any]], list[Any]],
    *remedy: str,
) -> tuple[Any, Report]:
    """Return a tree like the target, of what was saved.

    Args:
        by_path: Path -> where the leaf lies.
        target: Arrays or descriptions.
        transfer: What is renamed, initialized and ignored.
        name: What to call what was saved.
        read: Reads the leaves that lie there like their targets.
        *remedy: What to do where the two differ, if it is of its own.

    Returns:
        The tree, and how the two compare.

    Raises:
        CheckpointMismatchError: If the target differs.
    """
    saved = [place.leaf._replace(path=path) for path, place in by_path.items()]
    leaves, targets, structure = flatten(target)
    sources, report = assign(saved, leaves, transfer)
    if not report.exact:
        raise mismatch(report, name, *remedy)
    own = {i: keep(leaves[i], targets[i]) for i, path in enumerate(sources) if path is None}
    places = {i: by_path[path] for i, path in enumerate(sources) if path is not None}
    found = read(list(places.values()), [targets[i] for i in places])
    results = own | dict(zip(places, found, strict=True))
    tree = jax.tree_util.tree_unflatten(structure, [results[i] for i in range(len(leaves))])
    return tree, report


def _saved_leaf(place: Place) -> SavedLeaf:
    inline = place.lies == "inline"
    return SavedLeaf(
        place.path,
        place.shape,
        place.dtype,
        nbytes=0 if inline else place.size * np.dtype(place.data_dtype).itemsize,
        array=place.directory,
        value=decode(place.value) if inline else None,
    )


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while leaves are created.

    Some thousand new leaves make it look through all objects of the program, JAX's included: that
    takes longer than to read them, and finds nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
