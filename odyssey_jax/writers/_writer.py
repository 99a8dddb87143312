"""The protocol: what a writer is told, and when."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from odyssey_jax._text import missing
from odyssey_jax._types import TrainState

Row = Mapping[str, int | float]


# The epoch of what is measured before the first: rows count from 0.
BEFORE = -1


def always(*_: Any) -> bool:
    """Return True: the metric is measured at the end of the epoch."""
    return True


class RunInfo(NamedTuple):
    """What a writer is told when a run begins or resumes.

    Attributes:
        directory: The run's directory, or None.
        epochs: The most epochs that the run may take.
        rows: The history so far: a row for each evaluation before the step that the run resumes
            from, which is each epoch's end unless `validate=` says otherwise.
        samples: The same for each sampled train step.
        step: The train steps done.
        config: The `config` of `fit`.
        steps_per_epoch: The train steps of an epoch; 0 if it is not known.
        monitor: The metric that says which epoch is best, of a callback or of the checkpoints.
        is_measured: A metric's name and an epoch's index -> whether it is measured at its end:
            where it is not, as of an `Evaluation` with a cadence, it is NaN in the row.
        metrics_at_start: What was measured before the first train step, by name.
        total_steps: The train steps of the whole run; 0 if it is not known.
        steps_per_row: The train steps from one row to the next; 0 if it is not known.
    """

    directory: Path | None
    epochs: int
    rows: Sequence[Row]
    samples: Sequence[Row] = ()
    step: int = 0
    config: Mapping[str, Any] = {}
    steps_per_epoch: int = 0
    monitor: str | None = None
    is_measured: Callable[[str, int], bool] = always
    metrics_at_start: Mapping[str, float] = {}
    total_steps: int = 0
    steps_per_row: int = 0

    def measured(self, row: Row) -> Row:
        """Return an epoch's row without the metrics that were not measured at its end."""
        epoch = int(row["epoch"])
        if epoch == BEFORE:
            return row
        return {name: x for name, x in row.items() if self.is_measured(name, epoch)}


class Live(NamedTuple):
    """What there is to see of a run beside its rows, between two compiled calls.

    Attributes:
        step: The train steps done.
        steps_per_second: The throughput so far, without compilation, validation, callbacks and
            saving.
        examples_per_second: The same in examples.
        waiting: The share of the last call's time that training waited for data, in [0, 1].
        samples: A row for each train step sampled since the last call: "step" and the sampled
            outputs.
        arrays: The metrics of the last epoch that are not scalars, such as a confusion matrix.
        state: The current train state, on the device; to be read during the call only. Empty
            for a writer whose `reads_state` is False.
    """

    step: int
    steps_per_second: float
    examples_per_second: float = float("nan")
    samples: Sequence[Row] = ()
    arrays: Mapping[str, np.ndarray] = {}
    state: TrainState = TrainState(None)
    waiting: float = 0.0


class Writer(Protocol):
    """A destination of a run's rows, which come in order and without gaps.

    Training waits for `write`, unless the writer has an attribute `reads_state` that is False:
    then `write` is called while the next steps run, and `live.state` is empty.

    An exception from a writer ends the run, and `fit` raises it: committed checkpoints stay, the
    writers are closed, and the same call of `fit` resumes from there.

    `write` is called where there are new rows or samples. One that has an attribute
    `wants_progress` that is true is called at each exit of the loop, about twice a second and
    first when the program is compiled; if it does not read the state.

    A writer that has a method `show(step, name, value)` is given what hooks return, when all rows
    up to that step are written: a `str`, a `float`, or a picture, a uint8 array [height, width, 1,
    3 or 4]. One without it is passed over. A run that goes on from an earlier step shows again what
    it had shown past it.

    A writer that has a method `fail(error)` is told of the exception that ends a run, whosever it
    is, before it is closed.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> class Print:
        ...     def open(self, run):
        ...         print(f"{len(run.rows)} epochs are done, of {run.epochs}")
        ...     def write(self, rows, live):
        ...         for row in rows:
        ...             print(row["epoch"], round(row["valid/loss"], 3))
        ...     def close(self):
        ...         print("the end")
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> result = ody.fit(task, optax.sgd(0.1), data, data, epochs=2, writers=[Print()])
        0 epochs are done, of 2
        0 0.41
        1 0.168
        the end
    """

    def open(self, run: RunInfo) -> None:
        """Prepare to write, and drop what was written past `run.rows` and `run.step`."""
        ...

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Write what is new since the last call: rows, samples or both.

        Args:
            rows: A row for each evaluation: "epoch", which counts them from 0, "step" and every
                scalar metric; see `RunInfo.measured`.
            live: What else there is to see.
        """
        ...

    def close(self) -> None:
        """Release files and the terminal; also called if the run fails."""
        ...


def require_extra(package: str, extra: str) -> None:
    """Raise ImportError, which names the extra to install, unless a package is installed."""
    if importlib.util.find_spec(package) is None:
        raise missing(package, extra)
