"""The protocol: what a writer is told, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from odyssey_jax._types import TrainState

Row = Mapping[str, int | float]


class RunInfo(NamedTuple):
    """What a writer is told when a run begins or goes on.

    Args:
        directory: the run's directory, or None.
        epochs: the number of epochs that the run may last.
        rows: the history so far: of the epochs before the step that the run goes on from.
        samples: the same of the train steps that are sampled.
        step: the train steps done.
        config: what `fit` was told to record.
    """

    directory: Path | None
    epochs: int
    rows: Sequence[Row]
    samples: Sequence[Row] = ()
    step: int = 0
    config: Mapping[str, Any] = {}


class Live(NamedTuple):
    """What there is to see of a run beside its rows, when it comes up for air.

    Args:
        step: the train steps done.
        steps_per_second: train steps a second so far, without compilation, validation,
            callbacks and saving.
        examples_per_second: the same in examples.
        samples: a row for each sampled train step since the last call: "step" and the outputs
            that are sampled.
        arrays: the metrics of the last epoch that are no scalars, such as a confusion matrix.
        state: the train state as it is now, on the device; to be read during the call only. Empty
            for a writer that says that it does not read it.
    """

    step: int
    steps_per_second: float
    examples_per_second: float = float("nan")
    samples: Sequence[Row] = ()
    arrays: Mapping[str, np.ndarray] = {}
    state: TrainState = TrainState(None)


class Writer(Protocol):
    """Something that a run is written to, in order and without gaps.

    The training waits for `write`, unless the writer has an attribute `reads_state` that is
    False: then it is told while the next steps run, and there is no `live.state`.

    What a writer raises ends the run, and `fit` raises it: what was committed stays, the writers
    are closed, and the same call goes on from there.

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
        """Makes ready; whatever was written past `run.rows` and `run.step` is taken back."""
        ...

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Writes what is new since the last call; rows or samples, of which one may be none.

        Args:
            rows: one for each epoch that ended: "epoch", "step" and every scalar metric.
            live: what else there is to see.
        """
        ...

    def close(self) -> None:
        """Lets go of files and of the terminal; also called when the run fails."""
        ...
