"""Schedules where they are used: in Optax, in errors, and against curves of other libraries."""

from __future__ import annotations

import fractions
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.schedules import Schedule

CURVES = {
    curve["id"]: curve
    for curve in json.loads(pathlib.Path(__file__).with_name("curves.json").read_text())["curves"]
}

# Ours for each recorded curve; its arguments are in the file.
RECORDED = {
    "torch/step/30": ody_s.step_decay(0.1, 30, 0.1),
    "torch/linear/decay": ody_s.linear_warmup(0.0, 20, 0.1),
    "torch/cosine": ody_s.cosine_decay(0.1, 100, past_end="mirror"),
    "long/torch-exponential": ody_s.exponential_decay(1.0, 1, 0.99999),
    "torch/sequential/milestone0": ody_s.join(
        [ody_s.constant(0.1), ody_s.exponential_decay(1.0, 1, 0.5)], [0]
    ),
    "hf/constant_warmup/0": ody_s.linear_warmup(0.1, 0),
    "hf/cosine": ody_s.warmup_cosine(0.001, 10, 100),
    "hf/cosine_min_lr_rate": ody_s.warmup_cosine(0.1, 0, 20, end_value=0.01),
    "timm/cosine/updates": ody_s.warmup_cosine(0.1, 4, 24),
}


@pytest.mark.parametrize("name", CURVES)
def test_recorded_curves_of_other_libraries(name):
    curve = CURVES[name]
    steps = np.asarray(curve.get("steps", range(curve["n"])))
    want = np.asarray(curve["lr"])
    got = np.asarray(RECORDED[name](steps), np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * want.max())
    if curve["tier"] == "long":
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_warm_up_is_at_its_target_at_its_end():
    for steps in (1, 7, 100, 12_345, 2**24 + 1):
        for peak in (3e-3, 0.1, 1 / 3):
            for schedule in (
                ody_s.linear_warmup(peak, steps),
                ody_s.polynomial_warmup(peak, steps),
                ody_s.exponential_warmup(peak, steps, 1e-6),
            ):
                assert schedule(steps) == np.float32(peak)
                assert schedule(steps - 1) < np.float32(peak) or steps > 10**6


def test_cosine_at_every_step():
    t = np.arange(20_001)
    want = 0.1 * np.sin(np.pi / 2 * (20_000 - t) / 20_000) ** 2
    np.testing.assert_allclose(ody_s.cosine_decay(0.1, 20_000)(t), want, rtol=1e-6)


def train(optimizer, steps=6):
    params = {"w": jnp.ones(3)}

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_in_optax():
    schedule = ody_s.warmup_cosine(0.1, 2, 10)
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)
        plain, _ = train(optax.adamw(schedule))
        want, _ = train(optax.adamw(theirs))
        np.testing.assert_allclose(plain["w"], want["w"], rtol=1e-6)
        injected, state = train(optax.inject_hyperparams(optax.adamw)(learning_rate=schedule))
        # There Adam's own constants are float32 arrays too.
        np.testing.assert_allclose(injected["w"], want["w"], rtol=1e-5)
        np.testing.assert_allclose(state.hyperparams["learning_rate"], schedule(5), rtol=1e-6)
        chained, _ = train(
            optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
        )
        assert np.all(np.isfinite(chained["w"]))
        joined = optax.join_schedules([schedule, ody_s.constant(0.5)], [7])
        np.testing.assert_allclose(joined(8), 0.5)


def test_a_population_of_learning_rates():
    with jax.numpy_dtype_promotion("standard"):

        def final(peak):
            return train(optax.sgd(ody_s.warmup_cosine(peak, 2, 10)))[0]["w"]

        peaks = [0.01, 0.1, 0.3]
        got = jax.vmap(final)(jnp.asarray(peaks))
        for row, peak in zip(got, peaks, strict=True):
            np.testing.assert_allclose(row, final(peak), rtol=1e-6)


def test_units():
    stairs = ody_s.by_epoch(ody_s.step_decay(1.0, 2, 0.5), 10)
    np.testing.assert_array_equal(stairs(np.array([0, 19, 20, 39, 40])), [1, 1, 0.5, 0.5, 0.25])
    smooth = ody_s.by_epoch_fraction(ody_s.linear_warmup(1.0, 2), 10)
    np.testing.assert_allclose(smooth(np.arange(21)), np.arange(21) / 20, rtol=3e-7)
    # Past float32's digits: the last 64 steps of 2^31, one at a time.
    late = ody_s.by_epoch_fraction(ody_s.linear_warmup(0.0, 2**20, 1.0), 2**10)
    t = 2**30 - np.arange(64)
    np.testing.assert_allclose(late(t), np.arange(64) / 2**30, rtol=1e-6)
    assert ody_s.epochs_to_steps(1.5, 7) == 10
    with pytest.raises(ValueError, match="epochs must be in the range"):
        ody_s.epochs_to_steps(-1, 7)


