"""The batches of a source that is read, each checked against the first."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import Batch, PyTree
from odyssey_jax.data import HostSource


class Batches:
    """The batches of a source one by one, checked: each against the first, and where passes end."""

    def __init__(
        self,
        source: HostSource,
        seed: int,
        step: int,
        position: tuple[int, Any] | None,
        steps: int | None,
        passes: bool,
    ):
        self._source, self._seed, self._start = source, seed, step
        self._position = position if source.resumes == "by state" else None
        self._until = None if steps is None else step + steps
        self._passes, self._reader = passes, None
        self._like_first, self.over = _LikeFirst(source.spec), False
        self.at = step
        self.seconds, self.read = 0.0, 0
        length = source.steps_per_pass
        self._length, self._in_pass = length, 0 if length is None else step % length
        self._smaller = False

    def open(self) -> None:
        """Begin to read, where the run goes on."""
        self.at, state = self._position or (self._start, None)
        if self._length is not None:
            self._in_pass = self.at % self._length
        self._reader = self._source.reader(self._seed, self.at, state)
        while self.at < self._start:  # read after the state was taken, and trained on
            self.next()

    def close(self) -> None:
        """Close the reader."""
        if self._reader is not None:
            self._reader.close()

    def mark(self) -> tuple[int, Any] | None:
        """Return where a reader can go on: this step and the state."""
        assert self._reader is not None
        return (self.at, self._reader.state()) if self._source.resumes == "by state" else None

    def next(self) -> tuple[Batch | None, bool]:
        """Return the next batch, and whether it is a smaller one; None where there is no more."""
        if self._until is not None and self.at >= self._until:
            self.over = True
            return None, False
        while (batch := self._read()) is None:
            self._end_pass()
            if self.over:
                return None, False
        rows = self._like_first.rows(batch, self.at)
        if self._smaller:
            raise ValueError(
                f"the batch of step {self.at - 1:,} has fewer examples than the first one, and is "
                f"not the last of its pass over {self._source!r}: drop it, fill it up with pad_to, "
                "or make all batches of one size."
            )
        self._smaller = rows < self._source.batch_size
        self.at, self._in_pass = self.at + 1, self._in_pass + 1
        return batch, self._smaller

    def _read(self) -> Batch | None:
        assert self._reader is not None
        begun = time.monotonic()
        try:
            batch = self._reader.read()
        except Exception as error:
            error.add_note(f"while reading the batch of step {self.at:,} from {self._source!r}")
            raise
        self.seconds += time.monotonic() - begun
        self.read += batch is not None
        return batch

    def _end_pass(self) -> None:
        if self.at > 0 and not (self._in_pass or self.read):
            return  # a reader that goes on at the end of a pass may say so first
        if (self._length is not None and self._in_pass != self._length) or not self._in_pass:
            promised = "at least one" if self._length is None else f"{self._length:,}"
            raise ValueError(
                f"a pass over {self._source!r} ended after {self._in_pass:,} batches, at step "
                f"{self.at:,}, and was to have {promised}."
            )
        self._in_pass, self._smaller, self.over = 0, False, not self._passes


class _LikeFirst:
    """Checks that batches are like the first one: at once where they are, and else by path."""

    def __init__(self, spec: PyTree):
        self._spec = spec
        leaves, self._form = jax.tree.flatten(spec)
        self._size = leaves[0].shape[0]
        self._arrays = [(x.shape[1:], x.dtype) for x in leaves]

    def rows(self, batch: Batch, step: int) -> int:
        """Return the examples of a batch; raise ValueError unless it is like the first one."""
        leaves, form = jax.tree.flatten(batch)
        forms = [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in leaves]
        (rows, *_) = (form == self._form and forms[0][0]) or (0,)
        wanted = [((rows, *rest), dtype) for rest, dtype in self._arrays]
        if 0 < rows <= self._size and forms == wanted:
            return rows
        return _check(batch, self._spec, step)


def _check(batch: Batch, spec: PyTree, step: int) -> int:
    """Return the examples of a batch, also in dtypes of 64 bits; name what is not as it was."""
    leaves, form = jax.tree.flatten(batch)
    wanted, wanted_form = jax.tree.flatten(spec)
    if form != wanted_form:
        raise ValueError(
            f"the batch of step {step:,} is not like the first one: it is {form}, and that was "
            f"{wanted_form}."
        )
    rows = {np.shape(x)[0] if np.ndim(x) else 0 for x in leaves}
    size = wanted[0].shape[0]
    for number, (x, like) in enumerate(zip(leaves, wanted, strict=True)):
        alike = np.shape(x)[1:] == like.shape[1:] and _dtype(x) == _dtype(like)
        if alike and len(rows) == 1 and 0 < min(rows) <= size:
            continue
        path = jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(spec)[number][0])
        raise ValueError(
            f"the batch of step {step:,} is not like the first one: batch{path} is "
            f"{_dtype(x)}{list(np.shape(x))}, and that was {_dtype(like)}{list(like.shape)}. A "
            "compiled step has one shape: pad with pad_to, or drop what is smaller."
        )
    return rows.pop()


def _dtype(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    dtype = np.asarray(x).dtype if dtype is None else dtype
    return (
        dtype
        if jnp.issubdtype(dtype, jax.dtypes.extended)
        else jax.dtypes.canonicalize_dtype(dtype)
    )
