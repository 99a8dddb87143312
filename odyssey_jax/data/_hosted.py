"""Arrays that stay on the host: batches are gathered, in an order that is computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from odyssey_jax._checks import check_count, check_flag
from odyssey_jax._types import Batch, PyTree, Transform
from odyssey_jax.data._contents import checksum
from odyssey_jax.data._leaves import (
    as_array,
    check_batch_size,
    check_dtype,
    check_lengths,
    dtype_of,
    is_read_in_pieces,
    length_of,
    map_leaves,
    on_device_dtype,
    shown,
)
from odyssey_jax.data._permutation import permute
from odyssey_jax.data._source import Reader, Resumes, check_transform

# Below this many bytes a batch is gathered by one thread: to wake others takes as long.
_SPLIT = 2**20
# Indices that are permuted at once: for a few, NumPy's calls cost more than the arithmetic.
_WINDOW = 8_192


@dataclasses.dataclass(frozen=True, eq=False)
class HostDataset:
    r"""Arrays on the host, also larger than memory, cut into batches; shuffled for every pass.

    The order of pass $p$ is a permutation that is a function of the run's seed and of $p$, and
    computed as far as it is read: a billion examples need no memory. So the batch of any step
    is a function of the seed and the step, and a resume needs no replay.

    Several processes each read their share of every batch: process $i$ of $m$ the examples from
    $i b$ to $(i + 1) b$ of the $m b$ of a global batch, with $b$ the `batch_size`.

    Attributes:
        data: Pytree of arrays [examples, ...] of any dtype: NumPy's, memory maps
            (`np.load(path, mmap_mode="r")`), and others that take an array of indices or a slice
            (h5py, Zarr, TensorStore).
        batch_size: Examples in a batch of this process. With several processes, the global batch
            has `batch_size` times the number of them.
        shuffle: Whether every pass has its own random order.
        drop_remainder: Whether the examples that fill no whole batch are left out of a pass
            (shuffled, they are others each time) or come as a last, smaller batch.
        transform: Pure function `(batch, key) -> batch` that is part of the compiled step, for
            augmentation and masking; without a key (None) in validation.
        shard: Which share this process reads, `(index, count)`; None is
            `(jax.process_index(), jax.process_count())`. `(0, 1)` for data that is this
            process's own.
        threads: How many gather the rows of a batch of at least 1 MiB.

    Raises:
        ValueError: If there is no array, or a scalar, or arrays of different lengths, something
            that is no number, the batch size or the shard is out of its range, or a last,
            smaller batch can't be shared equally.
        TypeError: If `transform` is no function of a batch and a key.

    Example:
        >>> import numpy as np, odyssey_jax as ody
        >>> data = ody.HostDataset({"x": np.arange(10.0)}, batch_size=4, shuffle=True)
        >>> reader = data.reader(seed=0, step=2)
        >>> reader.read()["x"].shape, reader.read()
        ((2,), None)
    """

    data: PyTree
    batch_size: int
    _: dataclasses.KW_ONLY
    shuffle: bool = False
    drop_remainder: bool = False
    transform: Transform | None = None
    shard: tuple[int, int] | None = None
    threads: int = 4

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)
        set_("data", self._checked())
        set_("shard", _checked_shard(self.shard))
        count = self._shard[1]
        set_("batch_size", check_batch_size(self.batch_size, len(self), count))
        set_("threads", check_count("threads", self.threads, 1))
        check_flag("shuffle", self.shuffle)
        check_flag("drop_remainder", self.drop_remainder)
        check_transform(self.transform)
        left = len(self) % (self.batch_size * count)
        if not self.drop_remainder and left % count:
            raise ValueError(
                f"the last batch of {left} examples can't be shared equally by {count} processes: "
                f"pass drop_remainder=True, or leave out {left % count} of the {len(self)} "
                "examples."
            )

    def __repr__(self) -> str:
        return shown(self)

    def __len__(self) -> int:
        return length_of(self.data)

    @property
    def _shard(self) -> tuple[int, int]:
        assert self.shard is not None
        return self.shard

    @property
    def _global_batch(self) -> int:
        return self.batch_size * self._shard[1]

    @property
    def full_batches(self) -> int:
        """Whole batches in a pass."""
        return len(self) // self._global_batch

    @property
    def remainder(self) -> int:
        """Examples of this process in a pass's last, smaller batch; 0 where there is none."""
        return 0 if self.drop_remainder else len(self) % self._global_batch // self._shard[1]

    @property
    def steps_per_pass(self) -> int:
        """Batches in a pass."""
        return self.full_batches + (self.remainder > 0)

    @property
    def spec(self) -> PyTree:
        """The form of a whole batch."""

        def form(x: Any) -> jax.ShapeDtypeStruct:
            kept = jax.dtypes.canonicalize_dtype(dtype_of(x))
            return jax.ShapeDtypeStruct((self.batch_size, *x.shape[1:]), kept)

        return jax.tree.map(form, self.data)

    @property
    def resumes(self) -> Resumes:
        """A batch is a function of the seed and the step."""
        return "by step"

    def signature(self) -> dict[str, Any]:
        """Return what decides which batch belongs to a step, as JSON.

        The batch size is that of all processes, and the contents of large arrays are sampled.
        """
        return {
            "kind": type(self).__name__,
            "examples": len(self),
            "batch_size": self._global_batch,
            "shuffle": self.shuffle,
            "drop_remainder": self.drop_remainder,
            "fingerprint": self._contents,
        }

    def reader(self, seed: int, step: int, state: Any = None) -> Reader:
        """Begin to read.

        Args:
            seed: Of the shuffles, in [0, 2**64).
            step: Batches of the run that come before.
            state: None: there is none.
        """
        del state
        order = _Order(len(self), seed) if self.shuffle else None
        pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None

        def batch(step: int) -> Batch:
            index, position = divmod(step, self.steps_per_pass)
            rows = self._rows(position)
            return self._take(rows if order is None else order.of(index, rows), pool)

        close = None if pool is None else lambda: pool.shutdown(wait=False, cancel_futures=True)
        return StepReader(batch, step, self.steps_per_pass, close)

    def _rows(self, position: int) -> slice:
        """Return where this process's share of a batch lies in the order of a pass."""
        size = self.batch_size if position < self.full_batches else self.remainder
        start = position * self._global_batch + self._shard[0] * size
        return slice(start, start + size)

    def _checked(self) -> PyTree:
        data = map_leaves("data", _hosted, self.data)
        check_lengths("data", data)
        return data

    @functools.cached_property
    def _contents(self) -> int | str:
        return self._fingerprint()

    def _fingerprint(self) -> int | str:
        return checksum(self.data, _take)

    def _take(self, rows: slice | np.ndarray, pool: ThreadPoolExecutor | None) -> Batch:
        def gathered(path: str, x: Any) -> Any:
            return on_device_dtype(path, _gather(x, rows, pool, self.threads))

        return map_leaves("data", gathered, self.data)


