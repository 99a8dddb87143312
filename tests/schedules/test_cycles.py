"""Schedules that come round again: their joints to the bit, and what they refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.schedules as ody_s


def test_a_cycle_is_at_its_two_values_to_the_bit():
    for up, down in ((4, 9), (1, 1), (10**9, 7), (0, 3), (3, 0)):
        schedule = ody_s.cyclic(0.1, 1 / 3, up, down)
        starts = (up + down) * np.arange(2, dtype=np.int64)
        if up:
            np.testing.assert_array_equal(schedule(starts), np.float32(0.1))
        if down:
            np.testing.assert_array_equal(schedule(starts + up), np.float32(1 / 3))
    halves = ody_s.cyclic(0.0, 1 / 3, 5, mode="triangular2")(10 * np.arange(20) + 5)
    np.testing.assert_array_equal(halves, np.float32(1 / 3) / 2.0 ** np.arange(20))


def test_an_amplitude_is_any_function_of_the_cycle_or_the_step():
    inverse = lambda x: 1 / (2 + x.astype(jnp.float32))
    peaks = 6 * np.arange(5) + 3
    by_cycle = ody_s.cyclic(0.0, 1.0, 3, amplitude=inverse)
    np.testing.assert_allclose(by_cycle(peaks), 1 / (2 + np.arange(5)), rtol=1e-6)
    by_step = ody_s.cyclic(0.0, 1.0, 3, amplitude=inverse, amplitude_of="step")
    np.testing.assert_allclose(by_step(peaks), 1 / (2 + peaks), rtol=1e-6)


def _restarts(first: int, factor: float) -> list[int]:
    """The first step of each cycle, in exact numbers."""
    starts, length = [Fraction(0)], Fraction(first)
    while starts[-1] + length < 2**31:
        starts.append(starts[-1] + length)
        length *= Fraction(factor)
    return [math.ceil(x) for x in starts]


_traced = jax.jit(lambda schedule, steps: schedule(steps))


def test_a_restart_is_at_the_peak_to_the_bit():
    # Where floor(log(t)) gives the cycle before: 3 * (3^5 - 1) / 2, 10 * (2^29 - 1), ...
    for first in (1, 3, 10, 1_000, 2**24 + 1):
        for factor in (1.0, 2.0, 3.0, 10.0):
            starts = first * np.arange(100) if factor == 1 else np.array(_restarts(first, factor))
            starts = np.resize(starts, 100)  # of one length, so that all share a program
            schedule = ody_s.cosine_restarts(1 / 3, first, factor)
            np.testing.assert_array_equal(schedule(starts), np.float32(1 / 3))
            traced = _traced(schedule, starts.astype(np.int32))
            np.testing.assert_array_equal(traced, np.float32(1 / 3))
            before = np.resize(starts[starts > 0], 100) - 1
            assert np.all(np.asarray(schedule(before)) < 1 / 3) or first == 1
    # 1.1 is no float, and 1000 * 1.1 is a step all the same.
    assert ody_s.cosine_restarts(1 / 3, 1_000, 1.1)(1_000 + 1_100 + 1_210) == np.float32(1 / 3)


def test_lengths_that_are_no_whole_steps():
    for first, factor in ((11, 1.3), (1_009, 1.01), (2**28 + 1, 1.1), (7, 1e9)):
        schedule = ody_s.restarts(ody_s.linear(0.3, 0.0, first), factor)
        start, length = Fraction(0), Fraction(first)
        for begin in _restarts(first, factor)[:200]:
            end = min(math.ceil(start + length), 2**31)
            steps = np.unique([begin, min(begin + 1, end - 1), end - 1])
            want = [0.3 * float((start + length - int(t)) / length) for t in steps]
            np.testing.assert_allclose(schedule(np.resize(steps, 3)), np.resize(want, 3), rtol=1e-6)
            start, length = start + length, length * Fraction(factor)


def test_traced_lengths_are_as_the_known_ones():
    steps = np.unique(np.geomspace(1, 2**24, 400).astype(np.int32))
    run = jax.jit(lambda s, t: s(t))
    for first, factor in ((10, 1.0), (10, 1.0625), (7, 1.5), (1_000, 2.0), (3, 2.0**40)):
        schedule = ody_s.cosine_restarts(0.3, first, factor, 0.875, cycle_limit=40)
        np.testing.assert_allclose(run(schedule, steps), schedule(steps), rtol=1e-6)


def test_the_last_cycle_is_held_at_its_end():
    schedule = ody_s.cosine_restarts(0.3, 10, 2.0, 0.5, 0.01, cycle_limit=3)
    assert schedule(69) > np.float32(0.01)
    np.testing.assert_array_equal(schedule(np.array([70, 71, 2**31 - 1])), np.float32(0.01))
    assert ody_s.cosine_restarts(0.3, 1, cycle_limit=5)(5) == 0


def test_one_cycle_ends_on_its_last_step_and_is_traced_too():
    run = jax.jit(lambda *args: ody_s.one_cycle(*args, three_phase=True)(np.arange(60)))
    known = ody_s.one_cycle(0.1, 50, 0.3, 25.0, 100.0, three_phase=True)
    np.testing.assert_allclose(run(0.1, 50, 0.3, 25.0, 100.0), known(np.arange(60)), rtol=1e-6)
    end = np.float32(0.1 / 25 / 100)
    assert known(48) > end
    np.testing.assert_array_equal(known(np.array([49, 50, 59])), end)
    assert ody_s.one_cycle(0.1, 100, 0)(0) == np.float32(0.1)
    assert ody_s.one_cycle(0.1, 100, 0.3)(29) == np.float32(0.1)


def test_a_cooldown_is_the_schedule_itself_until_it_begins():
    main = ody_s.warmup_cosine(0.3, 10, 200, end_value=0.01)
    steps = np.arange(120)
    for freeze in (False, True):
        cooled = ody_s.cooldown(main, 100, 20, 0.001, "1-sqrt", freeze=freeze)
        np.testing.assert_array_equal(cooled(steps)[:101], main(steps)[:101])
        np.testing.assert_array_equal(cooled(np.array([120, 500])), np.float32(0.001))
    at_once = ody_s.swa(main, 0.05, 100, 0)
    np.testing.assert_array_equal(at_once(steps)[:100], main(steps)[:100])
    np.testing.assert_array_equal(at_once(steps)[100:], np.float32(0.05))
    sooner = ody_s.cooldown(main, 100, 20, end_on_last_step=True)
    assert sooner(118) > 0
    assert sooner(119) == 0


def test_lengths_in_other_units():
    for waits, want in (
        (
            ody_s.cosine_restarts(0.1, ody_s.epochs(2), 2.0),
            ody_s.cosine_restarts(0.1, 20, 2.0),
        ),
        (ody_s.one_cycle(0.1, ody_s.fraction(1)), ody_s.one_cycle(0.1, 100)),
        (
            ody_s.warmup_stable_decay(0.1, ody_s.epochs(1), ody_s.epochs(2), ody_s.fraction(1)),
            ody_s.warmup_stable_decay(0.1, 10, 20, 100),
        ),
        (
            ody_s.swa(ody_s.cosine_decay(0.1, ody_s.fraction(1)), 0.01, ody_s.epochs(3)),
            ody_s.swa(ody_s.cosine_decay(0.1, 100), 0.01, 30),
        ),
    ):
        assert waits.resolve(steps_per_epoch=10, total_steps=100) == want


def test_noise_is_within_its_limit_and_of_its_distribution():
    steps = np.arange(20_000)
    flat = np.asarray(ody_s.with_noise(ody_s.constant(1.0), 0.5, 1)(steps)) - 1
    assert abs(flat).max() <= 0.5
    np.testing.assert_allclose([flat.mean(), flat.std()], [0, 0.5 / 3**0.5], atol=0.01)
    bell = np.asarray(ody_s.with_noise(ody_s.constant(1.0), 0.5, 1, std=0.1)(steps)) - 1
    assert abs(bell).max() <= 0.5
    np.testing.assert_allclose([bell.mean(), bell.std()], [0, 0.1], atol=0.01)
    other = np.asarray(ody_s.with_noise(ody_s.constant(1.0), 0.5, 2)(steps)) - 1
    assert abs(np.corrcoef(flat, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.03


def _shares():
    return [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.4, 0.5]


# Each argument by itself, over values at which something computed from it is whole, or is 0.
SWEEPS = [
    (lambda n: ody_s.one_cycle(0.3, n), range(90, 111)),
    (lambda p: ody_s.one_cycle(0.3, 100, p), [*_shares(), 0, 1, 1.0]),
    (lambda d: ody_s.one_cycle(0.3, 100, div_factor=d), [1.0, 25.0, 30.5]),
    (lambda n: ody_s.one_cycle(0.3, n, 0.25, three_phase=True), range(90, 111)),
    (lambda p: ody_s.one_cycle(0.3, 100, p, three_phase=True), _shares()),
    (lambda n: ody_s.one_cycle_momentum(n), range(90, 111)),
    (lambda p: ody_s.one_cycle_momentum(100, p), _shares()),
    (lambda x: ody_s.piecewise_interpolate([0.0, 1.0], [x]), [10.0, 10.5, 11.0]),
    (lambda n: ody_s.cyclic(0.0, 0.3, n, 2), range(5)),
    (lambda n: ody_s.cosine_restarts(0.3, n, 1.5), range(1, 9)),
    (lambda m: ody_s.cosine_restarts(0.3, 10, m_mul=m), [0.5, 1.0, 1.5]),
    (lambda n: ody_s.warmup_stable_decay(0.3, n, 3, 20), range(8)),
    (lambda n: ody_s.warmup_stable_decay(0.3, 3, n, 20), range(8)),
    (lambda n: ody_s.swa(ody_s.constant(0.3), 0.1, n), range(8)),
    (lambda n: ody_s.cooldown(ody_s.constant(0.3), 5, n), range(8)),
    (lambda n: ody_s.with_noise(ody_s.constant(0.3), 0.5, noise_begin=n), range(8)),
    (lambda n: ody_s.warmup_cosine(0.3, n, 20), range(8)),
    (lambda n: ody_s.cosine_decay(0.3, n), range(8)),
    (lambda n: ody_s.linear(0.3, 0.0, n), range(8)),
    (lambda n: ody_s.polynomial(0.3, 0.0, 1.5, n), range(8)),
    (lambda n: ody_s.exponential_decay(0.3, n, 0.9), range(1, 8)),
    (lambda n: ody_s.geometric_decay(0.3, n, 0.1), range(8)),
    (lambda n: ody_s.tanh_decay(0.3, n), range(8)),
    (lambda n: ody_s.sqrt_decay(0.3, n), range(8)),
    (lambda n: ody_s.step_decay(0.3, n), range(1, 8)),
    (lambda n: ody_s.inverse_sqrt(0.3, n), range(1, 8)),
    (lambda n: ody_s.inverse_time_decay(0.3, n, 0.5), range(1, 8)),
    (lambda n: ody_s.constant(0.3).shift(n), range(8)),
    (lambda n: ody_s.constant(0.3).repeat(n), range(1, 8)),
]


@pytest.mark.parametrize(("build", "values"), SWEEPS, ids=range(len(SWEEPS)))
def test_one_trace_for_every_value_of_an_argument(build, values):
    traces = 0

    @jax.jit
    def run(schedule, step):
        nonlocal traces
        traces += 1
        return schedule(step)

    for value in values:
        assert jnp.isfinite(run(build(value), jnp.int32(7)))
    assert traces == 1


EXTREMES = [
    *(ody_s.cyclic(0.1, peak, 0, 5, "exp_range", g) for peak in (0.3, 50.0) for g in (1.01, 1.5)),
    ody_s.geometric_decay(1e-18, 100, 1e18),
    ody_s.geometric_decay(1e36, 100, 1.0),
    ody_s.geometric_decay(1.0, 100, 1e-36),
    ody_s.exponential_warmup(1e18, 100, 1e-18),
    ody_s.exponential_decay(1.0, 1, 1.01),
    ody_s.exponential_decay(1.0, 1, 1 + 1e-7),
]


_value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(lambda s, t: s(t)), in_axes=(None, 0)))


@pytest.mark.parametrize("schedule", EXTREMES, ids=range(len(EXTREMES)))
def test_values_and_gradients_are_finite_at_the_extremes(schedule):
    real = jax.tree.map(jnp.float32, schedule)
    steps = [*range(12), *range(45, 56), 99, 100, 101, *range(4000, 9000, 50), 10**6, 2**31 - 1]
    for leaf in jax.tree.leaves(_value_and_grad(real, jnp.array(steps))):
        assert np.all(np.isfinite(leaf))


def test_the_gradient_of_a_progression_is_right_however_far_it_goes():
    decay = jax.tree.map(jnp.float32, ody_s.geometric_decay(1e-18, 100, 1e18))
    slopes = jax.grad(lambda s: s(jnp.int32(60)))(decay)
    value = 1e-18 * 1e36**0.6
    want = (0.4 * value / 1e-18, value * np.log(1e36) * -0.6 / 100, 0.6 * value / 1e18)
    np.testing.assert_allclose(jax.tree.leaves(slopes), want, rtol=1e-5)


BAD = [
    (
        lambda: ody_s.geometric_decay(1e-38, 100, 1.0),
        r"init_value must be in the range \[1e-36, 1e36\].*init_value = 1e-38, end_value = 1\.0",
    ),
    (lambda: ody_s.geometric_decay(1e-30, 100, 1e30), r"end_value / init_value must be in the"),
    (lambda: ody_s.exponential_warmup(1e30, 9, 1e-30), r"peak_value / init_value must be in the"),
    (lambda: ody_s.with_noise(ody_s.constant(0.1), 0), r"limit must be .*greater than 0.* = 0"),
    (lambda: ody_s.with_noise(ody_s.constant(0.1), 0.5, -1), r"seed must be .*seed = -1"),
    (
        lambda: ody_s.with_noise(ody_s.constant(0.1), 0.5, 0, 20, 10),
        r"noise_begin must be at most noise_end.*noise_begin = 20, noise_end = 10",
    ),
    (
        lambda: ody_s.with_noise(ody_s.constant(0.1), 2.0),
        r"limit must be at most 1 in mode 'multiplicative'.*got limit = 2\.0",
    ),
    (lambda: ody_s.with_noise(ody_s.constant(0.1), 0.5, std=-1.0), r"std must be .*std = -1\.0"),
    (
        lambda: ody_s.cooldown(ody_s.constant(0.1), 5, 5, shape="power"),
        r"decay_power belongs to the shape 'power', which needs it; got decay_power = None",
    ),
    (
        lambda: ody_s.cooldown(ody_s.constant(0.1), 5, 5, decay_ratio=0.1),
        r"decay_ratio belongs to the shape 'exponential'.*0\.1 with the shape 'linear'",
    ),
    (
        lambda: ody_s.cooldown(ody_s.constant(0.1), 5, 5, shape="exponential", decay_ratio=1.0),
        r"decay_ratio must be in the range \(0, 1\).*= 1\.0",
    ),
    (lambda: ody_s.swa(ody_s.constant(0.1), 0.1, -1), r"swa_start must be .*swa_start = -1"),
    (lambda: ody_s.swa(ody_s.constant(0.1), 0.1, 5, anneal="1-sqrt"), r"anneal must be one of"),  # pyright: ignore
    (
        lambda: ody_s.warmup_stable_decay(0.1, 10, 95, 100),
        r"warmup_steps \+ decay_steps must be at most total_steps.*= 105, total_steps = 100",
    ),
    (
        lambda: ody_s.warmup_stable_decay(0.1, 10, 20, 100, stable_timescale=5),
        r"stable_timescale belongs to stable = 'inverse_sqrt'.*= 5",
    ),
    (
        lambda: ody_s.warmup_stable_decay(0.1, 10, 20, 100, warmup="power"),  # pyright: ignore
        r"warmup must be one of 'linear', 'cosine', '1-sqrt', 'exponential'; got warmup = 'power'",
    ),
    (lambda: ody_s.one_cycle(0.1, 50, 1.5), r"pct_start must be .*\[0, 1.*pct_start = 1\.5"),
    (lambda: ody_s.one_cycle(0.1, 50, 0.6, three_phase=True), r"pct_start must be .*0\.5.* = 0\.6"),
    (lambda: ody_s.one_cycle(0.1, 50, div_factor=0), r"div_factor must be .*greater than 0.* = 0"),
    (
        lambda: ody_s.one_cycle_momentum(50, anneal="cos"),
        r"anneal must be one of 'linear', 'cosine'",
    ),  # pyright: ignore
    (lambda: ody_s.cosine_restarts(0.1, 0), r"first_decay_steps must be in the range \[1, .* = 0"),
    (lambda: ody_s.cosine_restarts(0.1, 5, 0.9), r"t_mul must be finite and at least 1.*= 0\.9"),
    (lambda: ody_s.cosine_restarts(0.1, 5, 1.0001), r"fewer than 4096 cycles.*t_mul = 1\.0001"),
    (lambda: ody_s.cosine_restarts(0.1, 5, 2, 0), r"m_mul must be .*greater than 0.*m_mul = 0"),
    (
        lambda: ody_s.cosine_restarts(0.1, 5, cycle_limit=0),
        r"cycle_limit must be .* = 0",
    ),
    (lambda: ody_s.restarts(ody_s.constant(0.1)), r"must be a decay .*got schedule = constant"),
    (
        lambda: ody_s.restarts(ody_s.cosine_decay(0.1, 5, past_end="mirror")),
        r"must hold its end value .*past_end='mirror'",
    ),
    (
        lambda: ody_s.restarts(ody_s.linear(0.1, 0.0, 5, 3)),
        r"decay from its first step; got transition_begin = 3",
    ),
    (lambda: ody_s.restarts(ody_s.cosine_decay(0.1, 0)), r"decay_steps must be .*decay_steps = 0"),
    (lambda: ody_s.cyclic(0.1, 0.2, 0), r"step_size_up \+ step_size_down .*step_size_down = 0"),
    (lambda: ody_s.cyclic(0.1, 0.2, 2**30, 2**30), r"must be in the range \[1, 2\*\*31 - 1\]"),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, mode="square"), r"mode must be one of 'triangular'"),  # pyright: ignore
    (lambda: ody_s.cyclic(0.1, 0.2, 5, gamma=0.9), r"belongs to mode = 'exp_range'.*gamma = 0.9"),
    (
        lambda: ody_s.cyclic(0.1, 0.2, 5, mode="triangular2", amplitude=ody_s.constant(0.5)),
        r"leave mode at 'triangular'; got mode = 'triangular2'",
    ),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, amplitude_of="step"), r"give amplitude too; got .*'step'"),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, amplitude=0.5), r"amplitude must be a schedule"),  # pyright: ignore
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_ends_that_are_known_are_looked_for_among_integers():
    """A look-up among fractions costs one-cycle twice the time."""
    known = ody_s.one_cycle(0.1, 100).prepared()
    assert [leaf.dtype for leaf in jax.tree.leaves(known.boundaries)] == [np.int32]
    broken = ody_s.one_cycle(0.1, 101).prepared()  # 0.3 * 101 steps up
    assert {leaf.dtype for leaf in jax.tree.leaves(broken.boundaries)} == {np.dtype(np.float32)}
