"""The protocol of data: what a source of batches promises."""

from __future__ import annotations

import inspect
from typing import Any, Literal, Protocol, runtime_checkable

import jax

from odyssey_jax._types import Batch, PyTree, Transform


def transform_of(source: Any) -> Transform | None:
    """Return a source's pure function `(batch, key) -> batch`, or None where it has none.

    It is a part of the compiled step, with a key of its own; in validation the key is None.
    """
    return getattr(source, "transform", None)


def check_transform(transform: Any) -> None:
    """Raise TypeError unless a transform is None, or a function that takes a batch and a key."""
    if transform is None:
        return
    if callable(transform):
        try:
            inspect.signature(transform).bind(None, None)
        except TypeError:
            pass
        except ValueError:  # it does not say what it takes
            return
        else:
            return
    raise TypeError(
        "transform must be a function (batch, key) -> batch, of which the key is None in "
        f"validation; got {transform!r}."
    )


@runtime_checkable
class Source(Protocol):
    """A source of batches, in passes.

    Where the batches come from is one of two kinds: *indexed*, traced on the device
    (`IndexedSource`), or read on the host (`HostSource`). This much the shell knows of each.

    A source may also have a `transform`, a pure function `(batch, key) -> batch` that is part of
    the compiled step: see `transform_of`.
    """

    @property
    def batch_size(self) -> int:
        """Examples in a whole batch."""
        ...

    @property
    def full_batches(self) -> int:
        """Whole batches in a pass; 0 where `steps_per_pass` is None."""
        ...

    @property
    def remainder(self) -> int:
        """Examples in a pass's last, smaller batch; 0 where there is none."""
        ...

    @property
    def steps_per_pass(self) -> int | None:
        """Batches in a pass; None where that is not known, or there is no end."""
        ...

    def signature(self) -> dict[str, Any]:
        """Return what decides which batch belongs to a step, as JSON: a resume compares it."""
        ...


@runtime_checkable
class IndexedSource(Source, Protocol):
    """A source whose batches are traced: a pytree of device arrays, cut by the compiled program.

    `ArrayDataset` is one.
    """

    def order(self, key: jax.Array, index: Any) -> jax.Array | None:
        """Return the order of a pass (traced), or None where it is the data's own."""
        ...

    def batch(self, order: jax.Array | None, index: Any) -> Batch:
        """Return a whole batch of a pass (traced)."""
        ...

    def last_batch(self, order: jax.Array | None) -> Batch:
        """Return a pass's last, smaller batch (traced)."""
        ...


Resumes = Literal["by step", "by state", "by skipping", "never"]


class Reader(Protocol):
    """What a `HostSource` is read through: its batches in order, from a step on."""

    def read(self) -> Batch | None:
        """Return the next batch, or None at the end of a pass; the next one begins the next pass.

        A batch is a pytree of arrays that NumPy takes without a copy, or of JAX's. Only the last
        one of a pass may have fewer examples.
        """
        ...

    def state(self) -> Any:
        """Return, as JSON, what `HostSource.reader` takes to go on after the last batch read.

        None where the source needs none.
        """
        ...

    def close(self) -> None:
        """Give back threads, workers and files."""
        ...


@runtime_checkable
class HostSource(Source, Protocol):
    """A source whose batches come from the host, one after another.

    `resumes` says how reading begins in the middle: "by step", since a batch is a function of the
    step; "by state", by what `Reader.state` gave; "by skipping", by reading and dropping what
    comes before; or "never".
    """

    @property
    def spec(self) -> PyTree:
        """The form of a whole batch: `jax.ShapeDtypeStruct` [batch_size, ...] for each array."""
        ...

    @property
    def resumes(self) -> Resumes:
        """How reading begins in the middle of a run."""
        ...

    def reader(self, seed: int, step: int, state: Any = None) -> Reader:
        """Begin to read.

        Args:
            seed: Of the run's shuffles, in [0, 2**64).
            step: Batches of the run that come before. Where the source resumes "by state", and
                `state` is given, they are those before the state's; where it resumes "by
                skipping", the reader reads and drops them.
            state: From `Reader.state`, or None.
        """
        ...