def _hosted(name: str, x: Any) -> Any:
    """Return an array of the host; what is read in pieces stays as it is."""
    if is_read_in_pieces(x):
        check_dtype(name, dtype_of(x))
        return x
    # The base of a memory map: its rows are plain arrays, which cost less to make.
    return np.asarray(as_array(name, x)).view(np.ndarray)


def _checked_shard(shard: Any) -> tuple[int, int]:
    if shard is None:
        return jax.process_index(), jax.process_count()
    try:
        index, count = shard
        count = check_count("count", count, 1)
        if check_count("index", index) < count:
            return int(index), count
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "shard must be (index, count), integers with 0 <= index < count, such as "
        f"(jax.process_index(), jax.process_count()); got {shard!r}."
    )


class StepReader:
    """A `Reader` of batches that are a function of the step."""

    def __init__(
        self,
        batch: Callable[[int], Batch],
        step: int,
        steps_per_pass: int | None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self._batch, self._step, self._length = batch, step, steps_per_pass
        self._close, self._told = close, False

    def read(self) -> Batch | None:
        """Return the next batch, or None at the end of a pass."""
        ended = self._length and self._step and self._step % self._length == 0
        if ended and not self._told:
            self._told = True
            return None
        batch = self._batch(self._step)
        self._step, self._told = self._step + 1, False
        return batch

    def state(self) -> None:
        """Return None: the step says it all."""

    def close(self) -> None:
        """Give back the threads."""
        if self._close is not None:
            self._close()


class _Order:
    """The order of each pass, of which a window is kept."""

    def __init__(self, examples: int, seed: int) -> None:
        self._examples, self._seed = examples, seed
        self._index, self._start, self._window = -1, 0, np.empty(0, np.int64)

    def of(self, index: int, rows: slice) -> np.ndarray:
        """Return the examples at some places of a pass."""
        end = self._start + len(self._window)
        if index != self._index or not self._start <= rows.start <= rows.stop <= end:
            stop = min(self._examples, max(rows.stop, rows.start + _WINDOW))
            places = np.arange(rows.start, stop)
            self._window = permute(places, self._examples, self._seed, index)
            self._index, self._start = index, rows.start
        return self._window[rows.start - self._start : rows.stop - self._start]


def _gather(x: Any, rows: slice | np.ndarray, pool: ThreadPoolExecutor | None, parts: int) -> Any:
    """Return rows of an array: a view where they are in order, and else gathered by threads."""
    if isinstance(rows, slice):
        return np.asarray(x[rows])
    # np.take would copy the whole of an array that is not contiguous.
    if not (isinstance(x, np.ndarray) and x.flags.c_contiguous and x.flags.aligned):
        return _take(x, rows)
    out = np.empty((len(rows), *x.shape[1:]), x.dtype)
    # With mode="raise" NumPy would write to a buffer first. It takes rows without the GIL.
    take = lambda i, o: np.take(x, i, axis=0, out=o, mode="clip")
    if pool is None or out.nbytes < _SPLIT:
        return take(rows, out)
    parts = min(parts, len(rows))
    list(pool.map(take, np.array_split(rows, parts), np.array_split(out, parts)))
    return out


def _take(x: Any, rows: np.ndarray) -> np.ndarray:
    """Return rows of an array that may be read in pieces."""
    if isinstance(x, np.ndarray):
        return x[rows]
    order = np.argsort(rows)  # h5py asks for rising indices; others read them faster
    out = np.empty((len(rows), *x.shape[1:]), dtype_of(x))
    out[order] = np.asarray(x[rows[order]])
    return out
