"""Stepping by hand: an immutable pytree, saved and loaded on the same schedule only."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest

from odyssey_jax.schedules import (
    Scheduler,
    constant,
    cosine_decay,
    join,
    linear_warmup,
    warmup_cosine,
)


def test_it_follows_the_schedule():
    schedule = warmup_cosine(0.1, 3, 10)
    scheduler = Scheduler.init(schedule)
    rates = []
    for _ in range(12):
        rates.append(float(scheduler.get_lr()))
        scheduler = scheduler.step()
    np.testing.assert_array_equal(np.float32(rates), [schedule(t) for t in range(12)])


def test_it_is_immutable_and_a_pytree():
    first = Scheduler.init(linear_warmup(0.1, 10))
    second = first.step()
    assert (int(first.count), int(second.count)) == (0, 1)
    with pytest.raises(AttributeError):
        first.count = 3  # pyright: ignore[reportAttributeAccessIssue]
    last, rates = jax.lax.scan(lambda s, _: (s.step(), s.get_lr()), first, length=10)
    assert int(last.count) == 10
    np.testing.assert_allclose(rates, 0.01 * np.arange(10), rtol=3e-7)
    assert jax.tree.structure(last) == jax.tree.structure(first)


def test_the_count_stops_at_the_last_step():
    scheduler = Scheduler.init(linear_warmup(0.1, 10), step=2**31 - 2)
    assert int(scheduler.step().step().step().count) == 2**31 - 1


@pytest.mark.parametrize("step", [0, 5, 20])
def test_state_goes_through_json(step):
    schedule = join([linear_warmup(0.1, 10), cosine_decay(0.1, 90)], [10])
    state = json.loads(json.dumps(Scheduler.init(schedule, step).state_dict()))
    loaded = Scheduler.init(schedule).load_state_dict(state)
    assert int(loaded.count) == step
    assert loaded.get_lr() == schedule(step)


def test_an_optax_schedule_will_do():
    scheduler = Scheduler.init(optax.constant_schedule(0.5)).step()
    assert float(scheduler.get_lr()) == 0.5
    json.dumps(scheduler.state_dict())


def test_another_schedule_is_refused_with_the_differences():
    state = Scheduler.init(join([linear_warmup(0.1, 10), cosine_decay(0.1, 90)], [10])).state_dict()
    with pytest.raises(ValueError, match="different schedule") as error:
        Scheduler.init(join([linear_warmup(0.1, 20), cosine_decay(0.1, 90)], [20])).load_state_dict(
            state
        )
    text = str(error.value)
    assert "schedule.schedules[0].warmup_steps was 10, here it is 20" in text
    assert "schedule.boundaries[0] was 10, here it is 20" in text
    assert "cosine" not in text
    with pytest.raises(ValueError, match=r"was join\(.*here it is constant\(value=0\.1\)"):
        Scheduler.init(constant(0.1)).load_state_dict(state)


def test_a_state_that_is_none():
    scheduler = Scheduler.init(constant(0.1))
    with pytest.raises(ValueError, match="has no version, schedule; it has step"):
        scheduler.load_state_dict({"step": 3})
    with pytest.raises(ValueError, match="version 7 of its form; this library reads version 1"):
        scheduler.load_state_dict({**scheduler.state_dict(), "version": 7})
    with pytest.raises(ValueError, match="step must be in the range"):
        Scheduler.init(constant(0.1), step=-1)
    with pytest.raises(ValueError, match=r"schedule must be a schedule.*got schedule = 0\.1"):
        Scheduler.init(0.1)  # pyright: ignore[reportArgumentType]
