"""The protocol between the compiled side and the shell: all that either knows of the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from odyssey_jax._types import PyTree, TrainState
from odyssey_jax.callbacks import Tracked
from odyssey_jax.data import Calendar
from odyssey_jax.train._evaluation import Cadences

Carry = Any
"""A run as the shell sees it: a pytree that it hands on, saves and copies, and never opens."""

Columns = dict[str, np.ndarray]


class Reading(NamedTuple):
    """How the reading of data on the host goes.

    Attributes:
        marks: Steps at which a reader can go on, and its states there.
        validating: Whether the program came up at the end of an epoch that is not ended yet: its
            validation waits for its data, or it for the host. The next call goes on with it.
        waited: Seconds that it has waited for data so far.
        seconds_per_batch: What reading a batch takes, in the mean; NaN before there is one.
        columns: Whether that end of an epoch waits for the columns of hooks, which the next call
            is to be given.
    """

    marks: Sequence[tuple[int, Any]] = ()
    validating: bool = False
    waited: float = 0.0
    seconds_per_batch: float = float("nan")
    columns: bool = False

    def at(self, step: int) -> dict[str, Any] | None:
        """Return, as JSON, what a resume at a step needs: see `Program.restored`."""
        before = [mark for mark in self.marks if mark[0] <= step]
        if before:
            return dict(zip(("step", "state"), before[-1], strict=True))
        if math.isnan(self.seconds_per_batch):
            return None
        return {"seconds_per_batch": self.seconds_per_batch}


class Progress(NamedTuple):
    """What the shell may know of a run: small, and fetched by one transfer.

    Attributes:
        step: Int32 scalar, the train steps done.
        epoch: Int32 scalar, the epochs done.
        stop: Int32 scalar, a `StopReason`; `NONE` for a run that goes on.
        detail: Int32 scalar, the number in the reason's sentence.
        save: Bool scalar, whether a callback, or a new best, asks for a save of this carry.
        rows: The `History`.
        samples: Name to float32 [capacity], the outputs of sampled train steps.
        every: Train steps from one sample to the next; 0 where none are sampled.
        latest: The metrics of the last epoch that ended, arrays of any shape included.
        reading: How the reading of data on the host goes.
        cadences: At the ends of which epochs each metric is measured.
    """

    step: Any
    epoch: Any
    stop: Any
    detail: Any
    save: Any
    rows: Any
    samples: Mapping[str, Any]
    every: int
    latest: Mapping[str, Any]
    reading: Reading = Reading()
    cadences: Cadences = Cadences()

    def fetch(self) -> Progress:
        """Bring it to the host in one transfer, as copies: the carry may be donated afterwards."""
        here = jax.device_get(self._replace(reading=None))
        own = lambda tree: jax.tree.map(np.array, tree)
        return Progress(
            int(here.step),
            int(here.epoch),
            int(here.stop),
            int(here.detail),
            bool(here.save),
            own(here.rows),
            own(here.samples),
            self.every,
            own(here.latest),
            self.reading,
            self.cadences,
        )

    def history(self, start: int = 0) -> Columns:
        """Return the filled rows of the history from a given one on, as columns."""
        epoch, step, metrics, end = self.rows
        columns = {"epoch": epoch, "step": step, **metrics}
        return {name: column[start : int(end)] for name, column in columns.items()}

    def sampled(self, start: int = 0) -> Columns:
        """Return the complete samples from a given one on, as columns.

        "step" is the number of train steps done at the sample, as in the history.
        """
        if not self.every:
            return {}
        room = min((len(column) for column in self.samples.values()), default=0)
        end = min(self.step // self.every, room)
        columns = {name: column[start:end] for name, column in self.samples.items()}
        return {"step": self.every * np.arange(start + 1, end + 1), **columns}

    def measured(self) -> Columns:
        """Return the metrics of the last epoch that ended, less those not measured there."""
        return {name: x for name, x in self.latest.items() if self.cadences(name, self.epoch - 1)}

    def metrics(self) -> dict[str, float]:
        """Return those of them that are scalars."""
        return scalars(self.measured())

    def arrays(self) -> Columns:
        """Return those of them that are not, such as a confusion matrix."""
        return {name: x for name, x in self.measured().items() if np.ndim(x) > 0}


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars among metrics as floats."""
    found = jax.device_get({name: x for name, x in metrics.items() if np.ndim(x) == 0})
    return {name: float(x) for name, x in found.items()}


