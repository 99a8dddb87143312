"""Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from odyssey_jax.writers._kept_id import kept_id
from odyssey_jax.writers._require import require_extra
from odyssey_jax.writers._writer import Live, Row, RunInfo


class WeightsAndBiases:
    """Logs each epoch's metrics to a run of Weights & Biases, at the epoch's index.

    The run's id is kept in the directory, and a run that goes on is gone on with there. What is
    logged can't be taken back: the epochs past the restored step, which an interrupted run does
    again to the bit, are logged once.

    Args:
        **init: what `wandb.init` takes beside `id`, `resume` and `config`: project, name, mode...

    Raises:
        ImportError: wandb is not installed.
        ValueError: an argument is one that this sets itself.
    """

    reads_state = False

    def __init__(self, **init: Any):
        require_extra("wandb", "wandb")
        if taken := sorted({"id", "resume", "config"} & set(init)):
            raise ValueError(f"{taken} are set by the writer: leave them out.")
        self._init = init
        self._run: Any = None
        self._logged = 0

    def open(self, run: RunInfo) -> None:
        """Begins the run, or goes on with it."""
        import wandb

        ident = kept_id(run, "wandb_run_id", lambda: secrets.token_hex(8))
        self._run = wandb.init(id=ident, resume="allow", config=dict(run.config), **self._init)
        self._logged = int(self._run.step)
        self._log(run.rows)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Logs the rows that are not logged yet."""
        self._log(rows, steps_per_second=live.steps_per_second)

    def close(self) -> None:
        """Ends the run there, which sends what is left."""
        if self._run is not None:
            self._run.finish()

    def _log(self, rows: Sequence[Row], **more: float) -> None:
        for row in rows:
            if row["epoch"] >= self._logged:
                self._run.log({**row, **more}, step=int(row["epoch"]))
                self._logged = int(row["epoch"]) + 1
