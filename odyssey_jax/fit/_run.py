"""The shell without the loop: signals, cadence, history, writers and checkpoints of one's own."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import jax

from odyssey_jax._checks import check_count, check_kind
from odyssey_jax._types import PyTree, StopReason
from odyssey_jax.callbacks import Checkpoint, checkpoint
from odyssey_jax.data import Calendar
from odyssey_jax.fit._copied_logs import with_logs
from odyssey_jax.fit._hooks import as_number
from odyssey_jax.fit._interrupt import Interrupt, MaxTime, in_seconds
from odyssey_jax.fit._plan import as_writers
from odyssey_jax.fit._reports import close_writer
from odyssey_jax.fit._saving import Cadence
from odyssey_jax.parallel import greatest, is_first
from odyssey_jax.store import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    Store,
    as_directory,
)
from odyssey_jax.writers import JsonLines, Live, RunInfo, Writer

_CALENDAR = Calendar(epoch=1, data_pass=1, full=1, block=1)  # a loop of one's own has steps alone


class Run:
    """Give a loop of your own what `fit` has around its own: everything but the loop.

    A context. Within it the first Ctrl-C, SIGTERM or SIGHUP, or the end of `max_time`, ends
    `steps` after the running step; the state is then saved, the writers are closed, and the
    signal takes its effect. A second one acts at once. An exception saves the state too, if it is
    still there: a step that donates it may have taken it along.

    Args:
        directory: Where checkpoints and `metrics.jsonl` go, a path or the URL of a
            bucket (`gs://`, `s3://`); None keeps nothing.
        checkpoint: When to save and what to keep, from `checkpoint`; in steps or seconds. None
            saves by time, as `fit` does. Of the best by a metric are those kept that were saved.
        resume: "latest", to go on from the newest checkpoint, or False, to begin again.
        writers: Where the rows go; None is `metrics.jsonl` where there is a directory.
        config: What else to record in the checkpoints' metadata; JSON.
        max_time: The longest that the context may take: seconds, or a `datetime.timedelta`.
        constant: Nodes of the state that no step changes, such as "params/base": they are saved
            once, as `Store.save` says.

    Attributes:
        step: Train steps done.
        rows: The history: of each step that was logged "epoch" (the row's number), "step" (the
            steps then done) and its metrics.
        stop_reason: Why it ended before its last step; `StopReason.NONE` if it did not.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of its range, or does not go with another.

    Example:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, odyssey_jax as ody
        >>> train_step = jax.jit(lambda w: (w - 0.2 * (w - 1), (w - 1) ** 2))
        >>> def train(directory, steps):
        ...     with ody.Run(directory) as run:
        ...         w = run.restore(jnp.zeros(()))
        ...         for step in run.steps(steps):
        ...             w, loss = train_step(w)
        ...             run.log(step, {"train/loss": loss})
        ...             run.save_if_due(w)
        ...     return [round(row["train/loss"], 2) for row in run.rows]
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     print(train(directory, 2), train(directory, 4))
        [1.0, 0.64] [1.0, 0.64, 0.41, 0.26]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        resume: Literal["latest", False] = "latest",
        writers: Sequence[Writer] | None = None,
        config: Mapping[str, Any] | None = None,
        max_time: MaxTime | None = None,
        constant: Sequence[str] = (),
    ):
        self._directory = None if directory is None else as_directory(directory)
        self._saving = _as_saving(checkpoint, self._directory)
        if resume not in ("latest", False):
            raise ValueError(f"resume must be 'latest' or False, got {resume!r}.")
        if writers is None:
            writers = [] if directory is None else [JsonLines()]
        self._writers = as_writers(writers)
        self._resume, self._config = resume, dict(config or {})
        constant = [constant] if isinstance(constant, str) else constant
        if constant and directory is None:
            raise ValueError(f"constant={constant!r} needs a directory: pass Run(directory).")
        self._constant = [f"state/{name}" for name in constant]
        self._seconds = None if max_time is None else in_seconds(max_time)
        self.step, self.rows = 0, list[dict[str, Any]]()
        self._stack = contextlib.ExitStack()
        self._interrupt: Interrupt | None = None
        self._store: Store | None = None
        self._cadence: Cadence | None = None
        self._latest: tuple[int, PyTree] | None = None
        self._restored = False
        self._saved_step = self._written = self._begun_at = 0
        self._begun = time.monotonic()

    @property
    def stop_reason(self) -> StopReason:
        """Why the run ended before its last step."""
        return StopReason.NONE if self._interrupt is None else self._interrupt.reason

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._directory is not None:
                how = self._saving.retention.for_store(1)
                how["on_failed_save"] = self._saving.on_failed_save
                store = Store(self._directory / "checkpoints", **how)
                self._store = stack.enter_context(store)
                store.acquire()
                if self._resume is False:  # once something of the new run is committed
                    store.give_up(store.steps())
            self._interrupt = stack.enter_context(Interrupt(self._seconds))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupt = self._entered()
        self._stack.__exit__(kind, error, traceback)
        if error is None:
            interrupt.pass_on()
            if interrupt.by_ctrl_c:
                raise KeyboardInterrupt(f"the run ended at step {self.step:,}")

    def restore(self, state: PyTree) -> PyTree:
        """Return the state to begin with: that of the newest checkpoint, or else the one given.

        Args:
            state: Any pytree of arrays. A Python number, such as `step` of a new `TrainState` of
                Flax's, stands for the array that a train step makes of it.

        Returns:
            A state of the same form.

        Raises:
            RuntimeError: If the steps have begun.
            CheckpointError: If the directory holds a run of another kind.
        """
        self._entered()
        if self._cadence is not None:
            raise RuntimeError("restore comes before the steps, which have begun.")
        self._restored = True
        if self._store is None or self._resume is False:
            return state
        try:
            restored = self._store.restore({"state": state})
        except CheckpointNotFoundError:
            return state
        except CheckpointMismatchError as error:
            restored = self._store.restore(_as_saved({"state": state}, error))
        if "rows" not in restored.metadata:
            raise CheckpointError(
                f"{self._directory} holds a run that is not of `Run`: choose another directory."
            )
        self.step = self._saved_step = restored.step
        self.rows = list(restored.metadata["rows"])
        return restored.tree["state"]

    def steps(self, steps: int) -> Iterator[int]:
        """Yield the train steps that are still to be done.

        Args:
            steps: After how many the run is complete, those of earlier calls counted.

        Raises:
            RuntimeError: If the directory holds a run that was not restored.

        Yields:
            The index of the step, from `step` on, until they are done or the run is interrupted.
        """
        last = check_count("steps", steps, 1)
        interrupt = self._entered()
        if self._cadence is None:
            self._open(last)
        while self.step < last:
            interrupt.agree(1)
            if interrupt.reason is not StopReason.NONE:
                return
            yield self.step
            self.step += 1
            self._write()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log metrics of the running step; several calls in a step make one row.

        Args:
            step: The running step.
            metrics: Name to real scalar. What is on the device is waited for.

        Raises:
            ValueError: If it is another step, or a metric is no real scalar.
        """
        self._stepping("log")
        if step != self.step:
            raise ValueError(f"log takes the running step, {self.step}, got step={step!r}.")
        done = step + 1
        if not (self.rows and self.rows[-1]["step"] == done):
            self.rows.append({"epoch": len(self.rows), "step": done})
        for name, value in jax.device_get(dict(metrics)).items():
            if (number := as_number(value)) is None:
                raise ValueError(f"metrics must be real scalars, got {name}={value!r}.")
            self.rows[-1][name] = number

    def save_if_due(self, state: PyTree) -> bool:
        """Save the state after the running step, if that is due; call it in every step.

        Args:
            state: The pytree, which may be donated to the next step.

        Returns:
            Whether it was saved.
        """
        cadence, store = self._stepping("save_if_due"), self._store
        done = self.step + 1
        self._latest = done, state
        if store is None:
            return False
        store.check_for_errors()
        (due,) = greatest(cadence.due(done, store.save_seconds), what="Run")
        if due:
            self._save(done, state)
            cadence.saved()
        return bool(due)

    def _entered(self) -> Interrupt:
        if self._interrupt is None:
            raise RuntimeError("a Run is a context: use it as `with ody.Run(...) as run:`.")
        return self._interrupt

    def _stepping(self, what: str) -> Cadence:
        self._entered()
        if self._cadence is None:
            raise RuntimeError(f"{what} is for the steps: `for step in run.steps(n): ...`.")
        return self._cadence

    def _open(self, last: int) -> None:
        if self._resume and not self._restored and self._store is not None and self._store.steps():
            raise RuntimeError(
                f"{self._directory} holds a run, at step {self._store.steps()[-1]:,}: go on from "
                "it by state = run.restore(state), before the steps, or begin again with "
                "Run(resume=False)."
            )
        self._cadence = Cadence(self._saving, _CALENDAR, self.step)
        self._written, self._begun_at = len(self.rows), self.step
        self._begun = time.monotonic()
        writers = self._writers if is_first() else []
        folder, self._writers = with_logs(self._directory, writers)
        info = RunInfo(folder, last, list(self.rows), (), self.step, self._config, 1)
        for writer in self._writers:
            self._stack.push(lambda kind, error, _, writer=writer: close_writer(writer, error))
            writer.open(info)
        self._stack.push(lambda kind, error, _: self._finish(error))

    def _write(self) -> None:
        rows, self._written = self.rows[self._written :], len(self.rows)
        speed = (self.step - self._begun_at) / max(time.monotonic() - self._begun, 1e-9)
        for writer in self._writers:
            if rows:
                writer.write(rows, Live(self.step, speed))

    def _save(self, step: int, state: PyTree) -> None:
        if self._store is None:
            return
        self._saved_step = step
        last = self.rows[-1] if self.rows and self.rows[-1]["step"] == step else {}
        metadata = {
            "metrics": {name: x for name, x in last.items() if name not in ("epoch", "step")},
            "rows": self.rows,
            "config": self._config,
            "stop_reason": self.stop_reason.name,
        }
        self._store.save(step, {"state": state}, metadata, constant=self._constant)

    def _finish(self, error: BaseException | None) -> None:
        if error is None:
            self._write()
        if self._latest is not None and self._saved_step != self._latest[0]:
            step, state = self._latest
            if error is None or not _is_deleted(state):
                self._save(step, state)


# The dtypes of the arrays that a step makes of a Python number.
_ARRAYS = {int: re.compile(r"u?int\d"), float: re.compile(r"b?float\d")}


def _as_saved(target: PyTree, error: CheckpointMismatchError) -> PyTree:
    """Describe Python numbers as the scalar arrays that were saved; raise the error if none is."""
    changed = 0

    def one(path: Any, leaf: Any) -> Any:
        nonlocal changed
        saved, _ = error.dtype.get(jax.tree_util.keystr(path), ("", ""))
        kind = _ARRAYS.get(type(leaf))
        if kind is None or not kind.match(saved):
            return leaf
        changed += 1
        return jax.ShapeDtypeStruct((), saved)

    target = jax.tree_util.tree_map_with_path(one, target)
    if not changed:
        raise error
    return target


def _as_saving(given: Any, directory: Any) -> Checkpoint:
    if given is None:
        return checkpoint()
    check_kind("checkpoint", given, Checkpoint, "checkpoint(every(steps=1_000))")
    if directory is None:
        raise ValueError(f"{given!r} needs a directory to save to: pass Run(directory).")
    others = set() if given.when is None else given.condition.units - {"steps", "seconds"}
    if others or given.retention.keep_every_epochs is not None:
        raise ValueError(f"a Run counts steps and seconds, and no epochs or examples: {given!r}.")
    return given


def _is_deleted(state: PyTree) -> bool:
    arrays = (x for x in jax.tree.leaves(state) if isinstance(x, jax.Array))
    return any(x.is_deleted() for x in arrays)
