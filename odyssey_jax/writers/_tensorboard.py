"""TensorBoard: scalars, text, histograms and pictures, in event files of our own writing.

tensorboardX has the events and the checksum. Its file writer is not used: it calls fsync at each
flush, and can't read back what it wrote.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax import _files
from odyssey_jax._checks import check_count
from odyssey_jax.plots._confusion import confusion_pixels
from odyssey_jax.writers._writer import Live, Row, RunInfo, require_extra

_STEPS = "steps/"
_BINS = 50
_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


class TensorBoard:
    """Write what TensorBoard shows: scalars by step, the configuration, histograms, pictures.

    Each metric that was measured in an epoch is a scalar at the step of its end, those
    `at_start` of an `Evaluation` at step 0, each sampled output a scalar "steps/<name>";
    "steps_per_second" is as in the progress line. The `config` of `fit` is a text, and what hooks
    return a scalar, a text or a picture under its name.

    A resumed run begins one new file: its scalars are the history up to the restored step,
    everything else is copied from the earlier files. So there is neither gap nor duplicate,
    wherever the process died.

    Args:
        name: The folder in the run's directory.
        histograms_every: Epochs between two sets of histograms of the parameters, at least 1;
            None draws none. They are counted on the device.
        pictures_every: Epochs between two pictures of each confusion matrix (a metric that is a
            square matrix of integers), at least 1; None draws none. A picture takes about 0.2 s.

    Raises:
        ImportError: If tensorboardX is not installed.
        ValueError: If an argument is out of its range.

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
        self._name = name
        self._every = {"histograms_every": histograms_every, "pictures_every": pictures_every}
        for argument, every in self._every.items():
            if every is not None:
                check_count(argument, every, 1, " or None")
        self._file: Any = None
        self._run = RunInfo(None, 1, [])

    @property
    def reads_state(self) -> bool:
        """Whether it draws histograms of the parameters."""
        return self._every["histograms_every"] is not None

    def open(self, run: RunInfo) -> None:
        """Replace the event files by one with what they hold up to the run's step."""
        if run.directory is None:
            raise ValueError("TensorBoard needs a directory: pass fit(directory=...).")
        self._run, folder = run, run.directory / self._name
        events = [
            _first(),
            _session_start(),
            *_texts(run.config),
            *([_scalars(0, run.metrics_at_start)] if run.metrics_at_start else []),
            *self._epochs(run.rows),
            *_rows(run.samples, _STEPS),
            *_kept(folder, run),
        ]
        self._file = _replace(folder.absolute(), events)

    def write(self, rows: Sequence[Row], live: Live) -> None:
        """Append the rows, and what is due at the last of them."""
        events = [*self._epochs(rows), *_rows(live.samples, _STEPS)]
        if rows:
            events.append(_scalars(live.step, _throughput(live)))
        if self._due("histograms_every", rows):
            found = _histograms(live.state.params).items()
            values = [_histogram(f"params/{name}", histogram) for name, histogram in found]
            events.append(_event(live.step, values))
        if self._due("pictures_every", rows):
            pictures = [_picture(name, x) for name, x in live.arrays.items() if _is_confusion(x)]
            events.append(_event(int(rows[-1]["step"]), pictures))
        self._file.write(_encode(events))
        self._file.flush()

    def show(self, step: int, name: str, value: Any) -> None:
        """Append what a hook returns: a text, a number or a picture."""
        from tensorboardX.summary import image, text

        if isinstance(value, float):
            events = [_scalars(step, {name: value})]
        elif isinstance(value, str):
            events = [_event(step, text(name, value).value)]
        else:
            events = [_event(step, image(name, value, dataformats="HWC").value)]
        self._file.write(_encode(events))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _epochs(self, rows: Sequence[Row]) -> list[Any]:
        return _rows([self._run.measured(row) for row in rows])

    def _due(self, what: str, rows: Sequence[Row]) -> bool:
        every = self._every[what]
        return every is not None and any((row["epoch"] + 1) % every == 0 for row in rows)


def _new_event() -> Any:
    # By its name: the module creates its contents on import, which no type checker sees.
    return importlib.import_module("tensorboardX.proto.event_pb2").Event()


def _event(step: int, values: Iterable[Any] = ()) -> Any:
    """Return an event of some values of a summary, now."""
    event = _new_event()
    event.step, event.wall_time = step, time.time()
    event.summary.value.extend(values)
    return event


def _first() -> Any:
    """Return the event that a file begins with."""
    event = _new_event()
    event.wall_time, event.file_version = time.time(), "brain.Event:2"
    return event


def _session_start() -> Any:
    """Return the event at which a running TensorBoard forgets what it has read."""
    event = _event(0)
    event.session_log.status = event.session_log.START
    return event


def _scalars(step: int, values: Mapping[str, float], prefix: str = "") -> Any:
    event = _event(step)
    for name, value in values.items():
        if name != "step":
            event.summary.value.add(tag=prefix + name, simple_value=float(value))
    return event


def _rows(rows: Sequence[Row], prefix: str = "") -> list[Any]:
    return [_scalars(int(row["step"]), row, prefix) for row in rows]


def _throughput(live: Live) -> dict[str, float]:
    found = {name: getattr(live, name) for name in ("steps_per_second", "examples_per_second")}
    found = {name: value for name, value in found.items() if not math.isnan(value)}
    return found | ({"waiting_for_data": live.waiting} if live.waiting else {})


