"""Sources on the host that others make: a function of the step, and what is iterated in passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from odyssey_jax._types import Batch, PyTree, Transform
from odyssey_jax.data._contents import checksum
from odyssey_jax.data._hosted import StepReader
from odyssey_jax.data._json import from_json, to_json
from odyssey_jax.data._leaves import batch_of, forms_of, length_of
from odyssey_jax.data._source import Reader, Resumes


@dataclasses.dataclass(eq=False, kw_only=True, repr=False)
class Stream:
    """What every source of others' batches has: their form, and how many there are.

    Attributes:
        name: What errors call it, such as "train".
        kind: What it is, in words, such as "torch DataLoader".
        steps_per_pass: Batches in a pass; None where that is not known, or there is no end.
        remainder: Examples in a pass's last, smaller batch; 0 where there is none.
        transform: Pure function `(batch, key) -> batch` of the compiled step, or None.
        repeatable: Whether another process reads the same first batch; None is unless there is a
            state, which knows an order that may be drawn anew.
    """

    name: str
    kind: str
    steps_per_pass: int | None = None
    remainder: int = 0
    transform: Transform | None = None
    repeatable: bool | None = None

    def __post_init__(self) -> None:
        if self.steps_per_pass == 0:
            raise ValueError(f"{self.name} is a {self.kind} without a batch: its length is 0.")
        first = self.checked(self.first())
        self._spec = forms_of(self.name, first)
        known = self.resumes in ("by step", "by skipping")
        self._fingerprint = checksum(first) if self.repeatable or known else None
        if self.remainder == self.batch_size:  # a pass of one batch, which is not whole
            self.remainder = 0

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.steps_per_pass or 'any number of'} batches a pass>"

    def first(self) -> Batch:
        """Read the first batch of all."""
        raise NotImplementedError

    @property
    def resumes(self) -> Resumes:
        """How reading begins in the middle of a run."""
        raise NotImplementedError

    def reader(self, seed: int, step: int, state: Any = None) -> Reader:
        """Begin to read."""
        raise NotImplementedError

    def checked(self, batch: Any) -> Batch:
        """Return a batch with arrays for leaves; refuse others by path."""
        return batch_of(self.name, batch)

    @property
    def spec(self) -> PyTree:
        """The form of the first batch."""
        return self._spec

    @property
    def batch_size(self) -> int:
        """Examples in the first batch."""
        return length_of(self._spec)

    @property
    def full_batches(self) -> int:
        """Whole batches in a pass; 0 where `steps_per_pass` is None."""
        return (self.steps_per_pass or 0) - (self.remainder > 0)

    def signature(self) -> dict[str, Any]:
        """Return what is known of which batch belongs to a step, as JSON.

        The fingerprint is of the first batch: another order or other contents change it.
        """
        return {
            "kind": self.kind,
            "batch_size": self.batch_size,
            "steps_per_pass": self.steps_per_pass,
            "remainder": self.remainder,
            "fingerprint": self._fingerprint,
        }


@dataclasses.dataclass(eq=False, kw_only=True, repr=False)
class StepFunction(Stream):
    """Batches that are a function of the step, of the whole run and not of a pass.

    Attributes:
        function: `step -> batch`.
    """

    function: Callable[[int], Any]

    @property
    def resumes(self) -> Resumes:
        """A batch is a function of the step."""
        return "by step"

    def first(self) -> Batch:
        """Read the batch of step 0."""
        return self._read(0)

    def reader(self, seed: int, step: int, state: Any = None) -> Reader:
        """Begin to read, at any step; the function has no use for the seed."""
        del seed, state
        return StepReader(lambda s: self.checked(self._read(s)), step, self.steps_per_pass)

    def _read(self, step: int) -> Any:
        batch = self.function(step)
        if batch is None:
            raise ValueError(f"{self.name} gives None in place of the batch of step {step}.")
        if isinstance(batch, Iterator):
            raise ValueError(
                f"{self.name} must be an array of numbers or bools, or a pytree of them, and the "
                f"function of the step gives a {type(batch).__name__}: give one batch, or make it "
                "a generator function (with `yield`) of the pass's index, or of nothing."
            )
        return batch


@dataclasses.dataclass(eq=False, kw_only=True, repr=False)
class Passes(Stream):
    """Batches that are iterated, in one pass after another.

    Attributes:
        begin: `index of the pass -> iterator`.
        by_index: Whether a pass is a function of its index. Otherwise, those before have to be
            read again, and the iterator from which the first batch was read is the first pass.
        save: `iterator -> state`, or None where there is none.
        restore: `(index, state) -> iterator` that goes on with the pass.
        refusal: Why reading can't begin in the middle, and the remedy; "" where it can.
        shared: What all readers read through, of which only one may be under way; or None.
    """

    begin: Callable[[int], Iterator[Any]]
    by_index: bool = False
    save: Callable[[Any], Any] | None = None
    restore: Callable[[int, Any], Iterator[Any]] | None = None
    refusal: str = ""
    shared: Any = None

    @property
    def resumes(self) -> Resumes:
        """By the iterator's state where it has one, and else by skipping, where that is right."""
        if self.save is not None:
            return "by state"
        return "never" if self.refusal else "by skipping"

    def first(self) -> Batch:
        """Read the first batch, and keep it where it can't be read again."""
        iterator = self.begin(0)
        try:
            batch = next(iterator)
        except StopIteration:
            raise ValueError(f"{self.name} is a {self.kind} without a batch.") from None
        self._opened = None
        if self.by_index or self.save:
            close_iterator(iterator)
        else:
            self._opened = batch, iterator
        return batch

    def reader(self, seed: int, step: int, state: Any = None) -> Reader:
        """Begin to read; what comes before is read and dropped, with the first `read`.

        The order is the source's own, and not of the run's seed.

        Raises:
            ValueError: If reading can't begin there.
        """
        del seed
        if state is not None and self.restore is not None:
            try:
                iterator = self.restore(state["pass"], from_json(state["iterator"]))
            except Exception as error:
                error.add_note(
                    f"raised where {self.name}, {self!r}, was to go on from the state that was "
                    "saved with the run: it may have been that of other data"
                )
                raise
            return _PassReader(self, state["pass"], state["batch"], iterator)
        if step and self.refusal:
            raise ValueError(f"{self.name} can't be read from step {step} on: {self.refusal}")
        index, skip = 0, step
        if self.by_index and self.steps_per_pass and step:
            index = (step - 1) // self.steps_per_pass
            skip = step - index * self.steps_per_pass
        opened, self._opened = self._opened, None
        if opened is None:
            return _PassReader(self, index, skip=skip)
        return _PassReader(self, index, iterator=_Chained(*opened), skip=skip)


