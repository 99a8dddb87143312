"""What a row of the table of all schedules is, and the float64 formulas that rows share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from odyssey_jax.schedules import Schedule

Oracle = Callable[[np.ndarray, int], np.ndarray]
LAST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One schedule: how to build it for a horizon, and its formula in float64.

    `ends` is (value at 0, value at the horizon and after), or None where there is no end. `jumps`
    names the leaves in which the value is piecewise constant: there the derivative is 0.
    """

    name: str
    build: Callable[[int], Schedule]
    oracle: Oracle
    ends: Callable[[int], tuple[float, float]] | None = None
    jumps: tuple[str, ...] = ()


def cosine(t: np.ndarray, start: float, end: float, total: int) -> np.ndarray:
    left = np.clip(total - t, 0, total) / total if total else np.zeros_like(t)
    return end + (start - end) * np.sin(np.pi / 2 * left) ** 2


def line(t: np.ndarray, start: float, end: float, total: int) -> np.ndarray:
    done = np.clip(t, 0, total) / total if total else np.ones_like(t)
    return start + (end - start) * done


def unit(total: int) -> int:
    return max(total // 64, 1)


def same_shape(steps: np.ndarray) -> np.ndarray:
    """Repeat steps to one common length: all tests then share their programs."""
    assert len(steps) <= 1000
    return np.resize(np.asarray(steps), 1000)
