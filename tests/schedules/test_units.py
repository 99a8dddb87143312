"""Epochs, tokens and fractions of the run: kept as written, and made steps once."""

from __future__ import annotations

import json
import pickle

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.schedules import (
    Schedule,
    cosine_decay,
    epochs,
    fraction,
    join,
    linear_warmup,
    tokens,
    warmup_cosine,
)
from odyssey_jax.schedules._base import _FACTORIES

RUN = {"steps_per_epoch": 50, "tokens_per_step": 1_000, "total_steps": 2_000}

# As written, and what it is in RUN.
WRITTEN = [
    (linear_warmup(0.1, epochs(3)), linear_warmup(0.1, 150)),
    (cosine_decay(0.1, tokens(1e6), past_end="zero"), cosine_decay(0.1, 1_000, past_end="zero")),
    (warmup_cosine(0.1, fraction(0.1), fraction(1)), warmup_cosine(0.1, 200, 2_000)),
    (
        join([linear_warmup(0.1, epochs(5)), cosine_decay(0.1, 50)], [epochs(5)]),
        join([linear_warmup(0.1, 250), cosine_decay(0.1, 50)], [250]),
    ),
    (
        linear_warmup(0.1, 10).then(cosine_decay(0.1, fraction(1) - epochs(1) - 10), epochs(1)),
        linear_warmup(0.1, 10).then(cosine_decay(0.1, 1_940), 50),
    ),
    (
        2 * cosine_decay(0.1, epochs(2)).shift(epochs(1)) + 0.01,
        2 * cosine_decay(0.1, 100).shift(50) + 0.01,
    ),
    (
        ody_s.step_decay(0.1, epochs(30), 0.5).clip(0.01),
        ody_s.step_decay(0.1, 1_500, 0.5).clip(0.01),
    ),
    (ody_s.shift(cosine_decay(0.1, 100), -epochs(1)), cosine_decay(0.1, 100).shift(-50)),
    (
        ody_s.repeat(cosine_decay(0.1, epochs(1)), epochs(1), True),
        cosine_decay(0.1, 50).repeat(50, True),
    ),
    (
        ody_s.restarts(cosine_decay(0.1, epochs(1)), t_mul=2.0),
        ody_s.cosine_restarts(0.1, 50, t_mul=2.0),
    ),
    (
        linear_warmup(0.1, epochs(np.float32(2.5)) - np.int64(5)),
        linear_warmup(0.1, 120),
    ),
    (cosine_decay(0.1, epochs(jnp.float32(2))), cosine_decay(0.1, 100)),
]


@pytest.mark.parametrize(("written", "want"), WRITTEN)
def test_resolved_it_is_the_schedule_in_steps(written, want):
    assert written.resolve(**RUN) == want
    assert want.resolve(**RUN) is want
    assert written != want


@pytest.mark.parametrize("written", [written for written, _ in WRITTEN])
def test_as_written_it_is_a_value(written):
    assert eval(repr(written), vars(ody_s)) == written
    assert Schedule.from_json(written.to_json()) == written
    assert Schedule.from_dict(json.loads(json.dumps(written.to_dict()))) == written
    assert pickle.loads(pickle.dumps(written)) == written
    leaves, treedef = jax.tree.flatten(written)
    assert treedef.unflatten(leaves) == written
    assert hash(treedef.unflatten(leaves)) == hash(written)


@pytest.mark.parametrize("written", [written for written, _ in WRITTEN])
def test_without_its_measures_it_has_no_values(written):
    for call in (written, jax.jit(written), jax.vmap(written)):
        with pytest.raises(ValueError, match=r"is written in .* use schedule\.resolve\("):
            call(jnp.arange(3))


def test_the_message_names_what_is_missing():
    schedule = warmup_cosine(0.1, epochs(1), tokens(1e9))
    with pytest.raises(
        ValueError,
        match=r"in epochs, tokens,.*resolve\(steps_per_epoch=\.\.\., tokens_per_step=\.\.\.\)"
        r"; got warmup_cosine\(peak_value=0\.1, warmup_steps=epochs\(1\)",
    ):
        schedule(0)
    part = schedule.resolve(steps_per_epoch=10)
    assert repr(part).startswith("warmup_cosine(peak_value=0.1, warmup_steps=10, ")
    with pytest.raises(ValueError, match=r"written in tokens.*resolve\(tokens_per_step=\.\.\.\)"):
        part(0)
    assert part.resolve(tokens_per_step=1e6) == warmup_cosine(0.1, 10, 1_000)
    nested = (2 * schedule).then(cosine_decay(0.1, 5), 9)
    with pytest.raises(ValueError, match="written in epochs, tokens"):
        nested(0)


