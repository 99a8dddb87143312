"""Weights & Biases and MLflow: what a run logs is logged once, and two runs are never mixed."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from odyssey_jax import _files
from odyssey_jax.writers._writer import BEFORE, Live, Row, RunInfo, require_extra

_STEPS = "steps/"  # before the name of a sampled output


class _Entry(NamedTuple):
    """A row to log.

    Attributes:
        row: The epoch, or the sampled step.
        of_epoch: Which of the two.
    """

    row: Row
    of_epoch: bool

    @property
    def digest(self) -> str:
        """What tells it from other values of the same epoch or step."""
        text = json.dumps([self.of_epoch, dict(self.row)])
        return f"{zlib.crc32(text.encode()):08x}"


def _entries(rows: Sequence[Row], samples: Sequence[Row]) -> list[_Entry]:
    """Return rows and samples in the order of their steps."""
    both = [_Entry(row, False) for row in samples] + [_Entry(row, True) for row in rows]
    return sorted(both, key=lambda entry: (entry.row["step"], entry.of_epoch))


class _Ledger:
    """The service's run that a directory belongs to, and the digests of what it has logged.

    A file of the run's directory: the run's id, and a digest on each line below it.

    Args:
        path: The file; None where there is no directory.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._file: BinaryIO | None = None
        self.ident, self.digests = "", list[str]()
        if path is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text = path.read_text(encoding="utf-8")
                # A line without an end was being written when the process died.
                self.ident, *self.digests = text[: text.rfind("\n") + 1].split() or [""]

    def begin(self, ident: str) -> None:
        """Forget what was there: the directory belongs to another run of the service now."""
        self.ident, self.digests = ident, []
        self._open()

    def append(self, entries: Sequence[_Entry]) -> None:
        """Take note of what is logged."""
        new = [entry.digest for entry in entries]
        self.digests += new
        if self._file is None:
            self._open()
        elif new:
            self._file.write("".join(f"{digest}\n" for digest in new).encode())
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _open(self) -> None:
        self.close()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _files.create(self._path)
            self._file.write("".join(f"{line}\n" for line in (self.ident, *self.digests)).encode())
            self._file.flush()


class _Tracker:
    """Log what the service does not have yet.

    A resumed run repeats what it has logged past its checkpoint, to the bit, and that is not
    logged again. Where it differs, it is another run: it gets a run of its own, which names its
    parent, and all of its history.
    """

    reads_state = False
    _id_file = ""

    def __init__(self) -> None:
        self._info = RunInfo(None, 1, [])
        self._ledger = _Ledger(None)
        self._error: BaseException | None = None
        self._known = 0  # entries of this run that are in the ledger
        self._past: list[_Entry] = []  # those that a branch would have to log again

    def open(self, run: RunInfo) -> None:
        """Begin a run of the service, or go on with the one that the directory belongs to."""
        self._info, self._error, self._known, self._past = run, None, 0, []
        path = None if run.directory is None else run.directory.absolute() / self._id_file
        self._ledger = _Ledger(path)
        if run.step > 0 and self._ledger.ident:
            self._resume(self._ledger.ident)
        else:
            self._ledger.begin(self._begin(None))
        at_start = {"epoch": BEFORE, "step": 0, **run.metrics_at_start}
        rows = [at_start, *run.rows] if run.metrics_at_start else run.rows
        self._take(_entries(rows, run.samples))

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Log what is not logged yet."""
        pace = {"steps_per_second": live.steps_per_second}
        if live.waiting:
            pace["waiting_for_data"] = live.waiting
        self._take(_entries(rows, live.samples), pace)

    def show(self, step: int, name: str, value: Any) -> None:
        """Log what a hook returns, unless the run repeats what the service has."""
        if self._known == len(self._ledger.digests):
            self._show(step, name, value)

    def _show(self, step: int, name: str, value: Any) -> None:
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Take note that the run ends with an exception."""
        self._error = error

    def close(self) -> None:
        """End the run of the service: finished, or failed."""
        self._ledger.close()
        self._end(self._error)

    def _take(self, entries: list[_Entry], pace: Mapping[str, float] | None = None) -> None:
        if new := self._unknown(entries):
            measured = self._info.measured
            self._send(
                [
                    {**measured(row), **(pace or {})} if of_epoch else _sample(row)
                    for row, of_epoch in new
                ]
            )
            self._ledger.append(new)
            self._known = len(self._ledger.digests)

    def _unknown(self, entries: list[_Entry]) -> list[_Entry]:
        """Return what the service does not have: of another run than it has, all so far."""
        for i, entry in enumerate(entries):
            if self._known == len(self._ledger.digests):
                self._past = []
                return entries[i:]
            if entry.digest != self._ledger.digests[self._known]:
                self._end(None)
                self._ledger.begin(self._begin(self._ledger.ident))
                past, self._past = self._past, []
                return [*past, *entries[i:]]
            self._known += 1
            self._past.append(entry)
        return []

    def _begin(self, parent: str | None) -> str:
        """Begin a run of the service, and return its id."""
        raise NotImplementedError

    def _resume(self, ident: str) -> None:
        raise NotImplementedError

    def _send(self, rows: Sequence[Row]) -> None:
        raise NotImplementedError

    def _end(self, error: BaseException | None) -> None:
        raise NotImplementedError