class Finished(NamedTuple):
    """What a run leaves when it is over.

    Attributes:
        state: The train state that is the result: averaged, or restored to the best epoch's.
        bests: The best epochs that callbacks track.
    """

    state: TrainState
    bests: Sequence[Tracked]


class Program(Protocol):
    """A training run as the shell drives it; the carry is opaque to the shell.

    `Resident` is one `lax.while_loop` over data on the device, `Driven` a loop on the host over
    the same functions of the epoch.
    """

    @property
    def calendar(self) -> Calendar:
        """How the run is cut into blocks, epochs and passes."""
        ...

    @property
    def signature(self) -> Mapping[str, Any]:
        """What may not change on a resume, as JSON."""
        ...

    def record(self, carry: Carry) -> Mapping[str, Any]:
        """Return what a later program needs to read this carry when it is saved, as JSON."""
        ...

    def init(self, key: jax.Array) -> Carry:
        """Make the carry of a run that has not begun, in buffers of its own."""
        ...

    def run(
        self, carry: Carry, limit: int, columns: Mapping[str, float] | None = None
    ) -> tuple[Carry, Progress]:
        """Train to a step, or until the host is asked for; the carry given is donated.

        Dispatches and does not wait: `Progress.fetch` does.

        Args:
            carry: The run.
            limit: The step.
            columns: What the hooks have measured, where the last call came up for that
                (`Reading.columns`).
        """
        ...

    def look(self, carry: Carry) -> Progress:
        """Return the progress of a carry as it is."""
        ...

    def measure(
        self, carry: Carry, sets: Collection[str], leave: Callable[[], bool] = lambda: False
    ) -> Mapping[str, float] | None:
        """Measure sets of the validation data with a carry as it is; return the scalar metrics.

        Args:
            carry: The run.
            sets: Their names.
            leave: Asked while data is waited for: whether to give it up, and return None.
        """
        ...

    def state(self, carry: Carry) -> TrainState:
        """Return the train state of a carry, for writers that read it."""
        ...

    def validated(self, carry: Carry) -> TrainState:
        """Return the state that is validated at the end of an epoch, which has not ended yet."""
        ...

    def finish(self, carry: Carry) -> Finished:
        """Let the callbacks act at the end of the training, such as to restore the best."""
        ...

    def made_of(self, carry: Carry) -> Mapping[str, Any]:
        """Return what the run is made of, as JSON fingerprints by name: a resume compares them."""
        ...

    def result_paths(self, carry: Carry) -> Mapping[str, Any]:
        """Return where in the saved tree "params" and "model_state" are, and any "untrained".

        Under "measured" those that were validated, under "result" those that `finish` gives;
        "monitor" is the metric by which a callback restores them, or None.
        """
        ...

    def to_save(self, carry: Carry) -> PyTree:
        """Return what of a carry is saved: all that does not follow from the rest."""
        ...

    def constant(self, carry: Carry) -> Sequence[str]:
        """Return the nodes of what is saved whose leaves no step has changed, or can have.

        As what is not trained, unless the loss assigns to it or a callback replaces it.
        """
        ...

    def target(self, carry: Carry, record: Mapping[str, Any]) -> PyTree:
        """Return a tree of the form in which a program with this record saved."""
        ...

    def restored(
        self,
        saved: PyTree,
        carry: Carry,
        *,
        decide_anew: bool,
        fresh: Collection[str] = (),
        reading: Any = None,
    ) -> Carry:
        """Make a carry of a saved tree.

        Args:
            saved: In the form of `target`.
            carry: A fresh carry of this program.
            decide_anew: Whether a stop that was asked for is forgotten: callbacks with other
                hyper-parameters decide again.
            fresh: Names of the leaves that begin anew, as of a metric that was added.
            reading: What `Reading.at` gave when it was saved.
        """
        ...

    def describe(self, memory_bytes: int | None) -> Any:
        """Say what the run takes, a `Description`, without making any of its arrays."""
        ...

    def close(self) -> None:
        """Give back what the program holds beside the carry, such as threads that read."""
        ...