def _texts(config: Mapping[str, Any]) -> list[Any]:
    from tensorboardX.summary import text

    if not config:
        return []
    lines = json.dumps(config, indent=2, default=str).splitlines()
    return [_event(0, text("config", "\n".join(f"    {line}" for line in lines)).value)]


def _is_confusion(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.shape[0] == x.shape[1] and x.dtype.kind in "iu"


def _picture(tag: str, counts: np.ndarray) -> Any:
    from tensorboardX.summary import image

    return image(tag, confusion_pixels(counts), dataformats="HWC").value[0]


def _kept(folder: Path, run: RunInfo) -> list[Any]:
    """Return what the files hold up to the run's step beyond the history."""
    ours = {name for row in run.rows[:1] for name in row}
    ours |= {_STEPS + name for row in run.samples[:1] for name in row}
    kept = []
    seen: set[tuple[int, str]] = set()  # a process that died here left two files with the same
    for file in event_files(folder):
        if file.is_symlink() or not file.is_file():
            continue
        for event in _decode(file):
            values = [v for v in event.summary.value if v.tag not in ours]
            values = [v for v in values if (event.step, v.tag) not in seen]
            if 0 < event.step <= run.step and values:
                seen |= {(event.step, v.tag) for v in values}
                kept.append(_event(event.step, values))
                kept[-1].wall_time = event.wall_time
    return kept


class _Histogram(NamedTuple):
    """The distribution of an array's finite values.

    Attributes:
        counts: int32 [bins].
        edges: float32 [bins + 1], from the least to the greatest value.
        total: float32 scalar, the sum of the values.
        squares: float32 scalar, the sum of their squares.
    """

    counts: Any
    edges: Any
    total: Any
    squares: Any


def _histogram(tag: str, x: _Histogram) -> Any:
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


def _histograms(params: Any) -> dict[str, _Histogram]:
    """Return the histogram of each array of real numbers by its path, counted on the device.

    Example:
        >>> found = _histograms({"layer": {"w": jnp.array([0.0, 1.0, 1.0, jnp.nan])}})
        >>> {name: (int(h.counts[0]), int(h.counts[-1])) for name, h in found.items()}
        {'layer/w': (1, 2)}
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    }
    return jax.device_get(_count_all(named))


@jax.jit
def _count_all(leaves: dict[str, jax.Array]) -> dict[str, _Histogram]:
    return {name: _count(leaf.astype(jnp.float32).ravel()) for name, leaf in leaves.items()}


def _count(x: jax.Array) -> _Histogram:
    finite = jnp.isfinite(x)
    low = jnp.min(jnp.where(finite, x, jnp.inf))
    high = jnp.max(jnp.where(finite, x, -jnp.inf))
    # An array of one value, or of none that is finite, still has bins.
    some = low <= high
    low, high = jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
    high = jnp.where(high > low, high, low + 1e-6 * jnp.maximum(1.0, jnp.abs(low)))
    at = jnp.clip((x - low) / (high - low) * _BINS, 0, _BINS - 1)
    at = jnp.where(finite, jnp.nan_to_num(at).astype(jnp.int32), _BINS)
    counts = jnp.zeros(_BINS, jnp.int32).at[at].add(1, mode="drop")
    kept = jnp.where(finite, x, 0.0)
    edges = low + (high - low) * jnp.linspace(0.0, 1.0, _BINS + 1)
    return _Histogram(counts, edges, jnp.sum(kept), jnp.sum(kept * kept))


def event_files(folder: Path) -> list[Path]:
    """Return the event files in a folder, oldest first."""
    return sorted(folder.glob("events.out.tfevents.*"))


def _replace(folder: Path, events: Iterable[Any]) -> BinaryIO:
    """Replace every event file in a folder by one, and return it open."""
    folder.mkdir(parents=True, exist_ok=True)
    old = event_files(folder)
    path = folder / f"events.out.tfevents.{time.time_ns():020d}.odyssey_jax"
    scratch = folder / "new.tmp"
    file = _files.create(scratch)
    file.write(_encode(events))
    file.flush()
    os.replace(scratch, path)
    for other in old:
        if other != path:
            other.unlink()
    return file


def _encode(events: Iterable[Any]) -> bytes:
    """Return events as records: length, checksum of it, event, checksum of it."""
    from tensorboardX.record_writer import masked_crc32c

    parts: list[bytes] = []
    for event in events:
        data = event.SerializeToString()
        length = _LENGTH.pack(len(data))
        parts += [length, _CHECKSUM.pack(masked_crc32c(length))]
        parts += [data, _CHECKSUM.pack(masked_crc32c(data))]
    return b"".join(parts)


def _decode(path: Path) -> Iterator[Any]:
    """Yield the events of a file, up to a record that is not whole: there a process died."""
    from tensorboardX.record_writer import masked_crc32c

    data, start = path.read_bytes(), 0
    while start + _LENGTH.size + _CHECKSUM.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size + _CHECKSUM.size
        record, start = data[start : start + size], start + size + _CHECKSUM.size
        if start > len(data) or _CHECKSUM.unpack_from(data, start - _CHECKSUM.size) != (
            masked_crc32c(record),
        ):
            return
        event = _new_event()
        event.ParseFromString(record)
        yield event
