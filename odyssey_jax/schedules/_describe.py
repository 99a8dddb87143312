"""A schedule surveyed over a run, and described in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule
from odyssey_jax.schedules._fields import SOME_STEPS
from odyssey_jax.schedules._parts import Part, last_end

# So many steps are surveyed one by one; of longer runs, so many and all that are special.
_ALL = 2**16


class Survey(NamedTuple):
    """A schedule over a run: its parts, and its values.

    Attributes:
        schedule: The schedule.
        parts: Its parts.
        total: The steps of the run.
        steps: int64, the steps surveyed, of 0 to `total - 1`, sorted.
        values: float64, the value at each.
    """

    schedule: Schedule
    parts: list[Part]
    total: int
    steps: np.ndarray
    values: np.ndarray

    def at(self, step: float) -> float:
        """Return the value at any step or fraction of one."""
        return float(self.schedule(np.float64(step)))

    @property
    def peak(self) -> float:
        """The value that is the farthest from 0."""
        return float(self.values[self.peak_index])

    @property
    def peak_index(self) -> int:
        """Index of the peak; ties prefer a joint, then the earliest."""
        height = np.abs(self.values)
        highest = np.flatnonzero(height == height.max())
        joint = highest[np.isin(self.steps[highest], self.joints)]
        return int(joint[0] if len(joint) else highest[0])

    @property
    def joints(self) -> np.ndarray:
        """int64, the first step of each part and of each rest, sorted."""
        marks = [x for part in self.parts for x in (part.start, part.end) if x is not None]
        return np.unique(np.ceil(marks).astype(np.int64))

    @property
    def mean(self) -> float:
        """The mean value over the run."""
        if len(self.steps) == self.total:
            return float(self.values.mean())
        return float(np.trapezoid(self.values, self.steps) / (self.total - 1))


def survey(schedule: Schedule | Callable[[Any], Any], total_steps: int | None = None) -> Survey:
    """Survey a schedule over a run.

    Args:
        schedule: The schedule, or a plain function of the step.
        total_steps: The steps of the run; None is until the schedule's end.

    Returns:
        The survey.

    Raises:
        ValueError: If the schedule has no end, and `total_steps` is not given; or if it is out
            of range.
    """
    schedule = as_schedule("schedule", schedule)
    schedule(0)  # says so if it has no values yet, or many
    found = schedule.parts()
    if total_steps is None:
        end = last_end(found)
        if end is None:
            raise ValueError(f"total_steps must be given for a schedule without an end: {schedule}")
        total_steps = max(int(np.ceil(end)), 1)
    total = int(SOME_STEPS("total_steps", total_steps))
    steps = survey_steps(found, total)
    values = np.asarray(schedule(steps), np.float64)
    return Survey(schedule, found, total, steps, values)


def survey_steps(found: list[Part], total: int) -> np.ndarray:
    """Return the steps of a run that are looked at: all, or those where something happens."""
    if total <= _ALL:
        return np.arange(total)
    marks = [x for part in found for x in (part.start, part.end) if x is not None]
    special = np.ceil(np.asarray(marks))[:, None] + np.arange(-2, 3)
    tail = np.geomspace(1, total, 200)
    steps = [np.linspace(0, total - 1, _ALL), special.ravel(), tail, total - tail]
    return np.unique(np.clip(np.concatenate(steps), 0, total - 1).astype(np.int64))


# More parts than this are not all listed.
_MOST = 12


def describe(schedule: Schedule | Callable[[Any], Any], total_steps: int | None = None) -> str:
    """Say in words what a schedule does in a run.

    Args:
        schedule: The schedule, or a plain function of the step.
        total_steps: Steps in the run, in [1, 2**31 - 1]; None is until the schedule's end.

    Returns:
        A line for each part: its steps, its name, and its first and last value in the run; then
        the peak, the end, and the mean. "Area" is the sum of the values.

    Raises:
        ValueError: If the schedule has no end and `total_steps` is not given, or it is not yet
            in steps.

    Example:
        >>> from odyssey_jax.schedules import describe, warmup_cosine
        >>> print(describe(warmup_cosine(0.1, 1_000, 10_000), 12_000))
        steps 0 to 999          linear_warmup, 0 to 0.0999
        steps 1,000 to 9,999    cosine_decay, 0.1 to 3.046e-09
        steps 10,000 to 11,999  held at 0
        peak 0.1 at step 1,000
        end 0 at step 10,000
        mean 0.04167 over 12,000 steps (area 500)
    """
    seen = survey(schedule, total_steps)
    lines = [_line(seen, part) for part in _with_rests(seen)]
    if len(lines) > _MOST:
        middle = ("...", f"{len(lines) - _MOST + 1} more parts")
        lines = [*lines[: _MOST - 2], middle, lines[-1]]
    width = max(len(steps) for steps, _ in lines)
    text = [f"{steps:<{width}}  {what}" for steps, what in lines]
    peak = seen.peak_index
    text.append(f"peak {seen.values[peak]:.4g} at step {seen.steps[peak]:,}")
    end = last_end(seen.parts)
    if end is None:
        text.append(f"no end; {seen.values[-1]:.4g} at the last step, {seen.total - 1:,}")
    else:
        text.append(f"end {seen.at(end):.4g} at step {end:,.10g}")
    area = seen.mean * seen.total
    text.append(f"mean {seen.mean:.4g} over {seen.total:,} steps (area {area:.4g})")
    return "\n".join(text)


def _with_rests(seen: Survey) -> list[Part]:
    """Return the parts that begin in the run, each split where it comes to rest."""
    found = []
    for part in seen.parts:
        if part.start >= seen.total:
            break
        stop = seen.total if part.stop is None else min(part.stop, seen.total)
        end = part.end if part.rests and part.end is not None else stop
        if part.start < min(end, stop):
            found.append(Part(part.kind, part.start, min(end, stop), None))
        if end < stop:
            found.append(Part("held", max(end, part.start), stop, None))
    return found


def _line(seen: Survey, part: Part) -> tuple[str, str]:
    first = int(-(-part.start // 1))
    last = max(int(-(-(part.stop or 0) // 1)) - 1, first)
    steps = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
    if part.kind == "held":
        return steps, f"held at {seen.at(last):.4g}"
    start, end = f"{seen.at(first):.4g}", f"{seen.at(last):.4g}"
    return steps, f"{part.kind}, {start}" if start == end else f"{part.kind}, {start} to {end}"


def from_form(form: Any) -> Schedule | None:
    """Build the schedule of a JSON form, or return None where the form only names a function."""
    try:
        return Schedule.from_json(json.dumps(form))
    except ValueError:
        return None


def named_form(form: Any) -> str:
    """Return a recorded schedule as it prints; a plain function by its name."""
    if not isinstance(form, Mapping):
        return str(form)
    rebuilt = from_form(form)
    return json.dumps(form.get("schedule")) if rebuilt is None else repr(rebuilt)
