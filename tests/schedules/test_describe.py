"""Schedules in words, and what `lint` finds: on mistakes something, on ordinary recipes nothing."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.schedules import (
    by_epoch,
    by_epoch_fraction,
    constant,
    cosine_decay,
    describe,
    epochs,
    exponential_decay,
    join,
    linear,
    linear_warmup,
    lint,
    multistep_decay,
    polynomial_warmup,
    step_decay,
    warmup_cosine,
)

RECIPES = {
    "constant": (constant(0.1), 1_000),
    "cosine": (cosine_decay(0.1, 1_000), 1_000),
    "cosine with a floor": (cosine_decay(0.1, 500, 0.001), 1_000),
    "cosine on the last step": (cosine_decay(0.1, 1_000, end_on_last_step=True), 1_000),
    "cosine, one step short": (cosine_decay(0.1, 999), 1_000),
    "cosine, a few steps long": (cosine_decay(0.1, 1_020), 1_000),
    "warm-up and cosine": (warmup_cosine(0.1, 100, 1_000), 1_000),
    "warm-up of one step": (warmup_cosine(0.1, 1, 1_000), 1_000),
    "warm-up of none": (warmup_cosine(0.1, 0, 1_000), 1_000),
    "warm-up, then constant": (linear_warmup(0.1, 100), 1_000),
    "warm-up, then constant, joined": (linear_warmup(0.1, 50).then(constant(0.1), 50), 1_000),
    "restarts": (cosine_decay(0.1, 250, past_end="repeat"), 1_000),
    "restarts, joined": (join([cosine_decay(0.1 / i, 500) for i in (1, 2)], [500]), 1_000),
    "warm restarts, joined": (
        join([warmup_cosine(0.1, 50, 500, 0.0, 0.02) for _ in "ab"], [500]),
        1_000,
    ),
    "repeated": (warmup_cosine(0.1, 10, 100, 0.0, 0.02).repeat(100), 1_000),
    "stairs": (step_decay(0.1, 300), 1_000),
    "multistep": (multistep_decay(0.1, [500, 750]), 1_000),
    "stairs, joined": (join([constant(0.1), constant(0.01), constant(0.001)], [500, 750]), 1_000),
    "exponential": (exponential_decay(0.1, 100, 0.5), 1_000),
    "three phases": (
        join(
            [linear_warmup(0.1, 100), constant(0.1), linear(0.1, 0.0, 200)],
            [100, 800],
        ),
        1_000,
    ),
    "up and down": (linear_warmup(1.0, 300, 0.04).then(cosine_decay(1.0, 700), 300), 1_000),
    "by epoch": (by_epoch(step_decay(0.1, 30), 100), 9_000),
    "in epochs": (by_epoch_fraction(warmup_cosine(0.1, 5, 90), 100), 9_000),
    "scaled for Optax": (-1 * warmup_cosine(0.1, 100, 1_000), 1_000),
    "long": (warmup_cosine(3e-4, 2_000, 2_000_000, 0.0, 3e-5), 2_000_000),
    "longest": (warmup_cosine(3e-4, 2_000, 2**31 - 1), 2**31 - 1),
    "Optax": (optax.warmup_cosine_decay_schedule(0.0, 0.1, 100, 1_000), 1_000),
    "shifted": (cosine_decay(0.1, 900).shift(100), 1_000),
    "stretched": (warmup_cosine(0.1, 10, 100).stretch(10), 1_000),
    "floored": (warmup_cosine(0.1, 100, 800).clip(min_value=1e-3), 1_000),
    "one-cycle": (ody_s.one_cycle(0.1, 1_000), 1_000),
    "one-cycle, momentum": (ody_s.one_cycle_momentum(1_000), 1_000),
    "growing restarts": (ody_s.cosine_restarts(0.1, 100, 2.0), 700),
    "inverse root": (linear_warmup(0.1, 100).then(ody_s.inverse_sqrt(0.1, 100), 100), 9_000),
    "triangles": (ody_s.cyclic(0.01, 0.1, 100), 1_000),
    "tanh": (ody_s.tanh_decay(0.1, 1_000), 1_000),
    "geometric": (ody_s.geometric_decay(0.1, 1_000, 1e-4), 1_000),
    "warm-up, stable, decay": (ody_s.warmup_stable_decay(0.1, 100, 200, 1_000), 1_000),
    "warm-up of 5 steps": (warmup_cosine(0.1, 5, 10_000), 10_000),
    "warm-up of 100 steps, alone": (linear_warmup(0.1, 100), 10_000),
    "warm-up of a few steps, for ever": (
        linear_warmup(0.1, 5).then(ody_s.inverse_sqrt(0.1, 100), 5),
        10_000,
    ),
    "a floor of 1e-5": (cosine_decay(0.1, 1_000, 1e-6), 1_000),
    "a thousandth for a fifth": (cosine_decay(0.1, 800, 1e-4), 1_000),
    "steep": (ody_s.polynomial(0.1, 1e-6, 5.0, 1_000), 1_000),
    "four stairs": (multistep_decay(0.1, [300, 600, 750, 900]), 1_000),
    "averaging": (ody_s.swa(cosine_decay(0.1, 1_000), 0.05, 750), 1_000),
    "noise": (ody_s.with_noise(warmup_cosine(0.1, 100, 1_000), 0.5, 0, 200, 800), 1_000),
    "product": (linear_warmup(1.0, 100) * cosine_decay(0.1, 1_000), 1_000),
}


@pytest.mark.parametrize("name", RECIPES)
def test_no_alarm_on_an_ordinary_recipe(name):
    schedule, total = RECIPES[name]
    with jax.numpy_dtype_promotion("standard"):  # Optax's own
        for steps_per_epoch in (None, total / 7, total / 90):
            assert lint(schedule, total, steps_per_epoch) == []


MISTAKES = [
    (
        warmup_cosine(0.1, 2_000, 10_000),
        "warm-up longer than the run",
        1_000,
        r"linear_warmup ends at step 2,000, and the run at step 1,000: .* 0\.0499 and not to 0\.1",
    ),
    (polynomial_warmup(0.1, 2_000), "warm-up longer than the run", 1_000, "ends at step 2,000"),
    (
        warmup_cosine(0.1, 100, 10_000),
        "end not reached",
        1_000,
        r"cosine_decay ends at step 10,000, and the run at step 1,000: the rate is still 0\.098",
    ),
    (
        linear_warmup(0.1, 500).then(cosine_decay(0.1, 1_000), 500),
        "end not reached",
        1_000,
        "cosine_decay ends at step 1,500",
    ),
    (ody_s.one_cycle(0.1, 10_000), "warm-up longer than the run", 1_000, "ends at step 2,999"),
    (ody_s.one_cycle(0.1, 1_500), "end not reached", 1_000, "ends at step 1,499"),
    (multistep_decay(0.1, [500, 2_000]), "end not reached", 1_000, "still 0.01 and not 0.001"),
    (
        join([constant(0.1), constant(0.01), constant(0.001)], [500, 2_000]),
        "part not reached",
        2_000,
        "constant begins here, and the run is over at step 1,000",
    ),
    (
        linear_warmup(0.1, 100).then(cosine_decay(0.01, 900), 100),
        "jump",
        100,
        r"jumps from 0\.1 at the end of linear_warmup to 0\.01 at the start of cosine_decay",
    ),
    (
        linear_warmup(0.1, 200).then(cosine_decay(0.1, 900), 100),
        "jump",
        100,
        r"from 0\.05 at the end of linear_warmup, which is cut off before its end at step 200",
    ),
    (
        (constant(0.1).then(cosine_decay(0.01, 500), 500)).stretch(1.0) * 2,
        "jump",
        500,
        r"from 0\.2 at the end of constant to 0\.02",
    ),
    (
        ody_s.one_cycle(0.1, 500),
        "rate low",
        499,
        "held at 4e-06 of its peak from here on, for 501 of 1,000 steps",
    ),
    (cosine_decay(0.1, 750, 1e-5), "rate low", 750, "0.0001 of its peak from here on, for 250"),
    (multistep_decay(0.1, [200, 400, 500, 700]), "rate low", 700, "0.0001 of its peak"),
    (exponential_decay(0.1, 10, 0.5), "rate 0", 299, "as good as 0"),
    (linear_warmup(0.1, 5), "epochs", 5, "is over after 5 of 1,000 steps.*write epochs"),
    (linear_warmup(0.1, 5).then(constant(0.1), 5), "epochs", 5, "over after 5"),
    (cosine_decay(0.1, 5, 0.01), "epochs", 5, "over after 5"),
    (
        ody_s.warmup_stable_decay(0.1, 100, 900, 1_200),
        "end not reached",
        1_000,
        "cooldown ends at step 1,200",
    ),
    (cosine_decay(0.1, 500), "rate 0", 500, "the rate is 0 from here on: 500 of 1,000 steps"),
    (cosine_decay(0.1, 998), "rate 0", 998, "2 of 1,000"),
    (step_decay(0.1, 30), "rate 0", 270, "1e-10, as good as 0, from here on: 730 of 1,000"),
    (constant(0.0), "rate 0", 0, "the rate is 0 from here on: 1,000 of 1,000"),
    (
        cosine_decay(0.1, 1_000) - 0.05,
        "sign",
        501,
        r"of the other sign than its peak.*clip\(schedule, min_value=0\.0\)",
    ),
    (lambda t: 0.1 / (5 - t).astype("float32"), "not finite", 5, "the value is inf"),
]


@pytest.mark.parametrize(("schedule", "kind", "step", "message"), MISTAKES)
def test_mistakes_are_found_once(schedule, kind, step, message):
    findings = lint(schedule, 1_000)
    assert [(finding.kind, finding.step) for finding in findings] == [(kind, step)]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(findings[0]))
    assert str(findings[0]).endswith(".")


@pytest.mark.parametrize(
    "schedule",
    [
        warmup_cosine(0.1, 5, 90),
        cosine_decay(0.1, 90, 0.01),
        step_decay(0.1, 30),
        multistep_decay(0.1, [30, 60]),
        exponential_decay(0.1, 10, 0.5),
    ],
)
def test_epoch_numbers_where_steps_were_meant(schedule):
    findings = lint(schedule, 90 * 500, steps_per_epoch=500)
    assert [finding.kind for finding in findings] == ["epochs"]
    assert "90 epochs of 500 steps" in findings[0].what
    assert "epochs(n)" in findings[0].remedy


@pytest.mark.parametrize("steps_per_epoch", [None, 100])
@pytest.mark.parametrize(
    ("schedule", "step"),
    [
        (linear_warmup(0.1, 5), 5),
        (linear_warmup(0.1, 5).clip(max_value=0.08) * 2.0, 5),
        (ody_s.cosine_restarts(0.1, 10, 2.0), 10),
        (linear_warmup(0.1, 5).then(ody_s.cosine_restarts(0.1, 10), 5), 15),
        (cosine_decay(0.1, 10, past_end="repeat"), 10),
    ],
)
def test_epoch_numbers_that_leave_no_zero(schedule, step, steps_per_epoch):
    (finding,) = lint(schedule, 5_000, steps_per_epoch)
    assert (finding.kind, finding.step) == ("epochs", step)
    assert lint(by_epoch_fraction(schedule, 100), 5_000, 100) == []
    # Of 2 epochs, none of its lengths is a count.
    assert lint(schedule, 5_000, 2_500) == []


def test_several_mistakes_come_in_order():
    schedule = join([linear_warmup(0.1, 10), cosine_decay(0.01, 50)], [20])
    assert [finding.kind for finding in lint(schedule, 200)] == ["jump", "rate 0"]


def test_what_lint_refuses():
    with pytest.raises(ValueError, match=r"total_steps must be in the range \[1"):
        lint(constant(0.1), 0)
    with pytest.raises(ValueError, match="steps_per_epoch must be in the range"):
        lint(constant(0.1), 10, 0)
    with pytest.raises(ValueError, match="written in epochs"):
        lint(linear_warmup(0.1, epochs(3)), 10)
    with pytest.raises(ValueError, match="a batch of schedules"):
        lint(constant(np.array([0.1, 0.2])), 10)


def test_spans():
    def of(schedule):
        return [(s.kind, s.start, s.stop, s.end) for s in schedule.parts()]

    assert of(warmup_cosine(0.1, 10, 100)) == [
        ("linear_warmup", 0, 10, 10),
        ("cosine_decay", 10, None, 100),
    ]
    assert of(warmup_cosine(0.1, 0, 100)) == [("cosine_decay", 0, None, 100)]
    nested = join([warmup_cosine(0.1, 10, 100), warmup_cosine(0.1, 20, 50)], [80])
    assert of(nested) == [
        ("linear_warmup", 0, 10, 10),
        ("cosine_decay", 10, 80, 100),
        ("linear_warmup", 80, 100, 100),
        ("cosine_decay", 100, None, 130),
    ]
    assert of(2 * warmup_cosine(0.1, 10, 100).shift(5).stretch(3)) == [
        ("linear_warmup", 0, 45, 45),
        ("cosine_decay", 45, None, 315),
    ]
    assert of(warmup_cosine(0.1, 10, 100).shift(-20)) == [("cosine_decay", 0, None, 80)]
    assert of(by_epoch(cosine_decay(0.1, 40), 10)) == [("cosine_decay", 0, None, 400)]
    assert of(constant(0.1)) == [("constant", 0, None, None)]
    assert of(cosine_decay(0.1, 9, past_end="mirror")) == [("cosine_decay", 0, None, None)]
    assert of(linear(0.1, 0.0, 50, 10)) == [("linear", 0, None, 60)]
    assert of(multistep_decay(0.1, [5, 9])) == [("multistep_decay", 0, None, 9)]


def test_spans_of_a_cooldown_and_of_noise():
    def of(schedule):
        return [(s.kind, s.start, s.stop, s.end) for s in schedule.parts()]

    assert of(ody_s.warmup_stable_decay(0.1, 10, 20, 100)) == [
        ("linear_warmup", 0, 10, 10),
        ("constant", 10, 80, None),
        ("cooldown", 80, None, 100),
    ]
    assert of(ody_s.swa(warmup_cosine(0.1, 10, 100), 0.05, 50, 10)) == [
        ("linear_warmup", 0, 10, 10),
        ("cosine_decay", 10, 50, 100),
        ("cooldown", 50, None, 60),
    ]
    last = ody_s.cooldown(constant(0.1), 90, 10, end_on_last_step=True)
    assert of(last) == [("constant", 0, 90, None), ("cooldown", 90, None, 99)]
    assert of(ody_s.cooldown(constant(0.1), 0, 0)) == [("cooldown", 0, None, 0)]
    assert of(ody_s.with_noise(cosine_decay(0.1, 100), 0.5, 0, 10, 50)) == [
        ("cosine_decay", 0, 10, 100),
        ("with_noise(cosine_decay)", 10, 50, None),
        ("cosine_decay", 50, None, 100),
    ]
    for end_value, end in ((0.0, 100), (0.01, None)):
        noisy = ody_s.with_noise(cosine_decay(0.1, 100, end_value), 0.5)
        assert of(noisy) == [("with_noise(cosine_decay)", 0, None, end)]
    late = ody_s.with_noise(cosine_decay(0.1, 20), 0.5, 0, 10, 50)
    assert of(late)[1:] == [
        ("with_noise(cosine_decay)", 10, 50, 20),
        ("cosine_decay", 50, None, 50),
    ]


def test_a_cooldown_is_described_to_its_end():
    text = describe(ody_s.warmup_stable_decay(0.4, 10, 20, 100, decay="linear"))
    assert text.splitlines()[:5] == [
        "steps 0 to 9    linear_warmup, 0 to 0.36",
        "steps 10 to 79  constant, 0.4",
        "steps 80 to 99  cooldown, 0.4 to 0.02",
        "peak 0.4 at step 10",
        "end 0 at step 100",
    ]


@pytest.mark.usefixtures("op_by_op")
def test_every_end_that_spans_name_is_one(case):
    """At the end, the value is that of ever after, and before it is not."""
    schedule = case.build(100)
    end = schedule.parts()[-1].end
    if end is None:
        return
    assert schedule(end) == schedule(np.ceil(end) + 1) or case.name.endswith(" zero")
    before = schedule(np.linspace(end / 4, end - 1, 50, dtype=np.float32))
    # All of it, but for what is at the end in float32 before it is there.
    least = 50 if case.name.split()[0] in ("cosine_decay", "linear", "warmup_cosine") else 1
    assert np.sum(before != schedule(end)) >= least


def test_describe_without_an_end():
    text = describe(step_decay(0.1, 30, 0.5), 90)
    assert text.splitlines() == [
        "steps 0 to 89  step_decay, 0.1 to 0.025",
        "peak 0.1 at step 0",
        "no end; 0.025 at the last step, 89",
        "mean 0.05833 over 90 steps (area 5.25)",
    ]
    with pytest.raises(ValueError, match="total_steps must be given for a schedule without an end"):
        describe(constant(0.1))


def test_describe_lists_no_more_than_can_be_read():
    pieces = [cosine_decay(0.1 * i, 10) for i in range(1, 512)]
    text = describe(join(pieces, [10 * i for i in range(1, 511)]))
    lines = text.splitlines()
    assert len(lines) == 15
    assert "more parts" in lines[10]
    assert lines[11].startswith("steps 5,100 to 5,109")
    assert "peak 51.1 at step 5,100" in text


def test_a_long_run_is_described_as_a_short_one():
    text = describe(warmup_cosine(0.1, 10**8, 2 * 10**9))
    assert "peak 0.1 at step 100,000,000" in text
    assert "mean 0.05 over 2,000,000,000 steps" in text