def _sample(row: Row) -> dict[str, int | float]:
    return {name if name == "step" else _STEPS + name: value for name, value in row.items()}


class WeightsAndBiases(_Tracker):
    """Log each epoch and each sampled step to a run of Weights & Biases, at its train step.

    An epoch's metrics have "epoch" as their axis, sampled outputs "steps/<name>" have "step". What
    was measured before the first train step (`Evaluation(at_start=True)`) is of epoch -1. The
    run's id is kept in the directory, so that a resumed run goes on there. A run that goes on
    from an earlier checkpoint with another future is a new one there, with all of its history
    and the other's id in its configuration, as "parent_run". A run that ends with an exception
    is marked as failed.

    Args:
        **init: Arguments of `wandb.init` except `id`, `resume` and `config`: project, name, mode.

    Raises:
        ImportError: If wandb is not installed.
        ValueError: If an argument is one that the writer sets.
    """

    _id_file = "wandb_run_id"

    def __init__(self, **init: Any):
        super().__init__()
        require_extra("wandb", "wandb")
        if taken := sorted({"id", "resume", "config"} & set(init)):
            raise ValueError(f"{taken} are set by the writer: leave them out.")
        self._init = init
        self._run: Any = None
        self._defined: set[str] = set()

    def _begin(self, parent: str | None) -> str:
        self._resume(ident := secrets.token_hex(8), parent)
        return ident

    def _resume(self, ident: str, parent: str | None = None) -> None:
        import wandb

        config = dict(self._info.config) | ({} if parent is None else {"parent_run": parent})
        self._run = wandb.init(id=ident, resume="allow", config=config, **self._init)
        self._defined = set()

    def _send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            axis = "epoch" if "epoch" in row else "step"
            for name in row.keys() - self._defined - {"epoch", "step"}:
                self._run.define_metric(name, step_metric=axis)
            self._defined |= row.keys()
            self._run.log(dict(row), step=int(row["step"]))

    def _show(self, step: int, name: str, value: Any) -> None:
        import wandb

        if isinstance(value, str):
            value = wandb.Html(f"<pre>{html.escape(value)}</pre>")
        elif not isinstance(value, float):
            value = wandb.Image(value[..., 0] if value.shape[2] == 1 else value)
        self._run.log({name: value}, step=step)

    def _end(self, error: BaseException | None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


class MLflow(_Tracker):
    """Log each epoch to a run of MLflow at the epoch's index, each sampled step at its step.

    What was measured before the first train step (`Evaluation(at_start=True)`) is at index -1.
    The run's id is kept in the directory, so that a resumed run goes on there. A run that goes on
    from an earlier checkpoint with another future is a new one there, with all of its history,
    and a child of the other. A run that ends with an exception is marked as failed. The `config`
    of `fit` becomes the run's parameters, sampled outputs are "steps/<name>".

    Args:
        experiment: The experiment's name; it is created if it does not exist.
        tracking_uri: Where the runs are: a server, a database (for which MLflow needs SQLAlchemy)
            or a directory. None is MLflow's own setting; where nothing is set and SQLAlchemy is
            not installed, the directory "mlruns".
        run_name: The run's name, or None.

    Raises:
        ImportError: If mlflow is not installed.
    """

    _id_file = "mlflow_run_id"

    def __init__(
        self,
        experiment: str = "odyssey_jax",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
    ):
        super().__init__()
        require_extra("mlflow", "mlflow")
        self._experiment, self._uri, self._run_name = experiment, tracking_uri, run_name
        self._client: Any = None
        self._run_id = ""  # empty until the server has created one

    def open(self, run: RunInfo) -> None:
        """Begin a run of MLflow, or go on with the one that the directory belongs to."""
        self._client, self._run_id = _mlflow_client(self._uri), ""
        super().open(run)

    def _begin(self, parent: str | None) -> str:
        self._run_id = ""
        found = self._client.get_experiment_by_name(self._experiment)
        known = found.experiment_id if found else self._client.create_experiment(self._experiment)
        tags = {} if parent is None else {"mlflow.parentRunId": parent}
        made = self._client.create_run(known, tags=tags, run_name=self._run_name)
        self._run_id = made.info.run_id
        for name, value in self._info.config.items():
            self._client.log_param(self._run_id, _mlflow_name(name), value)
        return self._run_id

    def _resume(self, ident: str) -> None:
        self._client.update_run(ident, "RUNNING")
        self._run_id = ident

    def _send(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_mlflow_name(name), float(value), now, int(row.get("epoch", row["step"])))
            for row in rows
            for name, value in row.items()
            if "epoch" in row or name != "step"
        ]
        # MLflow takes at most 1,000 metrics a call.
        for start in range(0, len(metrics), 1_000):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1_000])

    def _show(self, step: int, name: str, value: Any) -> None:
        name = _mlflow_name(name)
        if isinstance(value, float):
            self._client.log_metric(self._run_id, name, value, step=step)
        elif isinstance(value, str):
            self._client.log_text(self._run_id, value, f"{name}/{step}.txt")
        else:
            self._client.log_image(self._run_id, value, f"{name}/{step}.png")

    def _end(self, error: BaseException | None) -> None:
        if self._run_id:
            killed = isinstance(error, KeyboardInterrupt | SystemExit)
            status = "FINISHED" if error is None else "KILLED" if killed else "FAILED"
            self._client.set_terminated(self._run_id, status)


