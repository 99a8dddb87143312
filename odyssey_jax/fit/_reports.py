"""What is new since the last call of the program, and when each writer is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from odyssey_jax._types import TrainState
from odyssey_jax.fit._result import history_of, table
from odyssey_jax.fit._samples import sample_table
from odyssey_jax.fit._table import as_rows, length
from odyssey_jax.train import Carry, Sampling
from odyssey_jax.writers import Live, Writer


class Reports:
    """Tells the writers of a run: those that read the state at once, the others later.

    The program that runs on takes the state over, so a writer that reads it must be done before.
    All others can write while it runs.

    Args:
        writers: who is told; they are open.
        sampling: what is sampled of the train steps, or None.
        carry: the run as the writers know it.
    """

    def __init__(self, writers: Sequence[Writer], sampling: Sampling | None, carry: Carry):
        self._at_once = [writer for writer in writers if getattr(writer, "reads_state", True)]
        self._later = [writer for writer in writers if writer not in self._at_once]
        self._sampling = sampling
        self._written = length(table(history_of(carry)))
        self._sampled = length(sample_table(carry, sampling))
        self._pending: _Report | None = None

    def take(self, carry: Carry, steps_per_second: float, examples_per_second: float) -> None:
        """Takes down what is new, before the carry goes into the next call.

        Args:
            carry: as the program gave it back.
            steps_per_second: train steps a second so far.
            examples_per_second: the same in examples.
        """
        self.tell()
        history = _copied(table(history_of(carry), self._written))
        samples = _copied(sample_table(carry, self._sampling, self._sampled))
        if not (length(history) or length(samples)):
            return
        self._written += length(history)
        self._sampled += length(samples)
        arrays = {name: np.array(x) for name, x in carry.latest.items() if x.ndim > 0}
        step, rates = int(carry.clock.step), (steps_per_second, examples_per_second)
        self._pending = _Report(history, samples, Live(step, *rates, arrays=arrays))
        if self._at_once:
            self._pending.write(self._at_once, carry.state)

    def tell(self) -> None:
        """Tells the writers that do not read the state."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.write(self._later, TrainState(None))


class _Report(NamedTuple):
    """What is new.

    Attributes:
        history: The rows' columns.
        samples: The same of the sampled steps.
        live: What else there is, but the samples and the state.
    """

    history: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    live: Live

    def write(self, writers: Sequence[Writer], state: TrainState) -> None:
        """Hands it to writers."""
        if not writers:
            return
        rows, live = as_rows(self.history), self.live
        live = live._replace(samples=as_rows(self.samples), state=state)
        for writer in writers:
            writer.write(rows, live)


def _copied(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of their own: they are read when the carry is gone."""
    return {name: np.array(column) for name, column in columns.items()}
