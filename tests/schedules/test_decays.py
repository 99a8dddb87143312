"""Decays and warm-ups: what their peers do, the cost of tables, and errors."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.schedules as ody_s


def keras_polynomial_cycle(t: int, steps: int, power: float) -> float:
    multiple = steps * (1.0 if t == 0 else math.ceil(t / steps))
    return (0.3 - 0.01) * (1 - t / multiple) ** power + 0.01


def hard_restarts(t: int, steps: int, cycles: int) -> float:
    # In whole numbers: where `cycles * (t / steps)` in float64 is just below a whole number,
    # the peak is lost.
    return 0.0 if t >= steps else 0.15 * (1 + math.cos(math.pi * (cycles * t % steps) / steps))


def cosine_cycles(t: int, steps: int, cycles: float) -> float:
    return 0.15 * (1 + math.cos(2 * math.pi * cycles * min(t, steps) / steps))


@pytest.mark.parametrize(("steps", "power"), [(7, 1.0), (30, 1.5), (1, 2.0)])
def test_a_horizon_that_is_stretched(steps, power):
    schedule = ody_s.polynomial(0.3, 0.01, power, steps, past_end="stretch")
    want = [keras_polynomial_cycle(t, steps, power) for t in range(100)]
    np.testing.assert_allclose(schedule(np.arange(100)), want, rtol=1e-6)
    np.testing.assert_array_equal(schedule(np.arange(1, 4) * steps), np.float32([0.01] * 3))
    late = schedule(2**31 - 1)  # whose multiple of 30 is beyond an int32
    np.testing.assert_allclose(late, keras_polynomial_cycle(2**31 - 1, steps, power), rtol=1e-6)


def test_the_steepest_tangent_is_a_step():
    schedule = ody_s.tanh_decay(0.3, 100, 0.01, lower=-1e4, upper=1e4)
    want = np.float32([0.3, 0.3, 0.155, 0.01, 0.01])
    np.testing.assert_allclose(schedule(np.array([0, 49, 50, 51, 100])), want, rtol=1e-6)


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.integers(1, 200), st.integers(1, 40))
def test_hard_restarts_are_at_their_peak(steps, cycles):
    schedule = ody_s.cosine_decay(0.3, steps, num_cycles=cycles, hard_restarts=True)
    want = [hard_restarts(t, steps, cycles) for t in range(220)]
    np.testing.assert_allclose(schedule(np.arange(220)), want, rtol=1e-6, atol=1e-12)


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.integers(1, 200), st.floats(0, 20))
def test_any_number_of_cycles(steps, cycles):
    schedule = ody_s.cosine_decay(0.3, steps, num_cycles=cycles)
    want = [cosine_cycles(t, steps, cycles) for t in range(220)]
    np.testing.assert_allclose(schedule(np.arange(220)), want, rtol=1e-6, atol=1e-9)


def test_boundaries_that_are_equal_or_0():
    schedule = ody_s.multistep_decay(1.0, [0, 4, 4], 0.5)
    np.testing.assert_array_equal(schedule(np.array([0, 3, 4, 9])), [0.5, 0.5, 0.125, 0.125])
    schedule = ody_s.piecewise_constant([1, 2, 3, 4], [0, 4, 4])
    np.testing.assert_array_equal(schedule(np.array([0, 3, 4, 9])), [2, 2, 4, 4])
    schedule = ody_s.piecewise_interpolate([1, 2, 3, 4], [0, 4, 4])
    np.testing.assert_array_equal(schedule(np.array([0, 2, 4, 9])), [2, 2.5, 4, 4])
    assert ody_s.multistep_decay(0.3, [])(5) == np.float32(0.3)
    assert ody_s.piecewise_constant([0.3], [])(5) == np.float32(0.3)
    assert ody_s.piecewise_interpolate([0.3], [])(5) == np.float32(0.3)


def test_one_formula_for_a_table():
    def size(count: int, formula: str) -> int:
        steps = [10 * (i + 1) for i in range(count)]
        values = [0.1 + i for i in range(count + 1)]
        schedule = ody_s.piecewise_interpolate(values, steps, "cosine")
        return str(jax.make_jaxpr(schedule)(jnp.int32(3))).count(formula)

    for count in (1, 30, 500):
        assert size(count, " sin ") == 1
    assert size(500, "\n") < 3 * size(1, "\n")


def test_tables_that_are_traced():
    def run(values, boundaries, step):
        return ody_s.piecewise_interpolate(values, boundaries)(step)

    values, boundaries = jnp.array([0.1, 0.5, 0.3]), jnp.array([10, 20])
    np.testing.assert_allclose(jax.jit(run)(values, boundaries, 5), 0.3, rtol=1e-6)
    slopes = jax.grad(lambda v: run(v, boundaries, 15))(values)
    np.testing.assert_allclose(slopes, [0, 0.5, 0.5], rtol=1e-6)


def test_steep_powers_keep_their_digits():
    t = np.arange(0, 10**6, 997)
    left = 1 - t / 10**6
    for power in (0.05, 0.5, 7.3, 30.0, 900.0):
        want = 0.3 * left**power
        want[want < 1e-36] = 0
        got = np.asarray(ody_s.polynomial(0.3, 0.0, power, 10**6)(t), np.float64)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-36)


def test_a_curve_and_its_twin():
    t = np.arange(120)
    for decay, warmup in (
        (ody_s.linear(0.01, 0.3, 100), ody_s.linear_warmup(0.3, 100, 0.01)),
        (ody_s.cosine_decay(0.01, 100, 0.3), ody_s.cosine_warmup(0.3, 100, 0.01)),
        (ody_s.geometric_decay(0.01, 100, 0.3), ody_s.exponential_warmup(0.3, 100, 0.01)),
        (ody_s.polynomial(0.01, 0.3, 0.5, 100), ody_s.sqrt_warmup(0.3, 100, 0.01)),
        (ody_s.sqrt_decay(0.01, 100, 0.3), ody_s.polynomial_warmup(0.3, 100, 0.5, 0.01)),
    ):
        np.testing.assert_allclose(decay(t), warmup(t), rtol=1e-6)


def test_powers_of_the_time_are_one_family():
    t = np.array([0, 1, 7, 1_000, 10**8, 2**31 - 1])
    for power, twin in (
        (0.5, ody_s.inverse_sqrt(0.3, 100)),
        (1.0, ody_s.inverse_time_decay(0.3, 100, 1.0)),
    ):
        np.testing.assert_allclose(ody_s.power_decay(0.3, 100, power)(t), twin(t), rtol=1e-6)


BAD = [
    (lambda: ody_s.linear(0.1, 0.0, -1), r"transition_steps must be in the range \[0, .* = -1"),
    (lambda: ody_s.linear(0.1, 0.0, 9, -2), r"transition_begin must be in the range .* = -2"),
    (lambda: ody_s.linear(0.1, np.inf, 9), r"end_value must be finite; got end_value = inf"),
    (
        lambda: ody_s.linear(0.1, 0.0, 9, past_end="stretch", end_on_last_step=True),
        r"end_on_last_step must be False where past_end is 'stretch'.*= True",
    ),
    (lambda: ody_s.polynomial(0.1, 0.0, 0.0, 9), r"power must be .*greater than 0; got power = 0"),
    (lambda: ody_s.polynomial(0.1, 0.0, 1.0, 9, 0, -1.0), r"k_decay must be .*k_decay = -1"),
    (lambda: ody_s.geometric_decay(0.1, 9, 0.0), r"end_value must be .*greater than 0.*= 0\.0"),
    (lambda: ody_s.cosine_decay(0.1, 9, exponent=0), r"exponent must be .*got exponent = 0"),
    (lambda: ody_s.cosine_decay(0.1, 9, num_cycles=-1), r"num_cycles must be in the range .*= -1"),
    (lambda: ody_s.cosine_decay(0.1, 9, k_decay=np.nan), r"k_decay must be .*got k_decay = nan"),
    (
        lambda: ody_s.cosine_decay(0.1, 9, hard_restarts=True),
        r"hard_restarts needs num_cycles, the number of falls; got num_cycles = None",
    ),
    (lambda: ody_s.cosine_warmup(0.1, -3), r"warmup_steps must be in the range .* = -3"),
    (lambda: ody_s.sqrt_warmup(np.nan, 3), r"peak_value must be finite; got peak_value = nan"),
    (lambda: ody_s.sqrt_decay(0.1, "9"), r"decay_steps must be a number.*decay_steps = '9'"),
    (lambda: ody_s.tanh_decay(0.1, 9, 0.0, -np.inf), r"lower must be in .*got lower = -inf"),
    (lambda: ody_s.tanh_decay(0.1, 9, upper=np.nan), r"upper must be in .*got upper = nan"),
    (lambda: ody_s.inverse_sqrt(0.1, 0), r"timescale must be in the range \[1, .*timescale = 0"),
    (lambda: ody_s.inverse_time_decay(0.1, 0, 1.0), r"transition_steps must be .* = 0"),
    (lambda: ody_s.inverse_time_decay(0.1, 9, -1.0), r"decay_rate must be .*= -1\.0"),
    (lambda: ody_s.power_decay(0.1, 9, 0), r"power must be .*got power = 0"),
    (lambda: ody_s.multistep_decay(0.1, 30), r"boundaries must be a sequence; got .* = 30"),
    (lambda: ody_s.multistep_decay(0.1, [9, 5]), r"boundaries must be sorted.*\[9, 5\]"),
    (lambda: ody_s.multistep_decay(0.1, [9], 0), r"gamma must be .*got gamma = 0"),
    (
        lambda: ody_s.piecewise_constant([0.1, 0.2], [5, 9]),
        r"one fewer than the values: too many for 2 values; got boundaries = \[5, 9\]",
    ),
    (
        lambda: ody_s.piecewise_constant([0.1], {5: 0.5}),
        r"boundaries must be a sequence; got boundaries = \{5: 0\.5\}",
    ),
    (lambda: ody_s.piecewise_constant([], []), r"values must be at least one number"),
    (lambda: ody_s.piecewise_constant([0.1, np.nan], [5]), r"values must be finite.*= nan"),
    (
        lambda: ody_s.piecewise_interpolate([0.1, 0.2], [5], "cubic"),  # pyright: ignore
        r"interpolation must be one of 'linear', 'cosine'; got interpolation = 'cubic'",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
