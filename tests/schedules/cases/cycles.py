"""Schedules that come round again: cyclic, restarts."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, cosine, line


def _part(total: int) -> int:
    """Of 100 steps, 14: none of those at which gradients are checked is at a joint then."""
    return max(total // 7, 1)


def _triangle(t: np.ndarray, up: int, down: int) -> np.ndarray:
    u = t % (up + down)
    return np.where(u <= up, u / max(up, 1), (up + down - u) / max(down, 1))


def _cycle(t: np.ndarray, first: int, factor: str) -> tuple[np.ndarray, np.ndarray]:
    """Which cycle, and how much of it is left; the starts are exact."""
    if factor == "1":
        return t // first, 1 - t % first / first
    starts, length = [Fraction(0)], Fraction(first)
    while starts[-1] < 2**31:
        starts.append(starts[-1] + length)
        length *= Fraction(factor)
    # A step is in the cycle of which the first step is not after it.
    i = np.searchsorted([math.ceil(x) for x in starts], t, side="right") - 1
    left = [
        float((starts[k + 1] - int(s)) / (starts[k + 1] - starts[k]))
        for k, s in zip(i, t, strict=True)
    ]
    return i, np.array(left)


def _restarts(t: np.ndarray, first: int, factor: str, end: float, fall: float) -> np.ndarray:
    i, left = _cycle(t, first, factor)
    return end + (0.3 * fall ** i.astype(float) - end) * np.sin(np.pi / 2 * left) ** 2


def _limited(t: np.ndarray, first: int, factor: str, limit: int) -> np.ndarray:
    i, left = _cycle(t, first, factor)
    return np.where(i < limit, 0.3 * 0.5**i * left**1.5, 0.0)


def _one_cycle(t: np.ndarray, n: int, part: float, values: list[float], wave: bool) -> np.ndarray:
    """Through the values at pT - 1, (2pT - 2 if there are four) and T - 1."""
    ends = [part * n - 1, 2 * part * n - 2][: len(values) - 2]
    knots = [0.0, *(max(x, 0.0) for x in ends), max(n - 1.0, 0.0)]
    value = np.full_like(t, values[0])
    for a, b, start, end in zip(knots, knots[1:], values, values[1:], strict=False):
        left = np.clip(b - t, 0, b - a) / (b - a) if b > a else np.zeros_like(t)
        left = np.sin(np.pi / 2 * left) ** 2 if wave else left
        value = np.where(t >= a, end + (start - end) * left, value)
    return value


def _cooled(value: np.ndarray, t: np.ndarray, begin: int, steps: int, end: float, shape: str):
    """The value brought down: the distance to the end is taken before anything is divided."""
    left = np.clip(begin + steps - t, 0, steps) / steps if steps else 1.0 * (t < begin)
    with np.errstate(divide="ignore"):
        fall = {
            "linear": left,
            "cosine": np.sin(np.pi / 2 * left) ** 2,
            "1-sqrt": left / (1 + np.sqrt(1 - left)),
            "power": -np.expm1(2.5 * np.log1p(-left)),
            "exponential": 1e-3 * np.expm1(left * np.log(1e3)) / (1 - 1e-3),
        }[shape]
    return end + (value - end) * np.where(t < begin, 1.0, fall)


def _wsd(t: np.ndarray, n: int, shape: str, tau: int = 0) -> np.ndarray:
    warm, decay = n // 4, n // 3
    s = np.maximum(t - warm, 0)
    stable = 0.3 / np.sqrt(1 + s / tau) if tau else np.full_like(t, 0.3)
    up = line(t, 0.01, 0.3, warm)
    return np.where(t < warm, up, _cooled(stable, t, n - decay, decay, 0.0, shape))


def _noise(t: np.ndarray, seed: int, std: float | None = None) -> np.ndarray:
    def draw(step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), step)
        if std is None:
            return 0.5 * jax.random.uniform(key, minval=-1.0)
        return std * jax.random.truncated_normal(key, -0.5 / std, 0.5 / std)

    return np.asarray(jax.vmap(draw)(t.astype(np.int32)), np.float64)


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
    Case(
        "cosine_restarts",
        lambda n: ody_s.cosine_restarts(0.3, _part(n), m_mul=0.9),
        lambda t, n: _restarts(t, _part(n), "1", 0.0, 0.9),
        jumps=("t_mul",),
    ),
    Case(
        "cosine_restarts doubling",
        lambda n: ody_s.cosine_restarts(0.3, _part(n), 2.0, 1.0, 0.01),
        lambda t, n: _restarts(t, _part(n), "2", 0.01, 1.0),
    ),
    Case(
        "cosine_restarts fractional",
        lambda n: ody_s.cosine_restarts(0.3, _part(n), 1.25, 0.8),
        lambda t, n: _restarts(t, _part(n), "1.25", 0.0, 0.8),
    ),
    Case(
        "restarts",
        lambda n: ody_s.restarts(ody_s.polynomial(0.3, 0.0, 1.5, _part(n)), 1.5, 0.5, 3),
        lambda t, n: _limited(t, _part(n), "1.5", 3),
        jumps=("cycle_limit",),
    ),
    Case(
        "one_cycle",
        lambda n: ody_s.one_cycle(0.3, n, 0.3),
        lambda t, n: _one_cycle(t, n, 0.3, [0.3 / 25, 0.3, 0.3 / 25e4], True),
        lambda n: (0.3 / 25 if n > 3 else 0.3 / 25e4 if n < 2 else 0.3, 0.3 / 25e4),
    ),
    Case(
        "one_cycle linear three_phase",
        lambda n: ody_s.one_cycle(0.3, n, 0.25, 10.0, 100.0, "linear", True),
        lambda t, n: _one_cycle(t, n, 0.25, [0.03, 0.3, 0.03, 3e-4], False),
    ),
    Case(
        "one_cycle_momentum",
        lambda n: ody_s.one_cycle_momentum(n, 0.25, three_phase=True),
        lambda t, n: _one_cycle(t, n, 0.25, [0.95, 0.85, 0.95, 0.95], True),
    ),
    *(
        Case(
            f"cooldown {shape}",
            lambda n, shape=shape, own=own: ody_s.cooldown(
                ody_s.constant(0.3), n // 4, n - n // 4, 0.0, shape, **own
            ),
            lambda t, n, shape=shape: _cooled(
                np.full_like(t, 0.3), t, n // 4, n - n // 4, 0.0, shape
            ),
            lambda n: (0.3, 0.0) if n else (0.0, 0.0),
        )
        for shape, own in (
            ("linear", {}),
            ("cosine", {}),
            ("1-sqrt", {}),
            ("power", {"decay_power": 2.5}),
            ("exponential", {"decay_ratio": 1e-3}),
        )
    ),
    Case(
        "swa",
        lambda n: ody_s.swa(ody_s.cosine_decay(0.3, n), 0.05, n // 2, n // 4),
        lambda t, n: np.where(
            t < n // 2,
            cosine(t, 0.3, 0.0, n),
            cosine(t - n // 2, cosine(np.array(n / 2 // 1), 0.3, 0.0, n), 0.05, n // 4),
        ),
    ),
    Case(
        "warmup_stable_decay",
        lambda n: ody_s.warmup_stable_decay(0.3, n // 4, n // 3, n, 0.01),
        lambda t, n: _wsd(t, n, "1-sqrt"),
    ),
    Case(
        "warmup_stable_decay inverse_sqrt",
        lambda n: ody_s.warmup_stable_decay(
            0.3,
            n // 4,
            n // 3,
            n,
            0.01,
            stable="inverse_sqrt",
            decay="linear",
            stable_timescale=max(n // 4, 1),
        ),
        lambda t, n: _wsd(t, n, "linear", max(n // 4, 1)),
    ),
    Case(
        "with_noise",
        lambda n: ody_s.with_noise(ody_s.constant(0.3), 0.5, 7, n // 4, n // 2),
        lambda t, n: 0.3 * (1 + np.where((t >= n // 4) & (t < n // 2), _noise(t, 7), 0.0)),
        jumps=("seed", "noise_begin", "noise_end"),
    ),
    Case(
        "with_noise normal additive",
        lambda n: ody_s.with_noise(ody_s.constant(0.8), 0.5, mode="additive", std=0.4),
        lambda t, n: 0.8 + _noise(t, 0, 0.4),
        jumps=("seed", "noise_begin"),
    ),
]