@hypothesis.given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**6))
def test_lengths_round_each_by_itself_so_phases_fit(first, second, total):
    parts = [fraction(first), fraction(second)]
    steps = [linear_warmup(1.0, x).resolve(total_steps=total).warmup_steps for x in parts]
    assert steps == [round(first * total), round(second * total)]
    both = linear_warmup(1.0, parts[0] + parts[1]).resolve(total_steps=total).warmup_steps
    assert both == sum(steps)
    rest = fraction(1) - parts[0]
    assert linear_warmup(1.0, rest).resolve(total_steps=total).warmup_steps == total - steps[0]


def test_rounding_is_to_the_nearest_and_to_the_even_one_of_two():
    lengths = [linear_warmup(1.0, epochs(x)).resolve(steps_per_epoch=5) for x in (0.5, 0.7, 0.9)]
    assert [x.warmup_steps for x in lengths] == [2, 4, 4]
    got = linear_warmup(1.0, epochs(3)).resolve(steps_per_epoch=12.5)
    assert got.warmup_steps == round(37.5)


def test_multiples_of_a_length():
    five = epochs(5)
    for ten in (five * 2, 2 * five, np.int64(2) * five, five / 0.5, jnp.int32(2) * five):
        schedule = linear_warmup(0.1, ten)
        assert schedule.resolve(**RUN) == linear_warmup(0.1, 500)
    third = linear_warmup(0.1, fraction(1) / 3).resolve(**RUN)
    assert third == linear_warmup(0.1, 667)
    both = linear_warmup(0.1, (epochs(1) + 3) * 0.5).resolve(**RUN)
    assert both == linear_warmup(0.1, 27)


def test_how_a_length_reads():
    assert repr(fraction(1) - epochs(5)) == "fraction(1) - epochs(5)"
    assert repr(-epochs(0.5) + 100) == "-epochs(0.5) + 100"
    assert repr(100 - tokens(2e9)) == "100 - tokens(2000000000.0)"
    assert eval(repr(100 - tokens(2e9)), vars(ody_s)) == 100 - tokens(2e9)


def test_one_trace_for_any_number_of_epochs():
    traces = 0

    @jax.jit
    def run(schedule, step):
        nonlocal traces
        traces += 1
        return schedule.resolve(steps_per_epoch=40)(step)

    for n in range(1, 30):
        got = run(linear_warmup(0.1, epochs(n / 4)), jnp.int32(3))
        np.testing.assert_allclose(got, 0.1 * min(3 / (10 * n), 1), rtol=1e-6)
    assert traces == 1


def test_every_public_schedule_takes_units():
    from tests.schedules.test_contract import builds_a_schedule

    public = {name for name in dir(ody_s) if not name.startswith("_") and builds_a_schedule(name)}
    assert public <= set(_FACTORIES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epochs(-1), r"epochs must be in the range \[0, .*got epochs = -1"),
        (lambda: epochs("5"), r"epochs must be a number"),
        (
            lambda: epochs(5) / 0,
            r"length can be divided by any finite number but 0; got length / 0",
        ),
        (lambda: epochs(5) * float("nan"), r"factor must be finite; got factor = nan"),
        (
            lambda: fraction(0.6) * 2,
            r"fraction must be in the range \[-1, 1\]; got fraction = 1\.2",
        ),
        (lambda: fraction(10), r"fraction must be in the range \[0, 1\]; got fraction = 10"),
        (lambda: tokens(float("nan")), r"tokens must be in the range \[0, 1e\+18\]"),
        (lambda: cosine_decay(float("nan"), epochs(5)), r"init_value must be finite"),
        (lambda: cosine_decay(0.1, epochs(5), past_end="loop"), r"past_end must be one of"),
        (
            lambda: join([linear_warmup(0.1, epochs(1)), 0.1], [epochs(1)]),
            r"schedules\[1\] must",
        ),
        (lambda: WRITTEN[0][0].resolve(steps_per_epoch=0), r"steps_per_epoch must be in the"),
        (lambda: WRITTEN[0][0].resolve(total_steps=0), r"total_steps must be in the range \[1"),
        (
            lambda: WRITTEN[0][1].resolve(tokens_per_step=-1),
            r"tokens_per_step must be in the",
        ),
        (
            lambda: cosine_decay(0.1, fraction(0.1) - epochs(5)).resolve(**RUN),
            r"decay_steps must be in the range \[0, .*got decay_steps = -50",
        ),
        (
            lambda: warmup_cosine(0.1, epochs(50), fraction(1)).resolve(**RUN),
            r"warmup_steps must be at most total_steps.*2500.*2000",
        ),
    ],
)
def test_bad_units(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_plain_function_is_named_in_what_waits():
    function = lambda step: 0.1
    written = ody_s.then(function, cosine_decay(0.1, epochs(5)), epochs(2))
    assert "test_a_plain_function" in written.to_json()
    assert written.resolve(**RUN) == ody_s.then(function, cosine_decay(0.1, 250), 100)


def test_a_call_that_does_not_fit_is_refused_at_once():
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        cosine_decay(0.1, epochs(5), end=3)  # pyright: ignore[reportCallIssue]
