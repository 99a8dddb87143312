"""The store: saves in the background, restores, and keeps what is to be kept."""

from __future__ import annotations

import json
import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import jax
import numpy as np

from odyssey_jax.store import _files
from odyssey_jax.store._background import Background
from odyssey_jax.store._compare import compare, mismatch
from odyssey_jax.store._encode import decode, dumps
from odyssey_jax.store._errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
)
from odyssey_jax.store._format import check_version, header
from odyssey_jax.store._layout import Layout, from_json, plan, to_json
from odyssey_jax.store._leaves import flatten
from odyssey_jax.store._place import loose_shardings, place_all
from odyssey_jax.store._retain import Mode, ranked, retain
from odyssey_jax.store._snapshot import Snapshot, sources, take


class Restored(NamedTuple):
    """What `Store.restore` returns.

    Attributes:
        step: The step that was restored.
        tree: A pytree with the target's structure.
        metadata: What was saved with it, and what the store added.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]


class Store:
    """A directory of checkpoints, written in the background through Orbax.

    A step is committed by one rename, when all of it is on the disk, so whatever happens
    during a save, what had been committed stays. Old steps are deleted only after a newer
    one is committed. One program at a time should write to a directory; any number may
    read it.

    Args:
        directory: Where the steps are; made if it does not exist.
        keep_last: How many of the newest steps to keep, at least 1; None keeps all.
        keep_best: How many of the best steps by ``monitor`` to keep beside those.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is.
        clock: Returns the time in seconds since the epoch, for the metadata.

    Raises:
        CheckpointError: An argument makes no sense, or the directory is a file.
        CheckpointWriteError: The directory cannot be made.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as folder, Store(folder, keep_last=2) as store:
        ...     for step in (1, 2, 3):
        ...         store.save(step, {"w": jnp.full(3, step)}, {"metrics": {"loss": 1 / step}})
        ...     store.wait()
        ...     restored = store.restore({"w": jnp.zeros(3, int)})
        ...     print(store.steps(), restored.step, restored.tree["w"])
        (2, 3) 3 [3 3 3]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int | None = 1,
        keep_best: int = 0,
        monitor: str | None = None,
        mode: Mode = "min",
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_policy(keep_last, keep_best, monitor, mode)
        if jax.process_count() > 1:
            raise CheckpointError(
                f"the store cannot save from several processes yet, and this program runs on "
                f"{jax.process_count()}"
            )
        self.directory = Path(os.path.abspath(directory))
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.monitor = monitor
        self.mode: Mode = mode
        self._clock = clock
        self._values: dict[int, float | None] = {}
        self._staging: dict[str, np.ndarray] = {}
        self._background = Background(f"odyssey_jax store {self.directory}")
        self._closed = False
        _files.make_directory(self.directory)
        _files.sweep(self.directory)
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        self._writer = _orbax.Writer(self.directory)
        self._read = _orbax.read

    def __repr__(self) -> str:
        return f"Store({str(self.directory)!r}, steps={self.steps()})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except CheckpointError as failure:  # must not hide what went wrong first
            error.add_note(f"and while closing the store: {failure}")

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any]) -> None:
        """Saves a pytree in the background.

        On return the arrays may be donated or changed: they have been copied. If the save
        before is still going on, this waits for it first.

        Args:
            step: Its number, at least 0, not committed so far.
            tree: Any pytree of jax and numpy arrays (any numeric dtype, typed keys, sharded
                or not, any size) and Python numbers and strings.
            metadata: What to keep with it, in values that JSON has, or numpy and jax
                scalars. ``metadata["metrics"]`` maps names to numbers. The store adds
                ``step``, ``timestamp`` (seconds), ``format_version`` and ``versions``.

        Raises:
            CheckpointWriteError: The save before failed; this one is not begun.
            CheckpointError: The step is committed already, the tree or the metadata hold
                what cannot be stored, or the metrics lack the monitored one.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(7, {"w": np.zeros(3)}, {"epoch": 1, "metrics": {"loss": 0.5}})
            ...     store.wait()
            ...     store.latest()
            7
        """
        self.wait()
        if self._closed:
            raise CheckpointError(f"the store of {str(self.directory)!r} is closed")
        step = _check_step(step)
        if step in self.steps():
            raise CheckpointError(
                f"step {step} is already in {str(self.directory)!r}; forget([{step}]) first to "
                "replace it"
            )
        head = header(step, self._clock(), metadata)
        dumps(head)
        value = self._monitored(head)
        leaves, values, _ = flatten(tree)
        described, data = sources(leaves, values)
        layout = plan(described)
        snapshot = take(layout, data, self._staging)
        self._background.start(
            lambda: self._commit(step, head, value, layout, snapshot),
            afterwards=lambda: _files.sweep(self.directory),
        )

    def _monitored(self, head: Mapping[str, Any]) -> float | None:
        metrics = decode(head.get("metrics", {}))
        if self.monitor is None or not metrics:
            return None
        if self.monitor not in metrics:
            raise CheckpointError(
                f"the monitored metric {self.monitor!r} is not among the metrics of step "
                f"{head['step']}: {sorted(metrics)}"
            )
        return _number(metrics[self.monitor])

    def _commit(
        self,
        step: int,
        head: Mapping[str, Any],
        value: float | None,
        layout: Layout,
        snapshot: Snapshot,
    ) -> None:
        what = f"checkpoint of step {step} was not written to {str(self.directory)!r}"
        try:
            with _files.writing(self.directory):
                self._writer.write(
                    step,
                    head,
                    layout,
                    to_json(layout),
                    snapshot.on_host(layout),
                    snapshot.loose,
                )
            self._values[step] = value
            what = f"after step {step} old checkpoints were not deleted in {str(self.directory)!r}"
            self._delete_old()
        except Exception as error:
            failure = CheckpointWriteError(f"{what}: {_files.reason(error)}")
            failure.errno = _files.errno_of(error)
            raise failure from error

    def _delete_old(self) -> None:
        # What cannot be read is not ours to delete: it may be of a newer format.
        values = {step: self._value(step) for step in self.steps() if self._readable(step)}
        if old := values.keys() - retain(values, self.keep_last, self.keep_best, self.mode):
            _files.remove(self.directory, sorted(old))

    def wait(self) -> None:
        """Waits until the save that is going on is committed.

        Raises:
            CheckpointWriteError: It failed. It is raised once, by whichever of `save`,
                `wait` and `close` is called first; the store can be used afterwards.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.wait()
        """
        self._background.wait()
        if (failure := self._background.take_failure()) is not None:
            raise failure

    def close(self) -> None:
        """Waits, and frees the store's memory; nothing can be saved afterwards.

        Raises:
            CheckpointWriteError: The last save failed.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Store(folder).close()
        """
        try:
            self.wait()
        finally:
            self._background.join()
            self._staging.clear()
            if not self._closed:
                self._closed = True
                self._writer.close()

    def steps(self) -> tuple[int, ...]:
        """Lists the committed steps.

        Returns:
            Their numbers, ascending. The one being saved is not among them.

        Example:
            >>> import tempfile
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
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Store(folder, keep_last=None, monitor="loss") as store:
            ...         for step, loss in enumerate([0.5, 0.2, float("nan")]):
            ...             store.save(step, {"w": np.zeros(3)}, {"metrics": {"loss": loss}})
            ...         store.wait()
            ...         store.best()
            1
        """
        if self.monitor is None:
            raise CheckpointError("best needs a monitor; give Store(..., monitor='valid/loss')")
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
            self._values[step] = _number(metrics.get(self.monitor))
        return self._values[step]

    def metadata(self, step: int) -> dict[str, Any]:
        """Reads what was saved with a step.

        Args:
            step: A committed step.

        Returns:
            The caller's metadata, and ``step``, ``timestamp``, ``format_version`` and
            ``versions``.

        Raises:
            CheckpointNotFoundError: The step is not committed.
            CheckpointVersionError: Its format is newer than this library reads.
            CheckpointCorruptError: It cannot be read.

        Example:
            >>> import tempfile
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

    def restore(self, target: Any, step: int | Literal["latest", "best"] = "latest") -> Restored:
        """Restores a pytree.

        Strict: every leaf of the target must be in the checkpoint at the same path, with
        the same shape and dtype, and the other way round.

        Args:
            target: A pytree like the one that was saved, of arrays or
                `jax.ShapeDtypeStruct`; its arrays are not changed.
            step: A committed step, or ``"latest"``, or ``"best"`` by the monitored metric.

        Returns:
            The step, a tree with the target's structure and each leaf with the sharding of
            the target's, if it has one, and the metadata. The arrays may be donated.

        Raises:
            CheckpointNotFoundError: There is no such step.
            CheckpointMismatchError: The target differs; the message lists the leaves.
            CheckpointVersionError: Its format is newer than this library reads.
            CheckpointCorruptError: It cannot be read.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.arange(3.0)}, {})
            ...     store.wait()
            ...     store.restore({"w": np.zeros(3)}).tree["w"]
            array([0., 1., 2.])
        """
        self._background.wait()
        step = self._find(step)
        metadata = self.metadata(step)
        layout = self._layout(step)
        leaves, targets, structure = flatten(target)
        report = compare((place.leaf for place in layout.places), leaves)
        if not report.exact:
            raise mismatch(report, self._name(step))
        by_path = {place.path: place for place in layout.places}
        places = [by_path[leaf.path] for leaf in leaves]
        try:
            packed, loose = self._read(
                self.directory / str(step), list(layout.packs), loose_shardings(places, targets)
            )
        except Exception as error:
            raise CheckpointCorruptError(
                f"{self._name(step)} cannot be read: {_files.reason(error)}"
            ) from error
        results = place_all(layout, places, targets, packed, loose)
        return Restored(step, jax.tree_util.tree_unflatten(structure, results), metadata)

    def _layout(self, step: int) -> Layout:
        data = self._json(step, "layout")
        try:
            return from_json(data)
        except (KeyError, TypeError) as error:
            raise CheckpointCorruptError(
                f"{self._name(step)} has a layout that makes no sense: {_files.reason(error)}"
            ) from error

    def _find(self, step: int | Literal["latest", "best"]) -> int:
        if step not in ("latest", "best"):
            return _check_step(step)
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

    def forget(self, steps: Iterable[int]) -> None:
        """Deletes steps.

        Args:
            steps: Committed steps.

        Raises:
            CheckpointNotFoundError: One of them is not committed; none is deleted then.
            CheckpointWriteError: One could not be deleted.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.arange(3.0)}, {})
            ...     store.wait()
            ...     store.forget([1])
            ...     store.steps()
            ()
        """
        self._background.join()
        doomed = {_check_step(step) for step in steps}
        if unknown := sorted(doomed - set(self.steps())):
            raise CheckpointNotFoundError(
                f"no steps {unknown} in {str(self.directory)!r}; committed are {list(self.steps())}"
            )
        try:
            _files.remove(self.directory, sorted(doomed))
        except OSError as error:
            raise CheckpointWriteError(
                f"steps {sorted(doomed)} in {str(self.directory)!r} were not deleted: "
                f"{_files.reason(error)}"
            ) from error
        for step in doomed:
            self._values.pop(step, None)
        _files.sweep(self.directory)


def _check_policy(keep_last: int | None, keep_best: int, monitor: str | None, mode: str) -> None:
    if keep_last is not None and keep_last < 1:
        raise CheckpointError(f"keep_last must be at least 1, or None for all, got {keep_last}")
    if keep_best < 0:
        raise CheckpointError(f"keep_best must be at least 0, got {keep_best}")
    if keep_best and monitor is None:
        raise CheckpointError(
            f"keep_best = {keep_best} needs a monitor, the name of a metric such as 'valid/loss'"
        )
    if mode not in ("min", "max"):
        raise CheckpointError(f"mode must be 'min' or 'max', got {mode!r}")


def _check_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(step, bool):
        raise CheckpointError(f"a step is an integer of at least 0, got {step!r}")
    return number


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None
