"""Powers against NumPy's long double: wide bases, exponents to the ends of float32's range."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odyssey_jax.schedules._power import ONE, Pair, power, power_and_rest
from tests.schedules.conftest import OPTIMIZED

COUNT = 100_000
Real = np.longdouble


def pair(x: np.ndarray) -> Pair:
    high = x.astype(np.float32)
    return high, (x - high.astype(Real)).astype(np.float32)


def number(x: Pair) -> np.ndarray:
    return x[0].astype(Real) + x[1].astype(Real)


def spread(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.exp2(rng.uniform(low, high, COUNT).astype(Real))


def whole(rng: np.random.Generator) -> np.ndarray:
    return np.floor(spread(rng, 0, 31))


def steps_to_any_power(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    total = whole(rng)
    done = np.maximum(np.floor(total * rng.uniform(0, 1, COUNT)), 1)
    return done, total, spread(rng, -8, 8), np.ones(COUNT)


def near_the_end(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    total = 2**31 - 1 - whole(rng) // 2
    done = np.maximum(total - whole(rng), 1)
    reach = rng.uniform(-124, 124, COUNT) / np.maximum(-np.log2(done / total), 1e-12)
    return done, total, reach, np.ones(COUNT)


def rates(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    rate = np.maximum(1 - spread(rng, -31, 0), 1e-9)
    return rate, np.ones(COUNT), whole(rng), whole(rng)


def geometric(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    total = whole(rng)
    return spread(rng, -100, 100), spread(rng, -100, 100), np.floor(total / 2), total


def near_1(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    base = spread(rng, -1, 1), spread(rng, -1, 1)
    reach = rng.uniform(-120, 120, COUNT) / np.maximum(np.abs(np.log2(base[0] / base[1])), 1e-4)
    return (*base, reach, np.ones(COUNT))


# Near the least float32, less optimized programs round a subnormal on the way.
COMPILED = jax.jit(power_and_rest, compiler_options=OPTIMIZED)


@pytest.mark.parametrize("draw", [steps_to_any_power, near_the_end, rates, geometric, near_1])
def test_powers_against_long_double(draw: Callable[..., tuple[np.ndarray, ...]]):
    top, bottom, exponent, unit = map(pair, draw(np.random.default_rng(0)))
    got, rest = map(np.asarray, COMPILED(top, exponent, bottom, unit))
    log = number(exponent) / number(unit) * np.log2(number(top) / number(bottom))
    normal = np.abs(log) < 125
    assert normal.sum() > COUNT // 2
    np.testing.assert_allclose(got[normal], np.exp2(log)[normal], rtol=5e-7)
    np.testing.assert_array_equal(got[log < -127], 0)
    np.testing.assert_array_equal(got[log > 129], np.inf)
    if draw is not geometric:  # there it is far from 1, and not used
        want = -np.expm1(log * np.log(Real(2)))
        normal &= np.abs(want) > 1e-36
        np.testing.assert_allclose(rest[normal], want[normal], rtol=5e-7)


def test_powers_that_are_known():
    zero, huge = (np.float32(0), np.float32(0)), pair(np.asarray(2**31 - 1, Real))
    half = np.float32(0.5), np.float32(0)
    for top, exponent, want in (
        (ONE, huge, 1), (half, zero, 1), (zero, zero, 1), (zero, ONE, 0), (half, huge, 0),
        (half, ONE, 0.5),
    ):  # fmt: skip
        assert abs(power(top, exponent) - want) < 1e-37


def test_derivatives_for_every_argument():
    arguments = [(jnp.float32(x), jnp.float32(0)) for x in (3.0, 5.0, 4.0, 7.0)]
    grads = jax.jit(jax.grad(lambda a: power(*a)))(arguments)
    a, p, b, q = 3.0, 5.0, 4.0, 7.0
    value = (a / b) ** (p / q)
    want = [value * p / q / a, value * np.log(a / b) / q, -value * p / q / b]
    want.append(-value * np.log(a / b) * p / q**2)
    np.testing.assert_allclose([g[0] for g in grads], want, rtol=1e-6)
