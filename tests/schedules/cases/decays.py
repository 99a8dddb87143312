"""Decays and warm-ups: lines, powers, geometric progressions, and all that has a table."""

from __future__ import annotations

import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, line


def _left(t: np.ndarray, total: int) -> np.ndarray:
    return np.clip(total - t, 0, total) / total if total else np.zeros_like(t)


def _stretched(t: np.ndarray, total: int) -> np.ndarray:
    """What is left of the least multiple of the horizon that is not over."""
    multiple = np.maximum(np.ceil(t / max(total, 1)), 1) * total
    return (multiple - t) / multiple if total else np.zeros_like(t)


def _less_power(left: np.ndarray, power: float) -> np.ndarray:
    """`1 - (1 - left) ** power` with float64's digits."""
    with np.errstate(divide="ignore"):
        return -np.expm1(power * np.log1p(-left))


CASES = [
    Case(
        "linear",
        lambda n: ody_s.linear(0.3, 0.0, n),
        lambda t, n: 0.3 * _left(t, n),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "linear begun late",
        lambda n: ody_s.linear(0.01, 0.3, n // 2, n // 4),
        lambda t, n: line(t - n // 4, 0.01, 0.3, n // 2),
        lambda n: (0.01 if n // 2 else 0.3, 0.3),
    ),
    Case(
        "linear mirror",
        lambda n: ody_s.linear(0.3, 0.01, n, past_end="mirror"),
        lambda t, n: line(n - abs(n - t % (2 * max(n, 1))), 0.3, 0.01, n),
    ),
    Case(
        "linear stretch",
        lambda n: ody_s.linear(0.3, 0.0, n, past_end="stretch"),
        lambda t, n: 0.3 * _stretched(t, n),
    ),
    Case(
        "polynomial",
        lambda n: ody_s.polynomial(0.3, 0.0, 2.0, n),
        lambda t, n: 0.3 * _left(t, n) ** 2,
        lambda _: (0.3, 0.0),
    ),
    Case(
        "polynomial root begun late",
        lambda n: ody_s.polynomial(0.01, 0.3, 0.3, n // 2, n // 4, end_on_last_step=n > 3),
        lambda t, n: 0.3 - 0.29 * _left(t - n // 4, n // 2 - (n > 3)) ** 0.3,
        lambda n: (0.01 if n // 2 else 0.3, 0.3),
    ),
    Case(
        "polynomial steep",
        lambda n: ody_s.polynomial(0.3, 0.01, 30.0, n),
        lambda t, n: 0.01 + 0.29 * _left(t, n) ** 30.0,
        lambda _: (0.3, 0.01),
    ),
    Case(
        "polynomial k_decay",
        lambda n: ody_s.polynomial(0.3, 0.0, 0.5, n, k_decay=1.5),
        lambda t, n: 0.3 * _less_power(_left(t, n), 1.5) ** 0.5,
        lambda _: (0.3, 0.0),
    ),
    Case(
        "polynomial stretch",
        lambda n: ody_s.polynomial(0.3, 0.0, 2.5, n, past_end="stretch"),
        lambda t, n: 0.3 * _stretched(t, n) ** 2.5,
    ),
    Case(
        "geometric_decay",
        lambda n: ody_s.geometric_decay(0.3, n, 1e-7),
        lambda t, n: 0.3 * (1e-7 / 0.3) ** (1 - _left(t, n)),
        lambda _: (0.3, 1e-7),
    ),
    Case(
        "geometric_decay stretch",
        lambda n: ody_s.geometric_decay(0.3, n, 1e-3, past_end="stretch"),
        lambda t, n: 1e-3 * (0.3 / 1e-3) ** _stretched(t, n),
    ),
]
