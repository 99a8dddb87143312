"""Compositions: then, product, sum, scale, shift, stretch, clip, repeat, and some of each other."""

from __future__ import annotations

import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, cosine, line, unit


def _stairs(t: np.ndarray, n: int) -> np.ndarray:
    return 0.3 * 0.9 ** (t // unit(n))


def _warm(t: np.ndarray, n: int, end: float = 0.01) -> np.ndarray:
    """`warmup_cosine(0.3, n // 4, n, 0.0, end)`."""
    warm = n // 4
    return np.where(t < warm, line(t, 0.0, 0.3, warm), cosine(t - warm, 0.3, end, n - warm))


def _warmup(n: int) -> ody_s.Schedule:
    return ody_s.warmup_cosine(0.3, n // 4, n, 0.0, 0.01)


def _period(t: np.ndarray, n: int, *, mirror: bool = False) -> np.ndarray:
    lap, local = np.divmod(t, max(n, 1))
    return np.where(lap % 2 == 1, n - local, local) if mirror else local


CASES = [
    Case(
        "then",
        lambda n: ody_s.then(ody_s.cosine_decay(0.3, n, 0.1), ody_s.linear_warmup(0.2, n), n // 2),
        lambda t, n: np.where(t < n // 2, cosine(t, 0.3, 0.1, n), line(t - n // 2, 0.0, 0.2, n)),
    ),
    Case(
        "product",
        lambda n: ody_s.product([ody_s.cosine_decay(0.3, n), ody_s.step_decay(0.3, unit(n), 0.9)]),
        lambda t, n: cosine(t, 0.3, 0.0, n) * _stairs(t, n),
        lambda _: (float(np.float32(0.3) * np.float32(0.3)), 0.0),
        jumps=("step_size",),
    ),
    Case(
        "sum",
        lambda n: ody_s.sum(
            [ody_s.cosine_decay(0.3, n), ody_s.linear_warmup(0.2, n), ody_s.constant(0.5)]
        ),
        lambda t, n: cosine(t, 0.3, 0.0, n) + line(t, 0.0, 0.2, n) + 0.5,
        lambda _: (0.8, 0.7),
    ),
    Case(
        "scale",
        lambda n: ody_s.scale(ody_s.cosine_decay(0.3, n, 0.01), 8),
        lambda t, n: 8 * cosine(t, 0.3, 0.01, n),
        lambda _: (8 * 0.3, 8 * 0.01),
    ),
    Case(
        "scale negative",
        lambda n: ody_s.scale(_warmup(n), -0.5),
        lambda t, n: -0.5 * _warm(t, n),
        lambda n: (0.0 if n // 4 else -0.15, -0.005) if n else (-0.005, -0.005),
    ),
    Case(
        "shift later",
        lambda n: ody_s.shift(ody_s.cosine_decay(0.3, n // 2, 0.01), n - n // 2),
        lambda t, n: cosine(t - (n - n // 2), 0.3, 0.01, n // 2),
        lambda n: (0.3 if n // 2 else 0.01, 0.01),
    ),
    Case(
        "shift earlier",
        lambda n: ody_s.shift(ody_s.cosine_decay(0.3, n, 0.01), -(n // 4)),
        lambda t, n: cosine(np.minimum(t + n // 4, 2**31 - 1), 0.3, 0.01, n),
    ),
    Case(
        "shift half",
        lambda n: ody_s.shift(ody_s.linear_warmup(0.3, n), -0.5),
        lambda t, n: line(np.minimum(t + 0.5, 2**31 - 1), 0.0, 0.3, n),
    ),
    Case(
        "stretch",
        lambda n: ody_s.stretch(ody_s.cosine_decay(0.3, n // 4, 0.01), 3),
        lambda t, n: cosine(t / 3, 0.3, 0.01, n // 4),
    ),
    Case(
        "stretch real",
        lambda n: ody_s.stretch(ody_s.linear_warmup(0.3, n // 4, 0.01), 2.7),
        lambda t, n: line(t / 2.7, 0.01, 0.3, n // 4),
        lambda n: (0.01 if n // 4 else 0.3, 0.3),
    ),
    Case(
        "stretch shorter",
        lambda n: ody_s.stretch(_warmup(n), 0.35),
        lambda t, n: _warm(np.minimum(t / 0.35, 2**31 - 1), n),
        lambda n: (0.0 if n // 4 else 0.3, 0.01) if n else (0.01, 0.01),
    ),
    Case(
        "clip",
        lambda n: ody_s.clip(_warmup(n), 0.05, 0.2),
        lambda t, n: np.clip(_warm(t, n), 0.05, 0.2),
        lambda n: (0.05 if n // 4 else 0.2, 0.05) if n else (0.05, 0.05),
    ),
    Case(
        "clip below",
        lambda n: ody_s.clip(ody_s.step_decay(0.3, unit(n), 0.9), min_value=0.01),
        lambda t, n: np.maximum(_stairs(t, n), 0.01),
        jumps=("step_size",),
    ),
    Case(
        "repeat",
        lambda n: ody_s.repeat(_warmup(n // 2), max(n // 2, 1)),
        lambda t, n: _warm(_period(t, n // 2), n // 2),
    ),
    Case(
        "repeat mirror",
        lambda n: ody_s.repeat(ody_s.linear_warmup(0.3, n // 2), max(n // 2, 1), mirror=True),
        lambda t, n: line(_period(t, n // 2, mirror=True), 0.0, 0.3, n // 2),
    ),
    Case(
        "repeat real",
        lambda n: ody_s.repeat(ody_s.linear_warmup(0.3, 40, 0.1), 40.5),
        lambda t, n: line(t % 40.5, 0.1, 0.3, 40),
    ),
    Case(
        "join of compositions",
        lambda n: ody_s.join(
            [
                ody_s.scale(ody_s.cosine_decay(0.3, n // 4), 2),
                ody_s.stretch(ody_s.clip(ody_s.linear_warmup(0.2, n // 8), 0.01, 0.1), 2),
                ody_s.scale(ody_s.cosine_decay(0.1, n // 4), 3),
                ody_s.shift(ody_s.product([ody_s.constant(0.4), _warmup(n // 4)]), n // 16),
            ],
            [n // 4, n // 2, n - n // 4],
        ),
        lambda t, n: np.select(
            [t < n // 4, t < n // 2, t < n - n // 4],
            [
                2 * cosine(t, 0.3, 0.0, n // 4),
                np.clip(line((t - n // 4) / 2, 0.0, 0.2, n // 8), 0.01, 0.1),
                3 * cosine(t - n // 2, 0.1, 0.0, n // 4),
            ],
            0.4 * _warm(np.maximum(t - (n - n // 4) - n // 16, 0), n // 4),
        ),
    ),
]