def _mlflow_name(name: str) -> str:
    """Return a name that MLflow takes.

    Example:
        >>> _mlflow_name("valid/f1[macro]")
        'valid/f1_macro_'
    """
    return re.sub(r"[^/\w.\- :]", "_", name)


def _mlflow_client(uri: str | None) -> Any:
    """Return a client of where the runs are, by default a place that the small MLflow can open."""
    import mlflow

    database = importlib.util.find_spec("sqlalchemy") is not None
    if uri is None and not (database or mlflow.is_tracking_uri_set()):
        uri = Path("mlruns").absolute().as_uri()
    where = mlflow.get_tracking_uri() if uri is None else uri
    scheme = where.partition(":")[0] if ":" in where else "file"
    if re.match(r"sqlite|mysql|postgresql|mssql", scheme) and not database:
        raise ImportError(
            f"MLflow keeps runs in a database ({where!r}) with SQLAlchemy, which is not installed: "
            "pip install mlflow, or tracking_uri='file:mlruns'"
        )
    with _files_for_mlflow(scheme == "file"):
        return mlflow.MlflowClient(uri)


@contextlib.contextmanager
def _files_for_mlflow(wanted: bool) -> Iterator[None]:
    """Have MLflow open a directory of runs: from 3.13 on it refuses one, unless it is told to."""
    name = "MLFLOW_ALLOW_FILE_STORE"
    before = os.environ.get(name)
    if wanted and before is None:
        os.environ[name] = "true"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ[name]
