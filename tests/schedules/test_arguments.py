"""Arguments in another library's order, lengths that are shares, and rates that can't be meant."""

import pytest

from odyssey_jax import schedules as ody_s
from odyssey_jax.schedules import check_learning_rate, constant, lint

SWAPPED = {
    "warmup_cosine": lambda: ody_s.warmup_cosine(0.0, 1e-3, 500, 10_000),
    "warmup_cosine to 1": lambda: ody_s.warmup_cosine(0.0, 1.0, 500, 10_000),
    "one_cycle": lambda: ody_s.one_cycle(1000, 0.1),
    "one_cycle to 2": lambda: ody_s.one_cycle(1000, 2.0),
    "linear_warmup": lambda: ody_s.linear_warmup(0.0, 1.0, 500),
}


@pytest.mark.parametrize("make", SWAPPED.values(), ids=SWAPPED)
def test_the_order_of_optax_is_refused(make):
    with pytest.raises(ValueError, match=r"not in the order of optax\..*Name the arguments"):
        make()


SHARES = {
    "cosine_decay": lambda: ody_s.cosine_decay(0.1, 0.5),
    "linear_warmup": lambda: ody_s.linear_warmup(0.1, 0.1),
    "exponential_decay": lambda: ody_s.exponential_decay(0.1, 0.9, 100),
    "cooldown": lambda: ody_s.cooldown(constant(0.1), 0.8, 0.2),
    "multistep_decay": lambda: ody_s.multistep_decay(0.1, [0.5, 0.75]),
    "join": lambda: ody_s.join([constant(0.1), constant(0.2)], [0.5]),
    "warmup_stable_decay": lambda: ody_s.warmup_stable_decay(0.1, 0.1, 0.2, 100),
    "step_decay": lambda: ody_s.step_decay(0.1, 0.5),
    "cosine_restarts": lambda: ody_s.cosine_restarts(0.1, 0.5),
    "repeat": lambda: ody_s.repeat(constant(0.1), 0.5),
}


@pytest.mark.parametrize("make", SHARES.values(), ids=SHARES)
def test_a_length_below_a_step_is_refused(make):
    with pytest.raises(ValueError, match=r"counts steps, and less than 1 .* is fraction\(0\.\d+\)"):
        make()


def test_what_is_short_but_meant_is_taken():
    assert float(ody_s.one_cycle(0.1, 5)(4)) < 0.01  # its peak is at step 0.5
    assert float(ody_s.cosine_decay(0.1, 0)(0)) == 0
    assert float(ody_s.linear_warmup(0.1, 1.5)(2)) == pytest.approx(0.1)


def test_rates_that_no_optimizer_takes():
    assert [f.kind for f in lint(constant(-1.0), 1_000)] == ["sign"]
    assert [f.kind for f in lint(constant(11.0), 1_000)] == ["rate high"]
    assert lint(-1 * constant(0.1), 1_000) == []  # as `optax.scale_by_schedule` wants it
    check_learning_rate(constant(0.0), 10)
    with pytest.raises(ValueError, match="must not be negative, got -1 at step 0"):
        check_learning_rate(constant(-1.0), 10)
