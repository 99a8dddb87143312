"""Decays and warm-ups: lines, powers, geometric progressions, and all that has a table."""

from __future__ import annotations

import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, cosine, line, unit


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


def _piece(t: np.ndarray, boundaries: list[int]) -> np.ndarray:
    return np.searchsorted(boundaries, t, side="right")


def _cuts(t: np.ndarray, total: int, shift: int) -> np.ndarray:
    return 0.1 ** _piece(t, [total // 8, total // 4 + shift])


def _between(t: np.ndarray, values: list[float], boundaries: list[int], curve) -> np.ndarray:
    """`curve` from each value to the next, one piece at a time."""
    result = np.full_like(t, values[-1])
    starts = [0, *boundaries]
    for v, w, a, b in zip(values[:-1], values[1:], starts[:-1], boundaries, strict=True):
        result = np.where((a <= t) & (t < b), curve(t - a, v, w, b - a), result)
    return result


def _wave(left: np.ndarray) -> np.ndarray:
    return np.sin(np.pi / 2 * left) ** 2


def _triangle(time: np.ndarray) -> np.ndarray:
    """Up to 1 and down to 0, in 2."""
    return 1 - abs(1 - time % 2)


def _waves(t: np.ndarray, total: int, start: float, end: float, halves: int, parts: int):
    """`halves / parts` halves of a cosine, in whole numbers as far as they reach."""
    done = np.minimum(t, total).astype(np.int64) * halves if total else np.int64(halves)
    span = max(total, 1) * parts
    up = span - abs(span - done % (2 * span))
    return np.full_like(t, end) + (start - end) * _wave((span - up) / span)


def _falls(t: np.ndarray, total: int, count: int) -> np.ndarray:
    done = t.astype(np.int64) * count % max(total, 1)
    return np.where(t < total, (total - done) / max(total, 1), 0.0)


def _tangent(left: np.ndarray, lower: float, upper: float) -> np.ndarray:
    return 1 / (1 + np.exp(2 * (lower * left + upper * (1 - left))))


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
    *(
        Case(
            f"polynomial power={power}",
            lambda n, power=power: ody_s.polynomial(0.0, 0.3, power, n),
            lambda t, n, power=power: 0.3 * _less_power(_left(n - t, n), power),
            lambda n: (0.0 if n else 0.3, 0.3),
        )
        for power in (0.5, 0.9, 1, 1.5, 2.0)
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
    Case(
        "multistep_decay",
        lambda n: ody_s.multistep_decay(0.3, [0, n // 4, n // 4, n // 2, n], 0.9),
        lambda t, n: 0.3 * 0.9 ** sum(1.0 * (t >= b) for b in (0, n // 4, n // 4, n // 2, n)),
        jumps=("boundaries",),
    ),
    Case(
        "multistep_decay of one cut",
        lambda n: ody_s.multistep_decay(0.3, [n], 0.5),
        lambda t, n: np.where(t < n, 0.3, 0.15),
        lambda _: (0.3, 0.15),
        jumps=("boundaries",),
    ),
    Case(
        "multistep_decay joined",
        lambda n: ody_s.join(
            [ody_s.multistep_decay(0.3, [n // 8, n // 4 + i]) for i in (0, 1)], [n // 2]
        ),
        lambda t, n: 0.3 * np.where(t < n // 2, _cuts(t, n, 0), _cuts(t - n // 2, n, 1)),
        jumps=("boundaries",),
    ),
    Case(
        "piecewise_constant",
        lambda n: ody_s.piecewise_constant([0.3, 0.1, 2, 0.2], [n // 4, n // 2, n]),
        lambda t, n: np.array([0.3, 0.1, 2, 0.2])[_piece(t, [n // 4, n // 2, n])],
        lambda n: (0.3 if n // 4 else 0.1 if n // 2 else 2, 0.2),
        jumps=("boundaries",),
    ),
    Case(
        "piecewise_constant joined",
        lambda n: ody_s.join(
            [ody_s.piecewise_constant([0.3, 0.1 * i], [n // 4]) for i in (1, 2)], [n // 2]
        ),
        lambda t, n: np.array([0.3, 0.1, 0.3, 0.2])[_piece(t, [n // 4, n // 2, n // 2 + n // 4])],
        jumps=("boundaries",),
    ),
    Case(
        "piecewise_interpolate",
        lambda n: ody_s.piecewise_interpolate([0.3, 0.1, 0.2, 0.0], [n // 4, n // 2, n]),
        lambda t, n: _between(t, [0.3, 0.1, 0.2, 0.0], [n // 4, n // 2, n], line),
        lambda n: (0.3 if n // 4 else 0.1 if n // 2 else 0.2, 0.0),
    ),
    Case(
        "piecewise_interpolate cosine",
        lambda n: ody_s.piecewise_interpolate([1, 0.1, 0.2, 0.0], [n // 4, n // 4, n], "cosine"),
        lambda t, n: _between(t, [1, 0.1, 0.2, 0.0], [n // 4, n // 4, n], cosine),
        lambda n: (1.0 if n // 4 else 0.2, 0.0),
    ),
    Case(
        "cosine_decay exponent",
        lambda n: ody_s.cosine_decay(0.3, n, exponent=1.7),
        lambda t, n: 0.3 * _wave(_left(t, n)) ** 1.7,
        lambda _: (0.3, 0.0),
    ),
    Case(
        "cosine_decay k_decay",
        lambda n: ody_s.cosine_decay(0.3, n, k_decay=1.5),
        lambda t, n: 0.3 * _wave(_less_power(_left(t, n), 1.5)),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "cosine_decay of a quarter of a cycle",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, num_cycles=0.25),
        lambda t, n: _waves(t, n, 0.3, 0.01, 1, 2),
        lambda _: (0.3, 0.155),
    ),
    Case(
        "cosine_decay of two cycles",
        lambda n: ody_s.cosine_decay(0.3, n, num_cycles=2),
        lambda t, n: _waves(t, n, 0.3, 0.0, 4, 1),
        lambda _: (0.3, 0.3),
    ),
    Case(
        "cosine_decay of one and a half cycles, stretch",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, num_cycles=1.5, past_end="stretch"),
        lambda t, n: 0.01 + 0.29 * np.cos(1.5 * np.pi * (1 - _stretched(t, n))) ** 2,
    ),
    Case(
        "cosine_decay of any number of cycles",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, 1.7, 1.13, 1.5),
        lambda t, n: 0.01 + 0.29 * _wave(1 - _triangle(2.26 * (1 - _left(t, n))) ** 1.5) ** 1.7,
    ),
    Case(
        "cosine_decay hard_restarts",
        lambda n: ody_s.cosine_decay(0.3, n, num_cycles=3, hard_restarts=True),
        lambda t, n: 0.3 * _wave(_falls(t, n, 3)),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "cosine_warmup",
        lambda n: ody_s.cosine_warmup(0.3, n),
        lambda t, n: 0.3 * _wave(np.minimum(t, n) / n),
        lambda _: (0.0, 0.3),
    ),
    Case(
        "sqrt_decay",
        lambda n: ody_s.sqrt_decay(0.3, n),
        lambda t, n: 0.3 * _less_power(_left(t, n), 0.5),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "sqrt_decay repeat",
        lambda n: ody_s.sqrt_decay(0.3, n, 0.01, past_end="repeat"),
        lambda t, n: 0.3 - 0.29 * np.sqrt((t % n) / n),
    ),
    Case(
        "sqrt_warmup",
        lambda n: ody_s.sqrt_warmup(0.3, n, 0.01),
        lambda t, n: 0.3 - 0.29 * np.sqrt(_left(t, n)),
        lambda _: (0.01, 0.3),
    ),
    Case(
        "tanh_decay",
        lambda n: ody_s.tanh_decay(0.3, n),
        lambda t, n: np.where(t < n, 0.3 * _tangent(_left(t, n), -7.0, 3.0), 0.0),
    ),
    Case(
        "tanh_decay from the start",
        lambda n: ody_s.tanh_decay(0.3, n, 0.01, -20.0, 15.0),
        lambda t, n: np.where(t < n, 0.01 + 0.29 * _tangent(_left(t, n), -20.0, 15.0), 0.01),
        lambda _: (0.3, 0.01),
    ),
    Case(
        "tanh_decay to 0",
        lambda n: ody_s.tanh_decay(0.3, n, 0, -6.0, 18.0, end_on_last_step=True),
        lambda t, n: np.where(t < n - 1, 0.3 * _tangent(_left(t, n - 1), -6.0, 18.0), 0.0),
    ),
    Case(
        "inverse_sqrt",
        lambda n: ody_s.inverse_sqrt(0.3, unit(n)),
        lambda t, n: 0.3 / np.sqrt(1 + t / unit(n)),
    ),
    Case(
        "inverse_time_decay",
        lambda n: ody_s.inverse_time_decay(0.3, unit(n), 0.7),
        lambda t, n: 0.3 / (1 + 0.7 * t / unit(n)),
    ),
    Case(
        "inverse_time_decay staircase",
        lambda n: ody_s.inverse_time_decay(0.3, unit(n), 0.7, True),
        lambda t, n: 0.3 / (1 + 0.7 * (t // unit(n))),
        jumps=("transition_steps",),
    ),
    Case(
        "power_decay",
        lambda n: ody_s.power_decay(0.3, unit(n), 3.3),
        lambda t, n: 0.3 * (1 + t / unit(n)) ** -3.3,
    ),
]