class _Chained:
    """An iterator with a batch in front; `itertools.chain` could not be closed."""

    def __init__(self, first: Batch, rest: Iterator[Any]) -> None:
        self._first, self._rest = [first], rest

    def __iter__(self) -> _Chained:
        return self

    def __next__(self) -> Batch:
        return self._first.pop() if self._first else next(self._rest)

    def close(self) -> None:
        close_iterator(self._rest)


class _PassReader:
    """A `Reader` of `Passes`."""

    def __init__(
        self,
        source: Passes,
        index: int,
        batch: int = 0,
        iterator: Iterator[Any] | None = None,
        skip: int = 0,
    ) -> None:
        self._source, self._index, self._batch = source, index, batch
        self._iterator, self._skip = iterator, skip

    def read(self) -> Batch | None:
        """Return the next batch, or None at the end of a pass."""
        while self._skip:
            self._skip -= self._next() is not None
        batch = self._next()
        return None if batch is None else self._source.checked(batch)

    def state(self) -> Any:
        """Return, as JSON, the pass, the batch and the iterator's state."""
        save = self._source.save
        if save is None:
            return None
        state = to_json(save(self._running()), f"the state of {self._source.name}")
        return {"pass": self._index, "batch": self._batch, "iterator": state}

    def close(self) -> None:
        """Close the iterator."""
        if self._iterator is not None:
            close_iterator(self._iterator)
            self._iterator = None

    def _running(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = self._source.begin(self._index)
        return self._iterator

    def _next(self) -> Any:
        source, length = self._source, self._source.steps_per_pass
        try:
            batch = next(self._running())
        except StopIteration:
            self._check_end(length)
            self.close()
            self._index, self._batch = self._index + 1, 0
            return None
        if batch is None:
            raise ValueError(f"{source.name} gives None in place of batch {self._where()}.")
        self._batch += 1
        if length is not None and self._batch > length:
            raise ValueError(
                f"{source.name} has more than the {length} batches of its length in the pass of "
                f"index {self._index}: correct its length, or leave it out."
            )
        return batch

    def _check_end(self, length: int | None) -> None:
        if length is not None and self._batch != length:
            raise ValueError(
                f"{self._source.name} ended at batch {self._where()}, of which its length "
                f"promises {length}: correct its length, or the data."
            )
        if not self._batch:
            raise ValueError(
                f"{self._source.name} has no batch in the pass of index {self._index}: it must "
                "give its batches anew for every pass. If it can be read once only, give a "
                "function that makes it."
            )

    def _where(self) -> str:
        return f"{self._batch} of the pass of index {self._index}"


def close_iterator(iterator: Any) -> None:
    """Give back what an iterator holds, where it can be told to."""
    close = getattr(iterator, "close", None)
    if callable(close):
        close()


def length_or_none(value: Any) -> int | None:
    """Return the length of what is iterated, or None where it has none."""
    try:
        return len(value)
    except TypeError:
        return None
