"""Weights & Biases and MLflow: each epoch is logged once, to a run that is resumed there too."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from odyssey_jax.writers._writer import Live, Row, RunInfo, require_extra


class _Tracker:
    """Log the epochs that the service does not have yet."""

    reads_state = False
    _logged = 0  # the first epoch that the service does not have

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Log the rows that are not logged yet."""
        self._log(rows, steps_per_second=live.steps_per_second)

    def _log(self, rows: Sequence[Row], **more: float) -> None:
        if new := [{**row, **more} for row in rows if row["epoch"] >= self._logged]:
            self._send(new)
            self._logged = int(new[-1]["epoch"]) + 1

    def _send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        raise NotImplementedError


class WeightsAndBiases(_Tracker):
    """Log each epoch's metrics to a run of Weights & Biases, at the epoch's index.

    The run's id is kept in the directory, so that a resumed run goes on there. What is logged
    can't be taken back: epochs past the restored step, which a resumed run repeats to the bit,
    are logged once.

    Args:
        **init: Arguments of `wandb.init` except `id`, `resume` and `config`: project, name, mode.

    Raises:
        ImportError: If wandb is not installed.
        ValueError: If an argument is one that the writer sets.
    """

    def __init__(self, **init: Any):
        require_extra("wandb", "wandb")
        if taken := sorted({"id", "resume", "config"} & set(init)):
            raise ValueError(f"{taken} are set by the writer: leave them out.")
        self._init = init
        self._run: Any = None

    def open(self, run: RunInfo) -> None:
        """Begin or resume the run."""
        import wandb

        ident = _kept_id(run, "wandb_run_id", lambda: secrets.token_hex(8))
        self._run = wandb.init(id=ident, resume="allow", config=dict(run.config), **self._init)
        self._logged = int(self._run.step)
        self._log(run.rows)

    def close(self) -> None:
        """Finish the run, which sends what is left."""
        if self._run is not None:
            self._run.finish()

    def _send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._run.log(row, step=int(row["epoch"]))


class MLflow(_Tracker):
    """Log each epoch's metrics to a run of MLflow, at the epoch's index.

    The run's id is kept in the directory, so that a resumed run goes on there. What is logged
    can't be taken back: epochs past the restored step, which a resumed run repeats to the bit,
    are logged once. The `config` of `fit` becomes the run's parameters.

    Args:
        experiment: The experiment's name; it is created if it does not exist.
        tracking_uri: Where the runs are; None is MLflow's own setting.
        run_name: The run's name, or None.

    Raises:
        ImportError: If mlflow is not installed.
    """

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

    def open(self, run: RunInfo) -> None:
        """Begin or resume the run."""
        from mlflow import MlflowClient

        self._client, self._run_id = MlflowClient(self._uri), ""
        self._run_id = _kept_id(run, "mlflow_run_id", self._create)
        if run.step == 0:
            for name, value in run.config.items():
                self._client.log_param(self._run_id, name, value)
        self._client.update_run(self._run_id, "RUNNING")
        past = self._client.get_metric_history(self._run_id, "epoch")
        self._logged = 1 + max((metric.step for metric in past), default=-1)
        self._log(run.rows)

    def close(self) -> None:
        """End the run."""
        if self._run_id:  # empty if the server refused to create one
            self._client.set_terminated(self._run_id)

    def _create(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        known = found.experiment_id if found else self._client.create_experiment(self._experiment)
        return self._client.create_run(known, run_name=self._run_name).info.run_id

    def _send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(row["epoch"]))
            for row in rows
            for name, value in row.items()
        ]
        # MLflow takes at most 1,000 metrics a call.
        for start in range(0, len(metrics), 1_000):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1_000])


def _kept_id(run: RunInfo, name: str, make: Callable[[], str]) -> str:
    """Return the id in a file of the run's directory; a run that begins gets a new one.

    Example:
        >>> _kept_id(RunInfo(None, 10, []), "id", lambda: "abc")
        'abc'
    """
    if run.directory is None:
        return make()
    file = run.directory / name
    if run.step > 0 and file.exists():
        return file.read_text(encoding="utf-8").strip()
    run.directory.mkdir(parents=True, exist_ok=True)
    file.write_text(made := make(), encoding="utf-8")
    return made
