"""Ours against Optax's, wherever Optax is defined: one step at a time, from the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

import odyssey_jax.schedules as ody_s

STEPS = np.arange(260)

# Optax's factors at steps, and the values that they give.
SCALES = {20: 0.5, 60: 0.1, 61: 4.0, 200: 0.25}
VALUES = list(0.3 * np.cumprod([1.0, *SCALES.values()]))
BOUNDARIES = list(SCALES)

PAIRS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "constant": (ody_s.constant(0.3), optax.constant_schedule(0.3)),
    "linear": (ody_s.linear(0.3, 0.01, 100), optax.linear_schedule(0.3, 0.01, 100)),
    "linear begun late": (
        ody_s.linear(0.0, 0.3, 100, 50),
        optax.linear_schedule(0.0, 0.3, 100, 50),
    ),
    "polynomial": (
        ody_s.polynomial(0.3, 0.01, 2.5, 100, 50),
        optax.polynomial_schedule(0.3, 0.01, 2.5, 100, 50),
    ),
    "polynomial root": (
        ody_s.polynomial(0.3, 0.0, 0.5, 200),
        optax.polynomial_schedule(0.3, 0.0, 0.5, 200),
    ),
    "piecewise_constant": (
        ody_s.piecewise_constant(VALUES, BOUNDARIES),
        optax.piecewise_constant_schedule(0.3, SCALES),
    ),
    "multistep_decay": (
        ody_s.multistep_decay(0.3, [20, 60, 200], 0.5),
        optax.piecewise_constant_schedule(0.3, {20: 0.5, 60: 0.5, 200: 0.5}),
    ),
    "piecewise_interpolate": (
        ody_s.piecewise_interpolate(VALUES, BOUNDARIES),
        optax.piecewise_interpolate_schedule("linear", 0.3, SCALES),
    ),
    "piecewise_interpolate cosine": (
        ody_s.piecewise_interpolate(VALUES, BOUNDARIES, "cosine"),
        optax.piecewise_interpolate_schedule("cosine", 0.3, SCALES),
    ),
    "cosine_decay": (
        ody_s.cosine_decay(0.3, 200, 0.03),
        optax.cosine_decay_schedule(0.3, 200, alpha=0.1),
    ),
    "cosine_decay exponent": (
        ody_s.cosine_decay(0.3, 200, 0.03, exponent=1.7),
        optax.cosine_decay_schedule(0.3, 200, alpha=0.1, exponent=1.7),
    ),
    "exponential_decay": (
        ody_s.exponential_decay(0.3, 40, 0.5, 20, end_value=0.02),
        optax.exponential_decay(0.3, 40, 0.5, 20, end_value=0.02),
    ),
    "exponential_decay staircase": (
        ody_s.exponential_decay(0.3, 40, 0.5, staircase=True),
        optax.exponential_decay(0.3, 40, 0.5, staircase=True),
    ),
    "exponential_decay upwards": (
        ody_s.exponential_decay(0.3, 40, 1.5, end_value=0.9),
        optax.exponential_decay(0.3, 40, 1.5, end_value=0.9),
    ),
    "geometric_decay": (
        ody_s.geometric_decay(0.3, 200, 0.003),
        optax.exponential_decay(0.3, 200, 0.01, end_value=0.003),
    ),
    "warm-up, constant": (
        ody_s.linear_warmup(0.3, 50, 0.01),
        optax.warmup_constant_schedule(0.01, 0.3, 50),
    ),
    "warm-up, cosine": (
        ody_s.warmup_cosine(0.3, 50, 200, 0.01, 0.003),
        optax.warmup_cosine_decay_schedule(0.01, 0.3, 50, 200, 0.003),
    ),
    "warm-up, cosine with an exponent": (
        ody_s.join(
            [ody_s.linear_warmup(0.3, 50, 0.01), ody_s.cosine_decay(0.3, 150, 0.003, 2.0)], [50]
        ),
        optax.warmup_cosine_decay_schedule(0.01, 0.3, 50, 200, 0.003, 2.0),
    ),
    "warm-up, exponential": (
        ody_s.join(
            [
                ody_s.linear_warmup(0.3, 50, 0.01),
                ody_s.exponential_decay(0.3, 40, 0.5, 10, True, 0.02),
            ],
            [50],
        ),
        optax.warmup_exponential_decay_schedule(0.01, 0.3, 50, 40, 0.5, 10, True, 0.02),
    ),
}


@pytest.fixture(autouse=True)
def optax_promotion():
    """Optax's arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_optax(name):
    ours, theirs = PAIRS[name]
    want = jax.vmap(theirs)(STEPS)
    # Near its end Optax's own float32 cancels.
    np.testing.assert_allclose(ours(STEPS), want, rtol=3e-6, atol=2e-7 * 0.3)


FIRST, LATER = ["linear", "polynomial", "piecewise_interpolate"], ["cosine_decay exponent"]


@pytest.mark.parametrize("names", [[*FIRST, *LATER], ["multistep_decay", "linear", "linear"]])
def test_joins_of_ours_are_the_same_either_way(names):
    pieces = [PAIRS[name][0] for name in names]
    boundaries = list(range(40, 40 * len(names), 40))
    ours = ody_s.join(pieces, boundaries)
    want = jax.vmap(optax.join_schedules(pieces, boundaries))(STEPS)
    np.testing.assert_allclose(ours(STEPS), want, rtol=3e-7)
    theirs = jax.vmap(optax.join_schedules([PAIRS[name][1] for name in names], boundaries))(STEPS)
    np.testing.assert_allclose(ours(STEPS), theirs, rtol=3e-6, atol=2e-7 * 0.3)


def test_where_optax_is_wrong():
    """What ours do in place of Optax's silent constants and stuck warm-ups."""
    assert ody_s.linear(0.0, 0.3, 0)(0) == np.float32(0.3)
    assert optax.linear_schedule(0.0, 0.3, 0)(0) == 0.0
    assert ody_s.polynomial(0.3, 0.0, 2.0, 10)(-5) == np.float32(0.3)
    assert ody_s.linear(0.3, 0.0, 10, 4)(np.uint32(0)) == np.float32(0.3)
