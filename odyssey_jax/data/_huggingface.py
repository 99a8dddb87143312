"""Sources from Hugging Face's `datasets`."""

from __future__ import annotations

import copy
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from odyssey_jax._types import Batch, PyTree
from odyssey_jax.data._hosted import HostDataset
from odyssey_jax.data._leaves import batch_of
from odyssey_jax.data._streams import Passes, Stream

_SAMPLED_ROWS = 256


def is_table(value: Any) -> bool:
    """Return whether it is a `datasets.Dataset`."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(value, datasets.Dataset)


class TableDataset(HostDataset):
    """A `datasets.Dataset`, whose rows are taken as those of arrays on the host are."""

    def __len__(self) -> int:
        return len(self.data)

    @property
    def spec(self) -> PyTree:
        """The form of a whole batch."""
        shape = lambda x: jax.ShapeDtypeStruct((self.batch_size, *x.shape[1:]), x.dtype)
        return jax.tree.map(shape, vars(self)["_first"])

    def _checked(self) -> Any:
        # A transform of the data set's own stays: it makes what the columns have not.
        own = self.data.format["type"] == "custom"
        data = self.data if own else self.data.with_format("numpy")
        if not len(data):
            raise ValueError("the Hugging Face Dataset has no example.")
        try:
            object.__setattr__(self, "_first", batch_of("data", data[:1]))
        except ValueError as error:
            raise ValueError(f"{error} Or drop the column by .remove_columns([...]).") from error
        return data

    def _fingerprint(self) -> int:
        # As they are stored: what is decoded, or transformed, may be random.
        rows = np.linspace(0, len(self) - 1, min(len(self), _SAMPLED_ROWS)).astype(np.int64)
        stored = self.data.with_format("arrow")[rows]
        return zlib.crc32(repr(stored.to_pydict()).encode())

    def _take(self, rows: slice | np.ndarray, pool: ThreadPoolExecutor | None) -> Batch:
        del pool  # it reads on its own
        return batch_of("data", self.data[rows])


def huggingface_stream(name: str, value: Any) -> Stream | None:
    """Return the stream of a `datasets.IterableDataset`, or None if it is none."""
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(value, datasets.IterableDataset):
        return None

    def begin(index: int, state: Any = None) -> _Iterating:
        return _Iterating(value, index, state)

    # What its shuffle buffer holds is not in its state.
    state: dict[str, Any] = {"save": lambda iterator: iterator.state(), "restore": begin}
    return Passes(
        name=name,
        kind="Hugging Face IterableDataset",
        begin=begin,
        by_index=True,
        repeatable=True,
        **({} if _is_shuffled(value) else state),
    )


class _Iterating:
    """One pass, of a copy: the state is kept in the data set's steps, and one that is loaded stays.

    Arrow's tables are shared by the copies.
    """

    def __init__(self, value: Any, index: int, state: Any) -> None:
        # The process's cache of file systems is shared: to copy one of them puts it there.
        cache = vars(value).get("_IterableDataset__hffs_cache")
        self._data = copy.deepcopy(value, {} if cache is None else {id(cache): cache})
        self._data.set_epoch(index)
        if state is not None:
            self._data.load_state_dict(state)
        self._rows = iter(self._data)
        self._state, self._is_begun = state, False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._is_begun = True
        return next(self._rows)

    def state(self) -> Any:
        return self._data.state_dict() if self._is_begun else self._state


def _is_shuffled(value: Any) -> bool:
    """Return whether there is a shuffle buffer among the steps of a data set."""
    steps, seen = [getattr(value, "_ex_iterable", None)], 0
    while seen < len(steps):
        step, seen = steps[seen], seen + 1
        if step is None or hasattr(step, "buffer_size"):
            return True
        if inner := getattr(step, "ex_iterable", None):
            steps.append(inner)
        steps.extend(getattr(step, "ex_iterables", ()))
    return False
