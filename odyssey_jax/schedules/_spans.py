"""The parts of a schedule, each with the steps in which it is in force."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._compose import Product, Sum, WithNoise
from odyssey_jax.schedules._cooldown import Cooldown
from odyssey_jax.schedules._cycles import Restarts
from odyssey_jax.schedules._join import Join
from odyssey_jax.schedules._piecewise import PiecewiseInterpolate
from odyssey_jax.schedules._retime import ByEpoch, ByEpochFraction, Repeat, Shift, Stretch
from odyssey_jax.schedules._steps import LAST_STEP


class Span(NamedTuple):
    """A stretch of steps in which one formula is in force.

    Attributes:
        kind: The public name of the formula; with noise, "with_noise(<name>)".
        start: Its first step.
        stop: The first step after it; None if it goes on for ever.
        end: The step at which the formula comes to rest if nothing cuts it short; None if it
            never does.
        turn: The steps of the first cycle, of restarts and what else repeats; else None.
    """

    kind: str
    start: float
    stop: float | None
    end: float | None
    turn: float | None = None

    def mapped(self, move: Callable[[float], float]) -> Span:
        """The span with its steps measured otherwise."""
        move = functools.partial(_within, move)
        stop = None if self.stop is None else move(self.stop)
        end = None if self.end is None else move(self.end)
        turn = None if self.turn is None else move(self.turn) - move(0.0)
        return Span(self.kind, move(self.start), stop, end, turn)

    @property
    def rests(self) -> bool:
        """Whether the formula has come to rest by the end of the span."""
        return self.end is not None and (self.stop is None or self.end < self.stop)


def spans(schedule: Schedule) -> list[Span]:
    """The spans of a schedule, in order; those of length 0 are left out.

    Args:
        schedule: The schedule; its numbers must be known.

    Returns:
        At least one span; the first begins at 0, each of the others where one stops.
    """
    return [span for span in _spans(schedule) if span.stop is None or span.stop > span.start]


def _spans(schedule: Schedule) -> list[Span]:
    inner = getattr(schedule, "schedule", None)
    if isinstance(schedule, Join):
        return _joined(schedule)
    if isinstance(schedule, (Product, Sum)):
        ends = [last_end(spans(each)) for each in schedule.schedules]
        known = [end for end in ends if end is not None]
        return [Span(schedule.name, 0, None, max(known) if len(known) == len(ends) else None)]
    if isinstance(schedule, Cooldown):
        return _cooled(schedule)
    if isinstance(schedule, WithNoise):
        return _noisy(schedule)
    if isinstance(schedule, Repeat):
        return [Span(schedule.name, 0, None, None)]
    if isinstance(schedule, Shift):
        return _shifted(spans(schedule.schedule), float(schedule.steps))
    if isinstance(schedule, (Stretch, ByEpochFraction, ByEpoch)):
        factor = float(getattr(schedule, "factor", None) or schedule.steps_per_epoch)  # pyright: ignore[reportAttributeAccessIssue]
        return [span.mapped(lambda t: t * factor) for span in spans(schedule.schedule)]
    if isinstance(schedule, PiecewiseInterpolate) and np.size(schedule.boundaries):
        edges = [0.0, *map(float, schedule.boundaries)]
        parts = [Span(schedule.name, a, b, b) for a, b in itertools.pairwise(edges)]
        return [*parts[:-1], parts[-1]._replace(stop=None)]
    if isinstance(inner, Schedule) and _keeps_time(schedule):
        return spans(inner)
    return [Span(schedule.name, 0, None, _end(schedule), _turn(schedule))]


def _joined(schedule: Join) -> list[Span]:
    found = []
    starts = [0.0, *map(float, schedule.boundaries)]
    for piece, start, stop in zip(schedule.schedules, starts, [*starts[1:], None], strict=True):
        moved = [span.mapped(lambda t, start=start: t + start) for span in spans(piece)]
        found += _between(moved, start, stop)
    return found


def _between(found: list[Span], start: float, stop: float | None) -> list[Span]:
    """What there is of the spans from one step until another."""
    within = []
    for span in found:
        first = max(span.start, start)
        last = stop if span.stop is None or (stop is not None and stop < span.stop) else span.stop
        if last is None or first < last:
            end = None if span.end is None else max(span.end, first)
            within.append(span._replace(start=first, stop=last, end=end))
    return within


def _cooled(schedule: Cooldown) -> list[Span]:
    begin = float(schedule.cooldown_begin)
    steps = max(float(schedule.cooldown_steps) - _last(schedule), 0.0)
    last = Span("cooldown", begin, None, begin + steps)
    return [*_between(spans(schedule.schedule), 0, begin), last]


def _noisy(schedule: WithNoise) -> list[Span]:
    found, begin = spans(schedule.schedule), float(schedule.noise_begin)
    stop = None if schedule.noise_end is None else float(schedule.noise_end)
    noise = [
        span._replace(kind=f"with_noise({span.kind})", end=_quiet(schedule, span))
        for span in _between(found, begin, stop)
    ]
    after = [] if stop is None else _between(found, stop, None)
    return [*_between(found, 0, begin), *noise, *after]


def _quiet(schedule: WithNoise, span: Span) -> float | None:
    """Where a span comes to rest in spite of the noise: at 0, of which any part is 0."""
    rests = span.rests and schedule.mode == "multiplicative"
    return span.end if rests and schedule.schedule(np.float64(span.end)) == 0 else None


def _shifted(found: list[Span], steps: float) -> list[Span]:
    moved = [span.mapped(lambda t: max(t + steps, 0.0)) for span in found]
    return [moved[0]._replace(start=0.0), *moved[1:]]


def _keeps_time(schedule: Schedule) -> bool:
    """Whether it only changes the values of the schedule within: of one that is new, no."""
    return schedule.name in ("scale", "clip")


def _end(schedule: Any) -> float | None:
    """Where a formula comes to rest, by the names that lengths have in all of them."""
    if getattr(schedule, "past_end", "hold") not in ("hold", "zero"):
        return None
    boundaries = getattr(schedule, "boundaries", None)
    if boundaries is not None:
        return float(np.max(boundaries)) if np.size(boundaries) else 0.0
    for name in ("warmup_steps", "decay_steps", "total_steps"):
        if hasattr(schedule, name):
            return max(float(getattr(schedule, name)) - _last(schedule), 0.0)
    # Elsewhere these are the length of one turn, of which there is no last.
    if schedule.name in ("linear", "polynomial"):
        begin = float(schedule.transition_begin)
        return begin + max(float(schedule.transition_steps) - _last(schedule), 0.0)
    return None


def _turn(schedule: Any) -> float | None:
    """The length of the first cycle."""
    if isinstance(schedule, Restarts):
        return _end(schedule.schedule)
    if getattr(schedule, "past_end", None) in ("repeat", "mirror"):
        return _end(dataclasses.replace(schedule, past_end="hold"))
    return None


def _last(schedule: Any) -> int:
    return int(getattr(schedule, "end_on_last_step", False))


def _within(move: Callable[[float], float], step: float) -> float:
    return min(move(step), float(LAST_STEP))


def last_end(found: list[Span]) -> float | None:
    """Where the last span comes to rest; None if it never does."""
    return found[-1].end
