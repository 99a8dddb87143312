"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from odyssey_jax.writers._kept_id import kept_id
from odyssey_jax.writers._require import require_extra
from odyssey_jax.writers._writer import Live, Row, RunInfo


class MLflow:
    """Logs each epoch's metrics to a run of MLflow, at the epoch's index.

    The run's id is kept in the directory, and a run that goes on is gone on with there. What is
    logged can't be taken back: the epochs past the restored step, which an interrupted run does
    again to the bit, are logged once. `fit`'s `config` becomes the run's parameters.

    Args:
        experiment: the experiment's name, made if there is none.
        tracking_uri: where the runs are; None is MLflow's own setting.
        run_name: what to call the run, or None.

    Raises:
        ImportError: mlflow is not installed.
    """

    reads_state = False

    def __init__(
        self,
        experiment: str = "odyssey_jax",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
    ):
        require_extra("mlflow", "mlflow")
        self._experiment, self._uri, self._run_name = experiment, tracking_uri, run_name
        self._client: Any = None
        self._run_id = ""
        self._logged = 0

    def open(self, run: RunInfo) -> None:
        """Begins the run, or goes on with it."""
        from mlflow import MlflowClient

        self._client, self._run_id = MlflowClient(self._uri), ""
        self._run_id = kept_id(run, "mlflow_run_id", self._create)
        if run.step == 0:
            for name, value in run.config.items():
                self._client.log_param(self._run_id, name, value)
        self._client.update_run(self._run_id, "RUNNING")
        past = self._client.get_metric_history(self._run_id, "epoch")
        self._logged = 1 + max((metric.step for metric in past), default=-1)
        self._log(run.rows)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Logs the rows that are not logged yet."""
        self._log(rows, steps_per_second=live.steps_per_second)

    def close(self) -> None:
        """Ends the run there."""
        if self._run_id:  # none was begun where the server refused it
            self._client.set_terminated(self._run_id)

    def _create(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        known = found.experiment_id if found else self._client.create_experiment(self._experiment)
        return self._client.create_run(known, run_name=self._run_name).info.run_id

    def _log(self, rows: Sequence[Row], **more: float) -> None:
        from mlflow.entities import Metric

        new = [row for row in rows if row["epoch"] >= self._logged]
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(row["epoch"]))
            for row in new
            for name, value in {**row, **more}.items()
        ]
        # MLflow takes at most 1,000 at a time.
        for start in range(0, len(metrics), 1_000):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1_000])
        if new:
            self._logged = int(new[-1]["epoch"]) + 1
