"""Schedules that come round again: cyclic."""

from __future__ import annotations

import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case


def _part(total: int) -> int:
    """Of 100 steps, 14: none of those at which gradients are checked is at a joint then."""
    return max(total // 7, 1)


def _triangle(t: np.ndarray, up: int, down: int) -> np.ndarray:
    u = t % (up + down)
    return np.where(u <= up, u / max(up, 1), (up + down - u) / max(down, 1))


CASES = [
    Case(
        "cyclic",
        lambda n: ody_s.cyclic(0.0, 0.3, _part(n), 2 * _part(n)),
        lambda t, n: 0.3 * _triangle(t, _part(n), 2 * _part(n)),
    ),
    Case(
        "cyclic down first",  # the momentum of the row above
        lambda n: ody_s.cyclic(0.95, 0.85, _part(n), 2 * _part(n)),
        lambda t, n: 0.95 - 0.1 * _triangle(t, _part(n), 2 * _part(n)),
    ),
    Case(
        "cyclic triangular2",
        lambda n: ody_s.cyclic(0.01, 0.3, 3 * _part(n), mode="triangular2"),
        lambda t, n: (
            0.01 + 0.29 * _triangle(t, 3 * _part(n), 3 * _part(n)) * 0.5 ** (t // (6 * _part(n)))
        ),
    ),
    Case(
        "cyclic exp_range",
        lambda n: ody_s.cyclic(0.01, 0.3, _part(n), 0, "exp_range", 1 - 1 / max(n, 10)),
        lambda t, n: 0.01 + 0.29 * (t % _part(n) / _part(n)) * (1 - 1 / max(n, 10)) ** t,
    ),
    Case(
        "cyclic amplitude of the cycle",
        lambda n: ody_s.cyclic(0.01, 0.3, _part(n), amplitude=ody_s.cosine_decay(1.0, 40, 0.1)),
        lambda t, n: (
            0.01
            + 0.29
            * _triangle(t, _part(n), _part(n))
            * (0.1 + 0.9 * np.sin(np.pi / 2 * np.clip(40 - t // (2 * _part(n)), 0, 40) / 40) ** 2)
        ),
    ),
    Case(
        "cyclic amplitude of the step",
        lambda n: ody_s.cyclic(
            0.01,
            0.3,
            0,
            _part(n),
            amplitude=ody_s.linear_warmup(0.5, n, 1.0),
            amplitude_of="step",
        ),
        lambda t, n: (
            0.01
            + 0.29
            * (1 - t % _part(n) / _part(n))
            * (1 - 0.5 * (np.clip(t, 0, n) / n if n else 1.0))
        ),
    ),
]
