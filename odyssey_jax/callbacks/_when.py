"""When to act: one small algebra for every cadence, pure in where a run was and where it is."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from odyssey_jax._types import Clock

Unit = Literal["epochs", "steps", "examples", "seconds"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_MOST = 2**31 - 1


class Moment(NamedTuple):
    """How far a run is, in each of the units; None where that is not known.

    Attributes:
        epochs: Epochs done.
        steps: Train steps done.
        examples: Examples trained on, each pass over the data counted.
        seconds: Seconds since the training was begun or gone on with.
    """

    epochs: Any = None
    steps: Any = None
    examples: Any = None
    seconds: Any = None


class When:
    """A condition on how far a run is, to be joined with `&`, `|` and `~`.

    Whoever acts on a condition looks at it from time to time: a callback at the ends of epochs,
    `fit` whenever the loop is back. It is a function of the look before and of this one, so a
    mark that lies between two looks is seen at the later, and several are seen as one. It has
    no state, it is hashable and compared by value, and it can be traced.

    `every`, `at`, `after` and `until` make one.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import Moment
        >>> late = ody.every(epochs=5) & ody.after(epochs=20) | ody.callbacks.at(epochs=[1, 2])
        >>> late
        every(epochs=5) & after(epochs=20) | at(epochs=(1, 2))
        >>> [n for n in range(1, 31) if late.holds(Moment(n - 1), Moment(n))]
        [1, 2, 20, 25, 30]
    """

    @property
    def units(self) -> frozenset[Unit]:
        """The units that must be known to decide it."""
        raise NotImplementedError

    def signature(self) -> str:
        """Return the condition as text, which `callback_signature` takes up."""
        return repr(self)

    def holds(self, before: Moment, now: Moment) -> Any:
        """Decide it.

        Args:
            before: Where the run was at the last look; at first, `Moment(0, 0, 0, 0)`.
            now: Where it is, not before that.

        Returns:
            bool, or a bool array if the moments hold arrays.

        Raises:
            ValueError: If a unit is not known.
        """
        raise NotImplementedError

    def next_mark(self, unit: Unit, done: Any) -> Any:
        """Find where to look next, so that nothing is seen late.

        Args:
            unit: One of the units.
            done: How many of it are done.

        Returns:
            The next number of it, greater than `done`, at which the condition may change; None
            if there is none.
        """
        raise NotImplementedError

    def __and__(self, other: When) -> When:
        return _join(And, self, other)

    def __or__(self, other: When) -> When:
        return _join(Or, self, other)

    def __invert__(self) -> When:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is neither true nor false by itself: join with &, | and ~.")


@dataclasses.dataclass(frozen=True, repr=False)
class _Atom(When):
    """A condition on one unit."""

    unit: Unit
    number: Any

    def __repr__(self) -> str:
        return f"{type(self).__name__.lower()}({self.unit}={self.number!r})"

    @property
    def units(self) -> frozenset[Unit]:
        return frozenset({self.unit})

    def holds(self, before: Moment, now: Moment) -> Any:
        counts = [getattr(moment, self.unit) for moment in (before, now)]
        if any(count is None for count in counts):
            raise ValueError(f"{self!r} can't be decided where the {self.unit} are not known.")
        return self._between(*counts)

    def next_mark(self, unit: Unit, done: Any) -> Any:
        return self._next(done) if unit == self.unit else None

    def _between(self, before: Any, now: Any) -> Any:
        raise NotImplementedError

    def _next(self, done: Any) -> Any:
        raise NotImplementedError


class Every(_Atom):
    """What `every` makes."""

    def _between(self, before: Any, now: Any) -> Any:
        return now // self.number > before // self.number

    def _next(self, done: Any) -> Any:
        return (done // self.number + 1) * self.number


class At(_Atom):
    """What `at` makes."""

    def _between(self, before: Any, now: Any) -> Any:
        inside = ((before < mark) & (mark <= now) for mark in self.number)
        return functools.reduce(operator.or_, inside, False)

    def _next(self, done: Any) -> Any:
        return next((mark for mark in self.number if mark > done), None)


class After(_Atom):
    """What `after` makes."""

    def _between(self, before: Any, now: Any) -> Any:
        del before
        return now >= self.number

    def _next(self, done: Any) -> Any:
        return self.number if done < self.number else None


@dataclasses.dataclass(frozen=True, repr=False)
class _Joined(When):
    """Several conditions as one."""

    conditions: tuple[When, ...]

    @property
    def units(self) -> frozenset[Unit]:
        return frozenset().union(*(condition.units for condition in self.conditions))

    def next_mark(self, unit: Unit, done: Any) -> Any:
        marks = (condition.next_mark(unit, done) for condition in self.conditions)
        return min((mark for mark in marks if mark is not None), default=None)

    def _values(self, before: Moment, now: Moment) -> list[Any]:
        return [condition.holds(before, now) for condition in self.conditions]


class And(_Joined):
    """What `&` makes."""

    def holds(self, before: Moment, now: Moment) -> Any:
        return functools.reduce(operator.and_, self._values(before, now))

    def __repr__(self) -> str:
        return " & ".join(_in_brackets(condition, Or) for condition in self.conditions)


class Or(_Joined):
    """What `|` makes."""

    def holds(self, before: Moment, now: Moment) -> Any:
        return functools.reduce(operator.or_, self._values(before, now))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.conditions))


class Not(_Joined):
    """What `~` makes."""

    def __init__(self, condition: When) -> None:
        super().__init__((condition,))

    def holds(self, before: Moment, now: Moment) -> Any:
        return self._values(before, now)[0] ^ True  # `not`, of an array as well

    def __invert__(self) -> When:
        return self.conditions[0]

    def __repr__(self) -> str:
        return f"~{_in_brackets(self.conditions[0], And, Or)}"


def _in_brackets(condition: When, *kinds: type[When]) -> str:
    return f"({condition!r})" if isinstance(condition, kinds) else repr(condition)


def _join(kind: type[And] | type[Or], left: Any, right: Any) -> When:
    """Join two conditions; those that are joined alike already are laid out flat."""
    if not isinstance(right, When):
        return NotImplemented
    parts = (x.conditions if isinstance(x, kind) else (x,) for x in (left, right))
    return kind(tuple(part for several in parts for part in several))


def every(
    *,
    epochs: int | None = None,
    steps: int | None = None,
    examples: int | None = None,
    seconds: float | None = None,
) -> When:
    """Hold each time that so many more of a unit are done, counted from the beginning.

    Args:
        epochs: Epochs, at least 1.
        steps: Train steps, at least 1.
        examples: Examples trained on, at least 1.
        seconds: Seconds of training, greater than 0; counted anew when a run is gone on with.

    Returns:
        A condition.

    Raises:
        ValueError: If not exactly one of them is given, or it is out of its range.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import Moment
        >>> saving = ody.checkpoint(ody.every(epochs=5) | ody.every(seconds=600))
        >>> saving.when.holds(Moment(epochs=4, seconds=0), Moment(epochs=4, seconds=601))
        True
    """
    return Every(*_one("every", epochs, steps, examples, seconds, _number))


def at(
    *,
    epochs: int | Iterable[int] | None = None,
    steps: int | Iterable[int] | None = None,
    examples: int | Iterable[int] | None = None,
    seconds: float | Iterable[float] | None = None,
) -> When:
    """Hold once at each of the given numbers of a unit; at none of them, never.

    Args:
        epochs: How many epochs are done, one number or several, each at least 1.
        steps: How many train steps, likewise.
        examples: How many examples were trained on, likewise.
        seconds: How many seconds of training, each greater than 0.

    Returns:
        A condition.

    Raises:
        ValueError: If not exactly one of them is given, or a number is out of its range.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.callbacks.at(steps=[1000, 100]) | ody.callbacks.at(seconds=60.0)
        at(steps=(100, 1000)) | at(seconds=(60.0,))
    """
    return At(*_one("at", epochs, steps, examples, seconds, _numbers))


def after(
    *,
    epochs: int | None = None,
    steps: int | None = None,
    examples: int | None = None,
    seconds: float | None = None,
) -> When:
    """Hold as soon as so many of a unit are done, and from then on.

    Args:
        epochs: Epochs, at least 1.
        steps: Train steps, at least 1.
        examples: Examples trained on, at least 1.
        seconds: Seconds of training, greater than 0; counted anew when a run is gone on with.

    Returns:
        A condition.

    Raises:
        ValueError: If not exactly one of them is given, or it is out of its range.

    Example:
        >>> import odyssey_jax as ody
        >>> from odyssey_jax.callbacks import Moment
        >>> rarely_at_last = ody.every(epochs=1) & ody.until(epochs=3) | ody.every(epochs=4)
        >>> [n for n in range(1, 10) if rarely_at_last.holds(Moment(n - 1), Moment(n))]
        [1, 2, 4, 8]
    """
    return After(*_one("after", epochs, steps, examples, seconds, _number))


def until(
    *,
    epochs: int | None = None,
    steps: int | None = None,
    examples: int | None = None,
    seconds: float | None = None,
) -> When:
    """Hold while fewer than so many of a unit are done: `~after(...)`.

    Args:
        epochs: Epochs, at least 1.
        steps: Train steps, at least 1.
        examples: Examples trained on, at least 1.
        seconds: Seconds of training, greater than 0; counted anew when a run is gone on with.

    Returns:
        A condition.

    Raises:
        ValueError: If not exactly one of them is given, or it is out of its range.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.until(epochs=20) == ~ody.after(epochs=20)
        True
    """
    return ~After(*_one("until", epochs, steps, examples, seconds, _number))


def convert(when: When, unit: Unit, change: Callable[[Unit, Any], Any]) -> When:
    """Return a condition in another unit.

    Args:
        when: The condition.
        unit: The new unit.
        change: Of a unit and a number of it, which returns the number of the new one.

    Returns:
        The condition, joined as it was.

    Example:
        >>> import odyssey_jax as ody
        >>> when = ody.every(epochs=2) & ~ody.until(epochs=10)
        >>> ody.callbacks.convert(when, "steps", lambda _, epochs: 100 * epochs)
        every(steps=200) & after(steps=1000)
    """
    if isinstance(when, Not):
        return Not(convert(when.conditions[0], unit, change))
    if isinstance(when, _Joined):
        return type(when)(tuple(convert(x, unit, change) for x in when.conditions))
    assert isinstance(when, _Atom)
    number = when.number
    several = isinstance(number, tuple)
    found = tuple(change(when.unit, x) for x in (number if several else (number,)))
    return type(when)(unit, found if several else found[0])


def epoch_of(clock: Clock) -> tuple[Moment, Moment]:
    """Return the looks between which the running epoch lies: the one before, and at its end."""
    return Moment(epochs=clock.epoch), Moment(epochs=clock.epoch + 1)


def require_epochs(when: When, whose: str) -> None:
    """Raise unless the ends of epochs are enough to decide the condition."""
    if not isinstance(when, When):
        raise TypeError(f"when must be a condition such as every(epochs=5), got {when!r}.")
    if others := sorted(when.units - {"epochs"}):
        raise ValueError(
            f"{whose} at the ends of epochs, where {' and '.join(others)} don't count: use "
            f"epochs=, got {when!r}."
        )


def _one(name: str, *given_and_check: Any) -> tuple[Unit, Any]:
    """Return the one unit that is given, and its number, checked."""
    *given, check = given_and_check
    pairs = zip(UNITS, given, strict=True)
    found: list[tuple[Unit, Any]] = [(unit, x) for unit, x in pairs if x is not None]
    if len(found) != 1:
        got = ", ".join(f"{unit}={x!r}" for unit, x in found) or "none"
        raise ValueError(
            f"{name} takes exactly one of {', '.join(UNITS)}; got {got}. Join several with & or |."
        )
    unit, number = found[0]
    return unit, check(f"{name}({unit}=...)", unit, number)


def _number(name: str, unit: Unit, number: Any) -> Any:
    if unit == "seconds":
        real = isinstance(number, (int, float, np.integer, np.floating))
        if not real or isinstance(number, bool) or not math.isfinite(number) or number <= 0:
            raise ValueError(f"{name} must be finite and greater than 0, got {number!r}.")
        return float(number) if isinstance(number, np.floating) else number
    integer = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not integer or not 1 <= number <= _MOST:
        raise ValueError(f"{name} must be an integer in the range [1, 2**31 - 1], got {number!r}.")
    return int(number)


def _numbers(name: str, unit: Unit, numbers: Any) -> tuple[Any, ...]:
    several = numbers if isinstance(numbers, Iterable) else (numbers,)
    return tuple(sorted({_number(name, unit, number) for number in several}))
