"""A schedule looked at over a whole run: its spans, and its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._base import Schedule
from ._callable import as_schedule
from ._check import require_unit
from ._spans import Span, last_end, spans

# As many steps are looked at one by one; of longer runs, that many and all that are special.
_ALL = 2**16


class Survey(NamedTuple):
    """What there is to see.

    Attributes:
        schedule: The schedule.
        spans: Its spans.
        total: The steps of the run.
        steps: int64, the steps looked at, of 0 to `total - 1`, sorted.
        values: float64, the value at each.
    """

    schedule: Schedule
    spans: list[Span]
    total: int
    steps: np.ndarray
    values: np.ndarray

    def at(self, step: float) -> float:
        """The value at any step or fraction of one."""
        return float(self.schedule(np.float64(step)))

    @property
    def peak(self) -> float:
        """The value that is the farthest from 0."""
        return float(self.values[self.peak_index])

    @property
    def peak_index(self) -> int:
        """Where among the steps the peak is: of several, a joint, or else the first."""
        height = np.abs(self.values)
        highest = np.flatnonzero(height == height.max())
        joint = highest[np.isin(self.steps[highest], self.joints)]
        return int(joint[0] if len(joint) else highest[0])

    @property
    def joints(self) -> np.ndarray:
        """int64, the first step of each span and of each rest, sorted."""
        marks = [x for span in self.spans for x in (span.start, span.end) if x is not None]
        return np.unique(np.ceil(marks).astype(np.int64))

    @property
    def mean(self) -> float:
        """The mean value over the run."""
        if len(self.steps) == self.total:
            return float(self.values.mean())
        return float(np.trapezoid(self.values, self.steps) / (self.total - 1))


def survey(schedule: Schedule | Callable[[Any], Any], total_steps: int | None = None) -> Survey:
    """Look at a schedule.

    Args:
        schedule: The schedule, or a plain function of the step.
        total_steps: The steps of the run; None is until the schedule's end.

    Returns:
        What there is to see.

    Raises:
        ValueError: If the schedule has no end, and `total_steps` is not given; or if it is out
            of range.
    """
    schedule = as_schedule("schedule", schedule)
    schedule(0)  # says so if it has no values yet, or many
    found = spans(schedule)
    if total_steps is None:
        end = last_end(found)
        if end is None:
            raise ValueError(f"total_steps must be given for a schedule without an end: {schedule}")
        total_steps = max(int(np.ceil(end)), 1)
    total = int(require_unit("total_steps", total_steps))
    steps = _steps(found, total)
    values = np.asarray(schedule(steps), np.float64)
    return Survey(schedule, found, total, steps, values)


def _steps(found: list[Span], total: int) -> np.ndarray:
    if total <= _ALL:
        return np.arange(total)
    marks = [x for span in found for x in (span.start, span.end) if x is not None]
    special = np.ceil(np.asarray(marks))[:, None] + np.arange(-2, 3)
    tail = np.geomspace(1, total, 200)
    steps = [np.linspace(0, total - 1, _ALL), special.ravel(), tail, total - tail]
    return np.unique(np.clip(np.concatenate(steps), 0, total - 1).astype(np.int64))
