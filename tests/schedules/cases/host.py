"""A plain Python function as a schedule, and a rate with its momentum."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import odyssey_jax.schedules as ody_s
from tests.schedules.cases.case import Case, cosine


@functools.cache
def _halved(total: int) -> Callable[[float], float]:
    return lambda step: 0.5 if step < total / 2 else 0.25


CASES = [
    Case(
        "from_python",
        lambda n: ody_s.from_python(_halved(n)),
        lambda t, n: np.where(t < n / 2, 0.5, 0.25),
    ),
    Case(
        "with_momentum",
        lambda n: ody_s.with_momentum(ody_s.cosine_decay(0.3, n), ody_s.linear(0.9, 0.8, n)),
        lambda t, n: cosine(t, 0.3, 0.0, n),
        lambda n: (0.3, 0.0),
    ),
]
