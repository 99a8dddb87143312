"""A directory of checkpoints: its steps, the latest and the best of them, and which are good."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from odyssey_jax._checks import check_words
from odyssey_jax._direction import better
from odyssey_jax.store import _files
from odyssey_jax.store._errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSkippedWarning,
    CheckpointVersionError,
)
from odyssey_jax.store._folder import open_folder
from odyssey_jax.store._objects import as_directory
from odyssey_jax.store._retain import Mode, ranked
from odyssey_jax.store._stored_step import StoredStep

Which = Literal["latest", "best"]
Result = TypeVar("Result")


class Directory:
    """The committed steps of a directory, found again at every call: others may write there.

    What is corrupt is skipped where a step is chosen, and hides no other; what the system refuses
    for now is not.

    Args:
        directory: Where the steps are; one that does not exist holds none.
        monitor: The metric that says what is best.
        mode: ``"min"`` if a smaller metric is better, ``"max"`` if a larger one is; None is as its
            name says, such as "max" for an accuracy.

    Raises:
        ValueError: If the mode is neither, or None and the name does not say, or the directory is
            a URL of another kind than those of buckets.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        monitor: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        if mode is None:
            mode = "min" if monitor is None else better(monitor)
        check_words("mode", mode, ("min", "max"))
        self.directory = as_directory(directory)
        self._folder = open_folder(self.directory)
        self.monitor = monitor
        self.mode: Mode = mode
        self._values: dict[int, float | None] = {}
        self._skipped: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, steps={self._committed()})"

    def steps(self) -> tuple[int, ...]:
        """List the committed steps.

        Returns:
            Their numbers, ascending. The one being saved is not among them.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.steps()
            ()
        """
        return self._committed()

    def _committed(self) -> tuple[int, ...]:
        """Return the committed steps as this process sees them."""
        return self._folder.committed()

    @property
    def skipped(self) -> dict[int, str]:
        """The steps that were skipped so far for being corrupt -> what is wrong with them."""
        return dict(self._skipped)

    def latest(self, *, verify: bool = False) -> int | None:
        """Find the newest committed step.

        Args:
            verify: True to `verify` it, and to fall back to the newest one that is good, with a
                `CheckpointSkippedWarning`.

        Returns:
            Its number, or None if there is none.

        Raises:
            CheckpointCorruptError: If none is good, with ``verify``.

        Example:
            >>> import tempfile
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     print(store.latest())
            None
        """
        if verify:
            return self._good("latest")
        return max(self.steps(), default=None)

    def best(self, *, verify: bool = False) -> int | None:
        """Find the best committed step by the monitored metric.

        NaN is never best; ties go to the earlier step; one that is corrupt is left out.

        Args:
            verify: True to `verify` it, and to fall back to the best one that is good, with a
                `CheckpointSkippedWarning`.

        Returns:
            Its number, or None if no step has a value.

        Raises:
            ValueError: If there is no ``monitor``.
            CheckpointError: If the system refuses to read a step.
            CheckpointVersionError: If a step's format is newer than this library reads: it may be
                the best.
            CheckpointCorruptError: If none with a value is good, with ``verify``.

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
        return self._good("best") if verify else self._candidate("best", {})

    def _good(self, which: Which) -> int | None:
        if self._candidate(which, {}) is None and not self.steps():
            return None
        try:
            return self._pick(which, lambda step: (step, self._check(step)))[0][0]
        except CheckpointNotFoundError:
            return None

    def pinned(self) -> tuple[int, ...]:
        """List the committed steps that are pinned: kept whatever else is.

        Returns:
            Their numbers, ascending.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros(3)}, {})
            ...     store.pin(1)
            ...     store.save(2, {"w": np.zeros(3)}, {})
            ...     store.wait()
            ...     store.steps(), store.pinned()
            ((1, 2), (1,))
        """
        return tuple(sorted(self._folder.pinned().intersection(self.steps())))

    def metadata(self, step: int) -> dict[str, Any]:
        """Read what was saved with a step.

        Args:
            step: A committed step.

        Returns:
            The caller's metadata, and ``step``, ``timestamp``, ``format_version``,
            ``versions`` and ``retention``: what the store that wrote it kept, and by which
            metric.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If it cannot be read.

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
        with self._open(check_step(step)) as opened:
            return opened.metadata()

    def verify(self, step: int) -> int:
        """Read all of a step, without a target, and compare it with its checksums.

        Args:
            step: A committed step.

        Returns:
            How many bytes were compared.

        Raises:
            CheckpointNotFoundError: If the step is not committed.
            CheckpointVersionError: If its format is newer than this library reads.
            CheckpointCorruptError: If a file is missing, short or damaged; it is named.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.arange(3.0)}, {})
            ...     store.wait()
            ...     store.verify(1) > 24
            True
        """
        with self._open(check_step(step)) as opened:
            return opened.verify()

    def _check(self, step: int) -> object:
        """Raise CheckpointCorruptError if a step is."""
        return self.verify(step)

    def size(self, step: int) -> int:
        """Measure a step on the disk.

        Args:
            step: A committed step, whether it can be read or not.

        Returns:
            The bytes of its files, those that other steps have as well included: see `freed`.

        Raises:
            CheckpointNotFoundError: If the step is not committed.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            ...     store.save(1, {"w": np.zeros(1_000)}, {})
            ...     store.wait()
            ...     8_000 < store.size(1) < 16_000
            True
        """
        step = check_step(step)
        with contextlib.suppress(FileNotFoundError):  # another program deletes it meanwhile
            size = self._folder.size(step)
            if step in self.steps():
                return size
        raise self._not_found(step)

    def freed(self, steps: Iterable[int]) -> int:
        """Measure what is free again when steps are deleted.

        Args:
            steps: Committed steps.

        Returns:
            The bytes of the files that no other step has.

        Raises:
            CheckpointNotFoundError: If one of them is not committed.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from odyssey_jax.store import Store
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Store(folder, keep_last=None) as store:
            ...         for step in (1, 2):
            ...             store.save(step, {"w": np.zeros(10_000)}, {}, constant=["w"])
            ...     store.size(1) > 80_000, store.freed([1]) > 80_000, store.freed([1, 2]) > 80_000
            (True, False, True)
        """
        steps = {check_step(step) for step in steps}
        with contextlib.suppress(FileNotFoundError):  # another program deletes it meanwhile
            freed = self._folder.freed(steps)
            if steps <= set(self.steps()):
                return freed
        raise self._not_found(min(steps.difference(self.steps()), default=min(steps)))

    def _pick(
        self, step: int | Which, attempt: Callable[[int], Result]
    ) -> tuple[Result, dict[int, str]]:
        """Try the newest or the best step, then the next if it is corrupt, and so on.

        A step that was named is the only one to try.
        """
        if step not in ("latest", "best"):
            return attempt(check_step(step)), {}
        skipped: dict[int, str] = {}
        while (found := self._candidate(step, skipped)) is not None:
            try:
                result = attempt(found)
            except CheckpointNotFoundError:
                if found in self._committed():
                    raise
                continue  # another program deleted it meanwhile
            except CheckpointCorruptError as error:
                skipped[found] = error.reason
                continue
            if skipped:
                self._skipped |= skipped
                warnings.warn(
                    f"in {str(self.directory)!r} step {found} is taken, and not the {step}, since "
                    f"{_listed(skipped)}",
                    CheckpointSkippedWarning,
                    stacklevel=3,
                )
            return result, skipped
        raise self._none_good(step, skipped)

    def _candidate(self, which: Which, skipped: dict[int, str]) -> int | None:
        """Return the newest or the best step of those not skipped; skip those without metadata."""
        steps = [step for step in self._committed() if step not in skipped]
        if which == "latest":
            return max(steps, default=None)
        if self.monitor is None:
            raise ValueError(
                f"best needs a monitor; give {type(self).__name__}(..., monitor='valid/loss')."
            )
        values, unreadable = self._read_values(steps)
        for step, error in unreadable.items():
            if not isinstance(error, CheckpointCorruptError):
                raise error  # it is not damaged, and may be the best
            skipped[step] = _reason(error)
        return next(iter(ranked(values, self.mode)), None)

    def _read_values(
        self, steps: Iterable[int]
    ) -> tuple[dict[int, float | None], dict[int, CheckpointError]]:
        """Return the monitored values, and why others cannot be read, which hides no step."""
        values: dict[int, float | None] = {}
        unreadable: dict[int, CheckpointError] = {}
        for step in steps:
            try:
                values[step] = self._value(step)
            except CheckpointNotFoundError:  # another program deleted it meanwhile
                continue
            except CheckpointError as error:
                unreadable[step] = error
        return values, unreadable

    def _value(self, step: int) -> float | None:
        if step not in self._values:
            metrics = self.metadata(step).get("metrics", {})
            self._values[step] = as_number(metrics.get(self.monitor))
        return self._values[step]

    def _none_good(self, which: Which, skipped: Mapping[int, str]) -> CheckpointError:
        if skipped:
            return CheckpointCorruptError(
                f"no checkpoint in {str(self.directory)!r} can be taken as the {which}: "
                f"{_listed(skipped)}"
            )
        if not self._committed():
            return CheckpointNotFoundError(
                f"there is no checkpoint in {str(self.directory)!r}; save one first, or check "
                "the directory"
            )
        return CheckpointNotFoundError(
            f"no checkpoint in {str(self.directory)!r} has a value of {self.monitor!r}; "
            f"committed are {list(self._committed())}"
        )

    @contextlib.contextmanager
    def _open(self, step: int) -> Iterator[StoredStep]:
        """Open a step; what is wrong with it is one error that says what and where.

        What is wrong elsewhere, such as a device without memory, is raised as it is.
        """
        if step not in self._committed():
            raise self._not_found(step)
        try:
            self._folder.fetch(step)
            fetch = functools.partial(self._folder.fetch_files, step)
            yield StoredStep(self._folder.path / str(step), self._name(step), fetch)
        except CheckpointVersionError:
            raise
        except Exception as error:
            if step not in self._committed():  # another program deleted it meanwhile
                raise self._not_found(step) from error
            why = _reason(error) if isinstance(error, CheckpointError) else self._why(error)
            message = f"{self._name(step)} cannot be read: {why}"
            # It says nothing of the checkpoint: to fall back to an older one would give it up.
            if _files.errno_of(error) in _files.REFUSALS:
                raise CheckpointError(message) from error
            if isinstance(error, CheckpointCorruptError | OSError):
                self._folder.forget(step)
                raise CheckpointCorruptError(message, why) from error
            if isinstance(error, CheckpointError):
                raise CheckpointError(message) from error
            error.add_note(f"while {self._name(step)} was read")
            raise

    def _why(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.filename:
            return f"{os.path.relpath(error.filename, self._folder.path)}: {_files.reason(error)}"
        return _files.reason(error)

    def _not_found(self, step: int) -> CheckpointNotFoundError:
        odd = self._folder.why_no_step(step)
        return CheckpointNotFoundError(
            f"no step {step} in {str(self.directory)!r}; committed are {list(self._committed())}"
            f"{f'; {odd}' if odd else ''}"
        )

    def _name(self, step: int) -> str:
        return f"checkpoint of step {step} in {str(self.directory)!r}"


def _listed(skipped: Mapping[int, str]) -> str:
    return "; ".join(f"step {step} cannot be read: {why}" for step, why in skipped.items())


def _reason(error: CheckpointError) -> str:
    return error.reason if isinstance(error, CheckpointCorruptError) else str(error)


def check_step(step: Any) -> int:
    """Return a step as an int; raise ValueError unless it is a number of at least 0."""
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(step, bool):
        raise ValueError(
            f"step must be an integer of at least 0, or, to read, 'latest' or 'best', got {step!r}."
        )
    return number


def as_number(value: Any) -> float | None:
    """Return a monitored value as a float; None where it is missing, NaN or no number."""
    try:
        return float(value) if isinstance(value, int | float) and value == value else None
    except OverflowError:  # an integer beyond all floats
        return math.copysign(math.inf, value)
