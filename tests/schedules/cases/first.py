"""The first schedules: constant, step, cosine, exponential, warm-ups, join, epochs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, cosine, line, unit


def _power(t: np.ndarray, start: float, end: float, total: int, power: float) -> np.ndarray:
    return start + (end - start) * line(t, 0.0, 1.0, total) ** power


def _geometric(t: np.ndarray, start: float, end: float, total: int) -> np.ndarray:
    return start * (end / start) ** line(t, 0.0, 1.0, total)


def _warm_cosine(t: np.ndarray, total: int, end: float = 0.0, total_end: int | None = None):
    warm = total // 4
    stop = total if total_end is None else total_end
    decay = cosine(t - warm, 0.3, end, stop - warm)
    return np.where(t < warm, line(t, 0.0, 0.3, warm), decay)


def _repeat(t: np.ndarray, total: int) -> np.ndarray:
    return cosine(t % total, 0.3, 0.01, total) if total else np.full_like(t, 0.01)


def _mirror(t: np.ndarray, total: int) -> np.ndarray:
    return cosine(total - abs(total - t % (2 * total)), 0.3, 0.01, total)


@functools.cache  # one function for each horizon: a callable is compared by identity
def _jump(n: int) -> Callable[[jax.Array], jax.Array]:
    return lambda step: jnp.where(step >= n // 2, 0.6, 0.3)


CASES = [
    Case("constant", lambda _: ody_s.constant(0.3), lambda t, _: np.full_like(t, 0.3)),
    Case(
        "step_decay",
        lambda n: ody_s.step_decay(0.3, unit(n), 0.9),
        lambda t, n: 0.3 * 0.9 ** (t // unit(n)),
        jumps=("step_size",),
    ),
    Case(
        "cosine_decay",
        lambda n: ody_s.cosine_decay(0.3, n),
        lambda t, n: cosine(t, 0.3, 0.0, n),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "cosine_decay floor",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01),
        lambda t, n: cosine(t, 0.3, 0.01, n),
        lambda _: (0.3, 0.01),
    ),
    Case(
        "cosine_decay zero",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, past_end="zero"),
        lambda t, n: np.where(t > n, 0.0, cosine(t, 0.3, 0.01, n)),
    ),
    Case(
        "cosine_decay repeat",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, past_end="repeat"),
        lambda t, n: _repeat(t, n),
    ),
    Case(
        "cosine_decay mirror",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, past_end="mirror"),
        lambda t, n: _mirror(t, n),
    ),
    Case(
        "cosine_decay end_on_last_step",
        lambda n: ody_s.cosine_decay(0.3, n, 0.01, end_on_last_step=True),
        lambda t, n: cosine(t, 0.3, 0.01, n - 1),
        lambda _: (0.3, 0.01),
    ),
    Case(
        "exponential_decay",
        lambda n: ody_s.exponential_decay(0.3, unit(n), 0.8),
        lambda t, n: 0.3 * 0.8 ** (t / unit(n)),
    ),
    Case(
        "exponential_decay bounded staircase",
        lambda n: ody_s.exponential_decay(0.3, unit(n), 0.8, n // 4, True, 1e-3),
        lambda t, n: np.maximum(0.3 * 0.8 ** (np.maximum(t - n // 4, 0) // unit(n)), 1e-3),
        jumps=("transition_steps", "transition_begin"),
    ),
    Case(
        "linear_warmup",
        lambda n: ody_s.linear_warmup(0.3, n),
        lambda t, n: line(t, 0.0, 0.3, n),
        lambda _: (0.0, 0.3),
    ),
    Case(
        "linear_warmup down to 0",
        lambda n: ody_s.linear_warmup(0.0, n, 0.3),
        lambda t, n: 0.3 * np.clip(n - t, 0, n) / max(n, 1),
        lambda _: (0.3, 0.0),
    ),
    Case(
        "polynomial_warmup",
        lambda n: ody_s.polynomial_warmup(0.3, n),
        lambda t, n: _power(t, 0.0, 0.3, n, 2.0),
        lambda _: (0.0, 0.3),
    ),
    Case(
        "polynomial_warmup root",
        lambda n: ody_s.polynomial_warmup(0.3, n, 0.3, 0.01),
        lambda t, n: _power(t, 0.01, 0.3, n, 0.3),
        lambda _: (0.01, 0.3),
    ),
    Case(
        "exponential_warmup",
        lambda n: ody_s.exponential_warmup(0.3, n, 1e-7),
        lambda t, n: _geometric(t, 1e-7, 0.3, n),
        lambda _: (1e-7, 0.3),
    ),
    Case(
        "warmup_cosine",
        lambda n: ody_s.warmup_cosine(0.3, n // 4, n, 0.0, 0.01),
        lambda t, n: _warm_cosine(t, n, 0.01),
        lambda n: (0.0 if n // 4 else 0.3, 0.01) if n else (0.01, 0.01),
    ),
    Case(
        "warmup_cosine end_on_last_step",
        lambda n: ody_s.warmup_cosine(0.3, n // 4, n, end_on_last_step=True),
        lambda t, n: _warm_cosine(t, n, 0.0, n - 1),
        lambda n: (0.0 if n // 4 else 0.3, 0.0) if n else (0.0, 0.0),
    ),
    Case(
        "join of one kind",
        lambda n: ody_s.join(
            [ody_s.cosine_decay(0.3 + i, n // 4, 0.01 * i) for i in (1, 2, 3)],
            [n // 4, n // 2],
        ),
        lambda t, n: np.select(
            [t < n // 4, t < n // 2],
            [cosine(t, 1.3, 0.01, n // 4), cosine(t - n // 4, 2.3, 0.02, n // 4)],
            cosine(t - n // 2, 3.3, 0.03, n // 4),
        ),
    ),
    Case(
        "join of joins",
        lambda n: ody_s.join(
            [ody_s.warmup_cosine(0.3, n // 16, n // 4), ody_s.warmup_cosine(0.2, n // 8, n // 2)],
            [n // 4],
        ),
        lambda t, n: np.where(
            t < n // 4,
            np.where(
                t < n // 16,
                line(t, 0.0, 0.3, n // 16),
                cosine(t - n // 16, 0.3, 0.0, n // 4 - n // 16),
            ),
            np.where(
                t - n // 4 < n // 8,
                line(t - n // 4, 0.0, 0.2, n // 8),
                cosine(t - n // 4 - n // 8, 0.2, 0.0, n // 2 - n // 8),
            ),
        ),
    ),
    Case(
        "by_epoch",
        lambda n: ody_s.by_epoch(ody_s.cosine_decay(0.3, 40, 0.01), unit(n)),
        lambda t, n: cosine(t // unit(n), 0.3, 0.01, 40),
        jumps=("steps_per_epoch",),
    ),
    Case(
        "by_epoch_fraction",
        lambda n: ody_s.by_epoch_fraction(ody_s.cosine_decay(0.3, 40.5, 0.01), unit(n)),
        lambda t, n: cosine(t / unit(n), 0.3, 0.01, 40.5),
    ),
    Case(
        "from_callable",
        lambda n: ody_s.from_callable(_jump(n)),
        lambda t, n: 0.3 * (1 + (t >= n // 2)),
    ),
]
