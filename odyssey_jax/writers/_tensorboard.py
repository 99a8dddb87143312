"""Scalars, text, histograms and pictures for TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odyssey_jax.plots._pictures import confusion_pixels
from odyssey_jax.writers import _event_file
from odyssey_jax.writers._histogram import Histogram, histograms
from odyssey_jax.writers._require import require_extra, require_period
from odyssey_jax.writers._writer import Live, Row, RunInfo

_STEPS = "steps/"


class TensorBoard:
    """Writes what TensorBoard shows: scalars by step, the configuration, histograms, pictures.

    Each metric of an epoch is a scalar at the step of its end, each sampled output a scalar
    "steps/<name>"; "steps_per_second" is as in the progress line. `fit`'s `config` is a text.

    After a resume there is one new file: its scalars are the history up to the restored step,
    everything else is taken over from the files before. So there is neither gap nor duplicate,
    wherever the process died.

    Args:
        name: the folder in the run's directory.
        histograms_every: epochs from one set of histograms of the parameters to the next, at
            least 1; None draws none. They are counted on the device.
        pictures_every: epochs from one picture of each confusion matrix (a metric that is a
            square of integers) to the next, at least 1; None draws none. A picture takes some
            0.2 s.

    Raises:
        ImportError: tensorboardX is not installed.
        ValueError: an argument is out of its range.

    Example:
        >>> import tempfile, jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(2), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones((8, 2)), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = ody.fit(task, optax.sgd(0.1), data, data, epochs=3, directory=folder,
        ...                      writers=[ody.TensorBoard(histograms_every=1)])
    """

    def __init__(
        self,
        name: str = "tensorboard",
        *,
        histograms_every: int | None = None,
        pictures_every: int | None = None,
    ):
        require_extra("tensorboardX", "tensorboard")
        require_period("histograms_every", histograms_every)
        require_period("pictures_every", pictures_every)
        self._name = name
        self._every = {"histograms": histograms_every, "pictures": pictures_every}
        self._file: Any = None

    @property
    def reads_state(self) -> bool:
        """Whether it counts the parameters."""
        return self._every["histograms"] is not None

    def open(self, run: RunInfo) -> None:
        """Puts one file, of what there was up to the run's step, in place of those there are."""
        if run.directory is None:
            raise ValueError("TensorBoard needs a directory: pass fit(directory=...).")
        folder = run.directory / self._name
        events = [
            _first(),
            _session_start(),
            *_texts(run.config),
            *_epochs(run.rows),
            *_samples(run.samples),
            *_kept(folder, run),
        ]
        name = f"events.out.tfevents.{time.time_ns():020d}.odyssey_jax"
        self._file = _event_file.replace(folder, name, events).open("ab")

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Appends the rows, and what is due at the last of them."""
        events = [*_epochs(rows), *_samples(live.samples)]
        if rows:
            events.append(_scalars(live.step, _rates(live)))
        if self._due("histograms", rows):
            found = histograms(live.state.params).items()
            values = [_histogram(f"params/{name}", histogram) for name, histogram in found]
            events.append(_event(live.step, values))
        if self._due("pictures", rows):
            pictures = [_picture(name, x) for name, x in live.arrays.items() if _is_confusion(x)]
            events.append(_event(int(rows[-1]["step"]), pictures))
        self._file.write(_event_file.encode(events))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _due(self, what: str, rows: Sequence[Row]) -> bool:
        """Whether an epoch that ended is an n-th."""
        every = self._every[what]
        return every is not None and any((row["epoch"] + 1) % every == 0 for row in rows)


def _event(step: int, values: Iterable[Any] = ()) -> Any:
    """An event of some values of a summary, now."""
    event = _event_file.new_event()
    event.step, event.wall_time = step, time.time()
    event.summary.value.extend(values)
    return event


def _first() -> Any:
    """What a file begins with."""
    event = _event_file.new_event()
    event.wall_time, event.file_version = time.time(), "brain.Event:2"
    return event


def _session_start() -> Any:
    """Here a TensorBoard that watches the folder forgets what it has read, and reads on."""
    event = _event(0)
    event.session_log.status = event.session_log.START
    return event


def _scalars(step: int, values: Mapping[str, float], prefix: str = "") -> Any:
    event = _event(step)
    for name, value in values.items():
        if name != "step":
            event.summary.value.add(tag=prefix + name, simple_value=float(value))
    return event


def _epochs(rows: Sequence[Row]) -> list[Any]:
    return [_scalars(int(row["step"]), row) for row in rows]


def _samples(rows: Sequence[Row]) -> list[Any]:
    return [_scalars(int(row["step"]), row, _STEPS) for row in rows]


def _rates(live: Live) -> dict[str, float]:
    rates = {
        "steps_per_second": live.steps_per_second,
        "examples_per_second": live.examples_per_second,
    }
    return {name: rate for name, rate in rates.items() if not math.isnan(rate)}


def _texts(config: Mapping[str, Any]) -> list[Any]:
    from tensorboardX.summary import text

    if not config:
        return []
    lines = json.dumps(config, indent=2, default=str).splitlines()
    return [_event(0, text("config", "\n".join(f"    {line}" for line in lines)).value)]


def _histogram(tag: str, x: Histogram) -> Any:
    from tensorboardX.summary import histogram_raw

    summary = histogram_raw(
        tag,
        min=float(x.edges[0]),
        max=float(x.edges[-1]),
        num=int(x.counts.sum()),
        sum=float(x.total),
        sum_squares=float(x.squares),
        bucket_limits=[float(edge) for edge in x.edges[1:]],
        bucket_counts=[float(count) for count in x.counts],
    )
    return summary.value[0]


def _is_confusion(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.shape[0] == x.shape[1] and x.dtype.kind in "iu"


def _picture(tag: str, counts: np.ndarray) -> Any:
    from tensorboardX.summary import image

    return image(tag, confusion_pixels(counts), dataformats="HWC").value[0]


def _kept(folder: Path, run: RunInfo) -> list[Any]:
    """What the files hold up to the run's step and the history has not."""
    ours = {name for row in run.rows[:1] for name in row}
    ours |= {_STEPS + name for row in run.samples[:1] for name in row}
    kept = []
    seen: set[tuple[int, str]] = set()  # a process that died here left what it took over twice
    for file in _event_file.event_files(folder):
        for event in _event_file.decode(file):
            values = [v for v in event.summary.value if v.tag not in ours]
            values = [v for v in values if (event.step, v.tag) not in seen]
            if 0 < event.step <= run.step and values:
                seen |= {(event.step, v.tag) for v in values}
                kept.append(_event(event.step, values))
                kept[-1].wall_time = event.wall_time
    return kept
