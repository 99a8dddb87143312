"""The algebra of schedules: laws that hold for any curves, and equality with Optax's joins."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.schedules import Schedule, constant, cosine_decay, join, linear_warmup

STEPS = np.arange(400)

values = st.floats(0.01, 2.0)
lengths = st.integers(0, 150)

simple = st.one_of(
    st.builds(constant, values),
    st.builds(linear_warmup, values, lengths, values),
    st.builds(cosine_decay, values, lengths, values),
    st.builds(ody_s.step_decay, values, st.integers(1, 150), st.floats(0.3, 1.2)),
)


bounds = st.lists(lengths, min_size=2, max_size=2).map(sorted)
warm_cosine = st.builds(
    lambda v, n, total: ody_s.warmup_cosine(v, min(n, total), total), values, lengths, lengths
)
three = st.builds(
    lambda v, n, b: join([linear_warmup(v, n), constant(v), cosine_decay(v, n)], b),
    values,
    lengths,
    bounds,
)
curves = st.one_of(simple, warm_cosine, three)


def at(schedule: Schedule, steps: np.ndarray = STEPS) -> np.ndarray:
    """The values; op by op, since each new structure of a curve would be a compilation."""
    with jax.disable_jit():
        return np.asarray(schedule(np.resize(steps, 400)))[: len(steps)]


def law(*strategies: st.SearchStrategy, examples: int = 15):
    """A property, of few examples: each is some thousand operations."""

    def decorate(test):
        settings = hypothesis.settings(deadline=None, max_examples=examples)
        return settings(hypothesis.given(*strategies)(test))

    return decorate


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=4e-7, atol=1e-9)


@law(curves, curves, st.integers(0, 300))
def test_then_is_a_join_and_keeps_both(a, b, boundary):
    schedule = a.then(b, boundary)
    assert schedule == join([a, b], [boundary]) == ody_s.then(a, b, boundary)
    got = at(schedule)
    close(got[:boundary], at(a)[:boundary])
    close(got[boundary:], at(b)[: 400 - boundary])


@law(curves, curves)
def test_products_and_sums_commute(a, b):
    close(at(a * b), at(b * a))
    close(at(a * b), at(a) * at(b))
    close(at(a + b), at(b + a))
    close(at(a + b), at(a) + at(b))
    np.testing.assert_allclose(at(a - b), at(a) - at(b), atol=1e-6)


@law(curves, curves, curves, examples=8)
def test_products_distribute_over_sums(a, b, c):
    np.testing.assert_allclose(at(a * (b + c)), at(a * b + a * c), rtol=1e-6)


@law(curves, st.floats(-4, 4))
def test_scale(a, factor):
    close(at(ody_s.scale(a, 1)), at(a))
    close(at(a * factor), np.float32(factor) * at(a))
    assert a * factor == factor * a == ody_s.scale(a, factor)
    close(at(-a), -at(a))


@law(curves, st.integers(0, 200))
def test_shift_and_back(a, steps):
    close(at(a.shift(steps).shift(-steps)), at(a))
    close(at(a.shift(steps))[steps:], at(a)[: 400 - steps])
    close(at(a.shift(steps))[:steps], np.full(steps, at(a)[0]))
    # The other way round, its first steps are gone.
    close(at(a.shift(-steps).shift(steps))[steps:], at(a)[steps:])


@law(curves, st.integers(1, 40))
def test_a_stretch_visits_every_step(a, factor):
    close(at(a.stretch(factor), STEPS[: 400 // factor] * factor), at(a)[: 400 // factor])
    close(at(a.stretch(2.0).stretch(0.5)), at(a))


@law(curves, st.integers(1, 100))
def test_repeat_is_periodic(a, period):
    got = at(a.repeat(period))
    close(got[:period], at(a)[:period])
    close(got[period:], got[:-period])
    mirrored = at(a.repeat(period, mirror=True))
    close(mirrored[period : 2 * period + 1], mirrored[period::-1])


@law(curves, st.floats(0, 1), st.floats(0, 1))
def test_clip_is_idempotent_and_within(a, low, width):
    once = a.clip(low, low + width)
    close(at(once.clip(low, low + width)), at(once))
    assert at(once).min() >= np.float32(low)
    assert at(once).max() <= np.float32(low + width)


@law(st.lists(simple, min_size=2, max_size=4), st.lists(lengths, min_size=3, max_size=3))
def test_optax_joins_ours_as_we_do(pieces, starts):
    """In Optax, a piece is also called with steps below its start; ours take them as 0."""
    boundaries = sorted(starts)[: len(pieces) - 1]
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.join_schedules(pieces, boundaries)
        want = [theirs(jnp.int32(t)) for t in range(0, 400, 13)]
    close(at(join(pieces, boundaries), STEPS[::13]), np.asarray(want))


@law(simple, simple, simple, bounds, examples=10)
def test_then_chains_into_a_join(a, b, c, boundaries):
    first, second = boundaries
    want = at(join([a, b, c], boundaries))
    close(at(a.then(b, first).then(c, second)), want)
    close(at(a.then(b.then(c, second - first), first)), want)


def test_optax_schedules_compose_as_ours():
    theirs = optax.linear_schedule(0.0, 1.0, 100)
    schedule = linear_warmup(2.0, 10)
    for got in (schedule * theirs, theirs * schedule):
        np.testing.assert_allclose(at(got, STEPS[:11]), 0.2 * STEPS[:11] * STEPS[:11] / 100, 1e-6)
    np.testing.assert_allclose((theirs - schedule)(50), -1.5, 1e-6)
    np.testing.assert_allclose(schedule.then(theirs, 10)(60), 0.5, 1e-6)


def test_numbers_of_every_kind():
    a = cosine_decay(0.1, 100)
    for two in (2, 2.0, np.float64(2), np.float32(2), np.int64(2), jnp.float32(2), np.asarray(2)):
        np.testing.assert_allclose((two * a)(50), 0.1, 1e-6)
        np.testing.assert_allclose((a / two)(50), 0.025, 1e-6)
        np.testing.assert_allclose((two + a)(50), 2.05, 1e-6)
        np.testing.assert_allclose((two - a)(50), 1.95, 1e-6)
        np.testing.assert_allclose((a - two)(50), -1.95, 1e-6)
    grads = jax.jit(jax.grad(lambda c: (c * a)(50) + (a + c)(50)))(3.0)
    np.testing.assert_allclose(grads, 1.05, 1e-6)
    for nonsense in ("2", None, True, [2]):
        with pytest.raises(TypeError, match="unsupported operand|can't multiply"):
            a * nonsense
        with pytest.raises(TypeError, match="unsupported operand|can only concatenate"):
            nonsense + a


def test_compositions_pass_through_json_and_repr():
    base = ody_s.warmup_cosine(0.1, 10, 100)
    schedule = (0.5 * base.stretch(1.5).shift(-3) + 0.01).clip(max_value=0.04).repeat(40)
    schedule = schedule.then(base * constant(0.5) / 2, 90)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert eval(repr(schedule), vars(ody_s)) == schedule


def test_one_program_for_every_real_stretch_and_shift():
    traces = 0

    @jax.jit
    def run(schedule, step):
        nonlocal traces
        traces += 1
        return schedule(step)

    for k in range(1, 60):
        schedule = cosine_decay(0.1, 10).stretch(k / 7).shift(k - 30)
        t = np.clip(17 - (k - 30) if k >= 30 else 17 + 30 - k, 0, None) / (k / 7)
        want = 0.1 * math.sin(math.pi / 20 * max(10 - t, 0)) ** 2
        np.testing.assert_allclose(run(schedule, 17), want, rtol=2e-6, atol=1e-9)
    assert traces == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: ody_s.product([]), r"schedules must be a sequence of at least one.*\[\]"),
        (lambda a: ody_s.sum([a, 0.1]), r"schedules\[1\] must be a schedule.*constant\(number\)"),
        (lambda a: ody_s.scale(a, math.inf), r"factor must be finite; got factor = inf"),
        (lambda a: ody_s.scale(0.1, a), r"schedule must be a schedule.*got schedule = 0\.1"),
        (lambda a: a / 0, r"schedule can be divided by any finite number but 0; got schedule / 0"),
        (lambda a: a / np.float32(0), r"schedule can be divided by any finite number but 0"),
        (lambda a: a.shift(2**31), r"steps must be in the range \[-\(2\*\*31 - 1\), .*2147483648"),
        (lambda a: a.stretch(0), r"factor must be in the range \[1e-6, .*got factor = 0"),
        (lambda a: a.clip(), r"clip needs min_value, max_value or both"),
        (lambda a: a.clip(0.2, 0.1), r"min_value must be at most max_value; got min_value = 0\.2"),
        (lambda a: a.repeat(0), r"period must be in the range \[1, .*got period = 0"),
        (lambda a: a.repeat(5, mirror=1), r"mirror must be True or False; got mirror = 1"),
        (lambda a: a.then(a, -1), r"boundaries must be in the range.*got boundaries = -1"),
        (lambda a: a.then(0.1, 5), r"schedules\[1\] must be a schedule"),
    ],
)
def test_bad_compositions(call, message):
    with pytest.raises(ValueError, match=message):
        call(cosine_decay(0.1, 100))