BAD = [
    (lambda: ody_s.constant(float("nan")), r"value must be finite; got value = nan"),
    (lambda: ody_s.constant("a"), r"value must be a number, finite; got value = 'a'"),
    (lambda: ody_s.constant(True), r"value must be a number, finite; got value = True"),
    (lambda: ody_s.step_decay(0.1, 0), r"step_size must be in the range \[1, .*step_size = 0"),
    (lambda: ody_s.step_decay(0.1, 3, -1), r"gamma must be finite and greater than 0.*gamma = -1"),
    (lambda: ody_s.cosine_decay(0.1, -1), r"decay_steps must be in the range \[0, .* = -1"),
    (lambda: ody_s.cosine_decay(0.1, 2**31), r"decay_steps must be .*2\*\*31 - 1.*2147483648"),
    (lambda: ody_s.cosine_decay(0.1, 10**40), r"decay_steps must be in the range"),
    (
        lambda: ody_s.cosine_decay(0.1, 9, past_end="loop"),  # pyright: ignore
        r"past_end must be one of 'hold', 'zero', .*, 'stretch'; got past_end = 'loop'",
    ),
    (
        lambda: ody_s.cosine_decay(0.1, 9, end_on_last_step=1),  # pyright: ignore
        r"end_on_last_step must be True or False; got end_on_last_step = 1",
    ),
    (lambda: ody_s.exponential_decay(0.1, 0, 0.9), r"transition_steps must be .* = 0"),
    (lambda: ody_s.exponential_decay(0.1, 5, 0.0), r"decay_rate must be .* = 0\.0"),
    (lambda: ody_s.exponential_decay(0.1, 5, 0.9, -1), r"transition_begin must be .* = -1"),
    (lambda: ody_s.exponential_warmup(0.1, 5, 0.0), r"init_value must be .*greater than 0.*0\.0"),
    (lambda: ody_s.polynomial_warmup(0.1, 5, 0), r"power must be finite and greater than 0.*= 0"),
    (
        lambda: ody_s.warmup_cosine(0.1, 20, 10),
        r"warmup_steps must be at most total_steps.*warmup_steps = 20, total_steps = 10",
    ),
    (lambda: ody_s.by_epoch(0.1, 10), r"schedule must be a schedule.*got schedule = 0\.1"),  # pyright: ignore
    (lambda: ody_s.by_epoch(ody_s.constant(0.1), 0), r"steps_per_epoch must be .* = 0"),
    (lambda: ody_s.linear_warmup(jnp.array([0.1, jnp.nan]), 5), r"peak_value must be finite"),
    (
        lambda: ody_s.linear_warmup(jnp.array([0.1, 0.2]), 5)(3),
        r"peak_value has shape \(2,\).*vmap",
    ),
    (lambda: Schedule.from_json("[]"), r"not a schedule .*'odyssey_jax.schedule'"),
    (
        lambda: Schedule.from_json('{"format": "odyssey_jax.schedule", "version": 2}'),
        r"version 2 of its form; this library reads version 1",
    ),
    (lambda: Schedule.from_dict({"name": "cosign"}), r"no schedule named 'cosign'.*cosine_decay"),
    (lambda: Schedule.from_dict({"name": "constant", "x": 1}), r"Cannot build constant.*'x'"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_that_is_none():
    with pytest.raises(TypeError, match="A step must be an integer or a real number"):
        ody_s.constant(0.1)(1j)
    with pytest.raises(TypeError, match="A step must be an integer or a real number"):
        ody_s.constant(0.1)("3")
    for step in (None, fractions.Fraction(5, 2)):
        with pytest.raises(TypeError, match="A step must be an integer or a real number"):
            ody_s.constant(0.1)(step)


def test_traced_values_are_not_checked():
    def run(peak, steps):
        return ody_s.warmup_cosine(peak, steps, 5)(3)

    assert jnp.isnan(jax.jit(run)(jnp.nan, 2))
    jax.jit(run)(0.1, -7)
