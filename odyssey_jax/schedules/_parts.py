"""The parts of a schedule, each with the steps in which it is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from odyssey_jax.schedules._numbers import Wide, exact
from odyssey_jax.schedules._steps import LAST_STEP


class Part(NamedTuple):
    """A stretch of steps in which one formula is in force; see `Schedule.parts`.

    Attributes:
        kind: The public name of the formula; with noise, "with_noise(<name>)".
        start: Its first step.
        stop: The first step after it; None if it goes on for ever.
        end: The step at which the formula comes to rest if nothing cuts it short; None if it
            never does.
        turn: The steps of the first cycle, of restarts and what else repeats; else None.
    """

    kind: str
    start: float = 0.0
    stop: float | None = None
    end: float | None = None
    turn: float | None = None

    @property
    def rests(self) -> bool:
        """Whether the formula has come to rest by the end of the part."""
        return self.end is not None and (self.stop is None or self.end < self.stop)


def known_steps(x: Any) -> float:
    """Return a number of steps that is known, as a float."""
    return float(exact(x) if isinstance(x, Wide) else x)


def last_end(parts: list[Part]) -> float | None:
    """Return where the last part comes to rest; None if it never does."""
    return parts[-1].end


def lasting(parts: list[Part]) -> list[Part]:
    """Return the parts without those of length 0."""
    return [part for part in parts if part.stop is None or part.stop > part.start]


def moved(parts: list[Part], move: Callable[[float], float]) -> list[Part]:
    """Return parts with their steps measured otherwise."""
    to = lambda step: min(move(step), float(LAST_STEP))
    return [
        Part(
            part.kind,
            to(part.start),
            None if part.stop is None else to(part.stop),
            None if part.end is None else to(part.end),
            None if part.turn is None else to(part.turn) - to(0.0),
        )
        for part in parts
    ]


def limited(parts: list[Part], start: float, stop: float | None) -> list[Part]:
    """Return what there is of the parts from one step until another."""
    within = []
    for part in parts:
        first = max(part.start, start)
        last = stop if part.stop is None or (stop is not None and stop < part.stop) else part.stop
        if last is None or first < last:
            end = None if part.end is None else max(part.end, first)
            within.append(part._replace(start=first, stop=last, end=end))
    return within
