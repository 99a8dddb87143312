"""Reading a store's directory: what is committed, which is best, and what a step holds."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from odyssey_jax.store import _files
from odyssey_jax.store._compare import Report, mismatch
from odyssey_jax.store._encode import decode
from odyssey_jax.store._errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
)
from odyssey_jax.store._format import check_version
from odyssey_jax.store._layout import Layout, Place, from_json
from odyssey_jax.store._leaves import flatten
from odyssey_jax.store._paths import tail
from odyssey_jax.store._place import blank, keep, loose_shardings, place_all
from odyssey_jax.store._retain import Mode, ranked
from odyssey_jax.store._structure import build, find, numbers_in
from odyssey_jax.store._transfer import Transfer, assign


class Restored(NamedTuple):
    """What `Reader.restore` returns.

    Attributes:
        step: The step that was restored.
        tree: A pytree with the target's structure.
        metadata: What was saved with it, and what the store added.
        report: What was restored, and what a transfer renamed, initialized and ignored.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]
    report: Report


class Reader:
    """A directory of checkpoints, read and never changed.

    It makes no directory, sweeps nothing and holds no lock, so that it may look on while a
    `Store` in another program writes there.

    Args:
        directory: Where the steps are; one that does not exist holds none.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is.

    Raises:
        CheckpointError: An argument makes no sense.

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

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        monitor: str | None = None,
        mode: Mode = "min",
    ) -> None:
        if mode not in ("min", "max"):
            raise CheckpointError(f"mode must be 'min' or 'max', got {mode!r}")
        self.directory = Path(os.path.abspath(directory))
        self.monitor = monitor
        self.mode: Mode = mode
        self._values: dict[int, float | None] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, steps={self.steps()})"

    def steps(self) -> tuple[int, ...]:
        """Lists the committed steps.

        Returns:
            Their numbers, ascending. The one being saved is not among them.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.steps()
            ()
        """
        return _files.committed_steps(self.directory)

    def latest(self) -> int | None:
        """Finds the newest committed step.

        Returns:
            Its number, or None if there is none.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     print(store.latest())
            None
        """
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Finds the best committed step by the monitored metric.

        NaN is never best; ties go to the earlier step.

        Returns:
            Its number, or None if no step has a value.

        Raises:
            CheckpointError: The store has no ``monitor``.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Store(folder, keep_last=None, monitor="loss") as store:
            ...         for step, loss in enumerate([0.5, 0.2, float("nan")]):
            ...             store.save(step, {"w": np.zeros(3)}, {"metrics": {"loss": loss}})
            ...         store.wait()
            ...         store.best()
            1
        """
        if self.monitor is None:
            raise CheckpointError(
                f"best needs a monitor; give {type(self).__name__}(..., monitor='valid/loss')"
            )
        values = {step: self._value(step) for step in self.steps() if self._readable(step)}
        return next(iter(ranked(values, self.mode)), None)

    def _readable(self, step: int) -> bool:
        try:
            self._value(step)
        except CheckpointError:
            return False
        return True

    def _value(self, step: int) -> float | None:
        if step not in self._values:
            metrics = self.metadata(step).get("metrics", {})
            self._values[step] = as_number(metrics.get(self.monitor))
        return self._values[step]

    def metadata(self, step: int) -> dict[str, Any]:
        """Reads what was saved with a step.

        Args:
            step: A committed step.

        Returns:
            The caller's metadata, and ``step``, ``timestamp``, ``format_version``,
            ``versions`` and ``retention``: what the store that wrote it kept, and by which
            metric.

        Raises:
            CheckpointNotFoundError: The step is not committed.
            CheckpointVersionError: Its format is newer than this library reads.
            CheckpointCorruptError: It cannot be read.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Store(folder, clock=lambda: 12.5) as store:
            ...         store.save(3, {"w": np.zeros(3)}, {"epoch": 2})
            ...         store.wait()
            ...         found = store.metadata(3)
            >>> found["epoch"], found["timestamp"]
            (2, 12.5)
        """
        data = self._json(step, "metadata")
        check_version(data, self._name(step))
        return decode(data)

    def _json(self, step: int, item: str) -> dict[str, Any]:
        if step not in self.steps():
            raise CheckpointNotFoundError(
                f"no step {step} in {str(self.directory)!r}; committed are {list(self.steps())}"
            )
        file = self.directory / str(step) / item / "metadata"
        try:
            data = json.loads(file.read_text())
            if not isinstance(data, dict):
                raise ValueError(f"expected an object, found {type(data).__name__}")
        except (OSError, ValueError) as error:
            raise CheckpointCorruptError(
                f"{self._name(step)} cannot be read: {file}: {_files.reason(error)}"
            ) from error
        return data

    def _name(self, step: int) -> str:
        return f"checkpoint of step {step} in {str(self.directory)!r}"

    def restore(
        self,
        target: Any,
        step: int | Literal["latest", "best"] = "latest",
        *,
        transfer: Transfer | None = None,
        subtree: str = "",
    ) -> Restored:
        """Restores a pytree.

        Strict: every leaf of the target must be in the checkpoint at the same path, with
        the same shape and dtype, and the other way round. A transfer says where not.

        Args:
            target: A pytree like the one that was saved, of arrays or
                `jax.ShapeDtypeStruct`; its arrays are not changed.
            step: A committed step, or ``"latest"``, or ``"best"`` by the monitored metric.
            transfer: What is renamed, initialized and ignored, for a target that differs on
                purpose.
            subtree: The node of the saved tree that the target is like: its keys with ``/``
                between them, such as ``"state/params"``. Empty for the whole tree.

        Returns:
            The step, a tree with the target's structure and each leaf with the sharding of
            the target's, if it has one, the metadata, and a report. The arrays may be
            donated.

        Raises:
            CheckpointNotFoundError: There is no such step.
            CheckpointMismatchError: The target differs; the message lists the leaves.
            CheckpointVersionError: Its format is newer than this library reads.
            CheckpointCorruptError: It cannot be read.
            CheckpointError: There is no such subtree, or the transfer names what is not there.

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
        step = self._find(step)
        metadata = self.metadata(step)
        layout = self._layout(step)
        depth, node = find(layout.tree, subtree)
        below = [layout.places[number] for number in numbers_in(node)]
        by_path = {tail(place.path, depth): place for place in below}
        saved = [place.leaf._replace(path=path) for path, place in by_path.items()]
        leaves, targets, structure = flatten(target)
        sources, report = assign(saved, leaves, transfer)
        if not report.exact:
            raise mismatch(report, self._name(step))
        own = {i: keep(leaves[i], targets[i]) for i, path in enumerate(sources) if path is None}
        places = {i: by_path[path] for i, path in enumerate(sources) if path is not None}
        read = self._read(step, layout, list(places.values()), [targets[i] for i in places])
        results = own | dict(zip(places, read, strict=True))
        tree = jax.tree_util.tree_unflatten(structure, [results[i] for i in range(len(leaves))])
        return Restored(step, tree, metadata, report)

    def load(
        self, step: int | Literal["latest", "best"] = "latest", *, subtree: str = ""
    ) -> Restored:
        """Reads a pytree without a target: neither the model's code nor an optimizer is needed.

        Args:
            step: A committed step, or ``"latest"``, or ``"best"`` by the monitored metric.
            subtree: The node to read: its keys with ``/`` between them, such as
                ``"state/params"``. Empty for the whole tree.

        Returns:
            The step, the tree, the metadata, and a report of what was read. Dictionaries,
            lists, tuples and None are as they were; a NamedTuple, a dataclass or another
            node is a dictionary of its fields. Arrays are numpy's, of the dtype that was
            saved; typed keys are jax's.

        Raises:
            CheckpointNotFoundError: There is no such step.
            CheckpointVersionError: Its format is newer than this library reads.
            CheckpointCorruptError: It cannot be read.
            CheckpointError: There is no such subtree.

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
        step = self._find(step)
        metadata = self.metadata(step)
        layout = self._layout(step)
        depth, node = find(layout.tree, subtree)
        numbers = numbers_in(node)
        places = [layout.places[number] for number in numbers]
        leaves = self._read(step, layout, places, [blank(place) for place in places])
        tree = build(node, dict(zip(numbers, leaves, strict=True)))
        report = Report(matched=tuple(tail(place.path, depth) for place in places))
        return Restored(step, tree, metadata, report)

    def _read(
        self, step: int, layout: Layout, places: Sequence[Place], targets: Sequence[Any]
    ) -> list[Any]:
        """Reads leaves like the targets: the one way to a checkpoint's arrays."""
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        used = {place.array for place in places}
        packs = [name for name in layout.packs if name in used]
        try:
            packed, loose = _orbax.read(
                self.directory / str(step), packs, loose_shardings(places, targets)
            )
        except Exception as error:
            raise CheckpointCorruptError(
                f"{self._name(step)} cannot be read: {_files.reason(error)}"
            ) from error
        return place_all(layout, places, targets, packed, loose)

    def _layout(self, step: int) -> Layout:
        data = self._json(step, "layout")
        try:
            return from_json(data)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointCorruptError(
                f"{self._name(step)} has a layout that makes no sense: {_files.reason(error)}"
            ) from error

    def _find(self, step: int | Literal["latest", "best"]) -> int:
        if step not in ("latest", "best"):
            return check_step(step)
        found = self.latest() if step == "latest" else self.best()
        if found is None and self.latest() is None:
            raise CheckpointNotFoundError(
                f"there is no checkpoint in {str(self.directory)!r}; save one first, or check "
                "the directory"
            )
        if found is None:
            raise CheckpointNotFoundError(
                f"no checkpoint in {str(self.directory)!r} has a value of {self.monitor!r}; "
                f"committed are {list(self.steps())}"
            )
        return found


def check_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(step, bool):
        raise CheckpointError(f"a step is an integer of at least 0, got {step!r}")
    return number


def as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None
