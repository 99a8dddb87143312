"""Joins: equal to Optax wherever that is defined, and one formula for a kind of piece."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odyssey_jax.schedules import (
    constant,
    cosine_decay,
    exponential_decay,
    join,
    linear_warmup,
    step_decay,
    warmup_cosine,
)

STEPS = np.arange(400)

# (ours, Optax's) of each kind, from a value and a length.
KINDS = [
    lambda v, n: (constant(v), optax.constant_schedule(v)),
    lambda v, n: (linear_warmup(v, n), optax.linear_schedule(0.0, v, n)),
    lambda v, n: (cosine_decay(v, n), optax.cosine_decay_schedule(v, n)),
    lambda v, n: (exponential_decay(v, n, 0.5), optax.exponential_decay(v, n, 0.5)),
]


@st.composite
def joins(draw):
    kinds = draw(st.lists(st.sampled_from(range(len(KINDS))), min_size=1, max_size=4))
    pieces = []
    for kind in kinds:
        value, steps = draw(st.floats(0.01, 2.0)), draw(st.integers(1, 100))
        pieces.append(KINDS[kind](value, steps))
    size = len(kinds) - 1
    boundaries = sorted(draw(st.lists(st.integers(0, 300), min_size=size, max_size=size)))
    return pieces, boundaries


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(joins())
def test_equal_to_optax(drawn):
    pieces, boundaries = drawn
    ours = join([ours for ours, _ in pieces], boundaries)
    # Optax evaluates piece k at `step - boundary` below its start too: eager, and with NumPy's
    # steps. Op by op, so that neither is compiled for every example.
    with jax.numpy_dtype_promotion("standard"), jax.disable_jit():
        theirs = jax.vmap(optax.join_schedules([theirs for _, theirs in pieces], boundaries))(STEPS)
        np.testing.assert_allclose(ours(STEPS), theirs, rtol=3e-6, atol=1e-6)


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.lists(st.integers(0, 60), max_size=6).map(sorted))
def test_a_boundary_belongs_to_the_next_piece(boundaries):
    pieces = [linear_warmup(1000.0 * i + 100, 100, 1000.0 * i) for i in range(len(boundaries) + 1)]
    got = np.asarray(join(pieces, boundaries)(np.arange(70)))
    piece = np.searchsorted(boundaries, np.arange(70), side="right")
    local = np.arange(70) - np.array([0, *boundaries])[piece]
    np.testing.assert_allclose(got, 1000.0 * piece + local, rtol=1e-6)


def formulas(schedule) -> int:
    return str(jax.make_jaxpr(schedule)(jnp.int32(3))).count(" sin ")


def test_one_formula_for_a_kind_of_piece():
    for count in (2, 32, 512):
        cosines = [cosine_decay(0.1 + i, 10 + i, 0.01 * i) for i in range(count)]
        schedule = join(cosines, [20 * (i + 1) for i in range(count - 1)])
        assert formulas(schedule) == 1
        for i in (0, 1, count // 2, count - 1):
            np.testing.assert_allclose(schedule(20 * i + 7), cosines[i](7), rtol=3e-7)
    mixed = join([constant(0.1), *cosines[:8], step_decay(0.1, 3), *cosines[8:16]], range(1, 18))
    assert formulas(mixed) == 1
    nested = join([warmup_cosine(0.1 * (i + 1), 5, 50) for i in range(4)], [50, 100, 150])
    assert formulas(nested) == 1
    np.testing.assert_allclose(nested(75), warmup_cosine(0.2, 5, 50)(25), rtol=3e-7)


def test_an_unselected_piece_gives_no_nan():
    # Optax's power is NaN or infinite far past its range: the mask is on what goes in.
    bad = lambda step: jnp.log(5.0 - step.astype(jnp.float32))
    schedule = join([bad, linear_warmup(0.1, 10)], [3])
    value, slope = jax.vmap(jax.value_and_grad(schedule))(jnp.arange(12.0))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(slope))


def test_no_piece_sees_a_negative_step():
    seen = []

    def piece(step):
        jax.debug.callback(lambda x: seen.append(int(x)), step)
        return jnp.float32(0.1)

    schedule = join([piece, piece, piece], [10, 20])
    for step in (0, 9, 10, 25):
        schedule(step)
    jax.effects_barrier()
    assert len(seen) >= 4
    assert min(seen) >= 0


def test_boundaries_that_are_traced_or_fractional():
    def run(boundary, step):
        return join([linear_warmup(0.1, 10), cosine_decay(0.1, 90)], [boundary])(step)

    for step in (5, 9, 10, 40):
        want = run(10, step)
        np.testing.assert_allclose(jax.jit(run)(10, step), want, rtol=3e-7)
        np.testing.assert_allclose(jax.jit(run)(10.0, step), want, rtol=3e-7)
    assert run(10.5, 10) == pytest.approx(0.1)
    assert run(10.5, 10.5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("pieces", "boundaries", "message"),
    [
        (3, [5], r"too few for 3 schedules; got boundaries = \[5\]"),
        (2, [], r"too few for 2 schedules; got boundaries = \[\]"),
        (2, [5, 6], r"too many for 2 schedules; got boundaries = \[5, 6\]"),
        (3, [9, 5], r"sorted, smallest first; got boundaries = \[9, 5\]"),
        (2, [-1], r"in the range \[0, 2\*\*31 - 1\] steps; got boundaries = -1"),
        (2, [2**31], r"in the range \[0, 2\*\*31 - 1\] steps; got boundaries = 2147483648"),
        (2, ["5"], r"boundaries must be a number.*got boundaries = '5'"),
    ],
)
def test_bad_boundaries(pieces, boundaries, message):
    with pytest.raises(ValueError, match=message):
        join([constant(0.1)] * pieces, boundaries)


def test_bad_pieces():
    with pytest.raises(ValueError, match=r"at least one schedule; got schedules = \[\]"):
        join([], [])
    with pytest.raises(ValueError, match=r"schedules\[1\] must be a schedule.*0\.1.*constant"):
        join([constant(0.1), 0.1], [5])
