"""The rules that follow a metric: Python oracles, each way of calling them, recorded curves."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odyssey_jax.schedules import MetricRule, greedy, reduce_on_plateau
from tests.examples import assert_same

NAN, INF = math.nan, math.inf
LENGTH = 16

# Eighths and margins of powers of 2, so that float32 and the oracle's float64 decide alike.
VALUES = st.lists(
    st.one_of(st.integers(-32, 32).map(lambda i: i / 8), st.sampled_from([NAN, INF, -INF])),
    min_size=LENGTH,
    max_size=LENGTH,
)
MARGINS = {"rtol": st.sampled_from([0.0, 0.25]), "atol": st.sampled_from([0.0, 0.5])}
# Not the whole product: each is a program, and each choice is met with either of the others.
CHOICES = [
    {"mode": "min", "relative_to": "magnitude", "nan": "bad"},
    {"mode": "max", "relative_to": "value", "nan": "bad"},
    {"mode": "max", "relative_to": "magnitude", "nan": "ignore"},
    {"mode": "min", "relative_to": "value", "nan": "ignore"},
]
PATIENCE = {
    ("min", "bad"): "torch",
    ("max", "bad"): "keras",
    ("max", "ignore"): "odyssey",
    ("min", "ignore"): "torch",
}


def is_better(value, best, mode, rtol, atol, relative_to, **_):
    size = 0.0 if math.isinf(best) else best if relative_to == "value" else abs(best)
    margin = rtol * size + atol
    return value < best - margin if mode == "min" else value > best + margin


def smoothed(values, smoothing):
    average = None
    for value in values:
        if math.isfinite(value):
            average = value if average is None else smoothing * average + (1 - smoothing) * value
        yield average if math.isfinite(value) else value


def plateau_oracle(values, factor, patience, cooldown, patience_rule, min_scale, eps, **more):
    """The same in plain Python."""
    grace, rest = {"torch": (1, 0), "keras": (0, -1)}.get(patience_rule, (0, 0))
    scale, best = 1.0, INF if more["mode"] == "min" else -INF
    bad = free = 0
    pending, scales = [], []
    kept = [v for v in values if more["nan"] == "bad" or not math.isnan(v)]
    judged = iter(smoothed(kept, more["smoothing"]))
    for value in values:
        if not (more["nan"] == "ignore" and math.isnan(value)):
            pending.append(next(judged))
        if len(pending) == more["accumulation_size"]:
            mean, pending = sum(pending) / len(pending), []
            good = is_better(mean, best, **more)
            best, bad = (mean, 0) if good else (best, bad + 1)
            bad, free = (0, free - 1) if free > 0 else (bad, 0)
            if bad >= max(patience + grace, 1):
                lower = max(scale * factor, min_scale)
                scale = lower if scale - lower > eps else scale
                bad, free = 0, max(cooldown + rest, 0)
        scales.append(scale)
    return scales


def greedy_oracle(values, min_scale, max_scale, factor, patience, cooldown, warmup, **more):
    start = (1.0, INF if more["mode"] == "min" else -INF, 0, 0, 0, 0, 0, [])
    scale, best, good, bad, free, warm, at_min, window = start
    scales = []
    for value in values:
        if more["nan"] == "ignore" and math.isnan(value):
            scales.append(scale)
            continue
        if math.isfinite(value):
            window = [*window, value][-more["window"] :]
            value = sum(window) / len(window)
        if free or warm:
            free, warm = (free - 1, warm) if free else (0, warm - 1)
            good = bad = 0
        else:
            better = is_better(value, best, **more)
            best, good, bad = (value, good + 1, 0) if better else (best, 0, bad + 1)
            if good > patience:
                scale, good, warm, at_min = min(scale / factor, max_scale), 0, warmup, 0
            elif bad > patience:
                scale, bad, free = max(scale * factor, min_scale), 0, cooldown
                at_min += scale <= min_scale
                if more["reset_start"] and at_min >= more["reset_start"]:
                    scale, best, good, bad, _, warm, at_min, window = start
        scales.append(scale)
    return scales


@jax.jit
def scanned(rule, values):
    def step(state, value):
        state = rule.update(state, value)
        return state, state.scale

    return jax.lax.scan(step, rule.init(), values)


many = jax.jit(jax.vmap(scanned, in_axes=(None, 0)))


def stepped(rule, values):
    state, scales = rule.init(), []
    for value in values:
        state = rule.update(state, value)
        scales.append(state.scale)
    return state, jnp.stack(scales)


def assert_agree(rule, values, want):
    """Eager on Python floats, and compiled, and many at once: the oracle's scales."""
    state, scales = stepped(rule, values)
    np.testing.assert_allclose(scales, want, rtol=1e-6)
    array = jnp.asarray(values, jnp.float32)
    assert_same(scanned(rule, array), (state, scales))
    both = many(rule, jnp.stack([array, array[::-1]]))
    assert_same(jax.tree.map(lambda x: x[0], both), (state, scales))


@given(
    VALUES,
    st.sampled_from(CHOICES),
    st.fixed_dictionaries(
        {
            **MARGINS,
            "factor": st.sampled_from([0.0, 0.25, 0.5]),
            "patience": st.integers(0, 3),
            "cooldown": st.integers(0, 3),
            "min_scale": st.sampled_from([0.0, 0.2]),
            "eps": st.sampled_from([0.0, 0.1]),
            "smoothing": st.sampled_from([0.0, 0.5]),
            "accumulation_size": st.sampled_from([1, 2]),
        }
    ),
)
def test_plateau_agrees_with_a_python_oracle(values, choices, kwargs):
    kwargs = {**choices, "patience_rule": PATIENCE[choices["mode"], choices["nan"]], **kwargs}
    assert_agree(reduce_on_plateau(**kwargs), values, plateau_oracle(values, **kwargs))


@given(
    VALUES,
    st.sampled_from(CHOICES),
    st.fixed_dictionaries(
        {
            **MARGINS,
            "min_scale": st.sampled_from([0.0, 0.25]),
            "max_scale": st.sampled_from([1.0, 3.0]),
            "factor": st.sampled_from([0.25, 0.5]),
            "patience": st.integers(0, 2),
            "cooldown": st.integers(0, 2),
            "warmup": st.integers(0, 2),
            "window": st.just(2),
            "reset_start": st.integers(1, 2),
        }
    ),
)
def test_greedy_agrees_with_a_python_oracle(values, choices, kwargs):
    kwargs = {**choices, **kwargs}
    assert_agree(greedy(**kwargs), values, greedy_oracle(values, **kwargs))


CURVES = json.loads(pathlib.Path(__file__).with_name("metric_curves.json").read_text())["curves"]


def rule_of(curve):
    """Ours for a recorded peer: its rates are the scales of a schedule that is 1."""
    kwargs = dict(curve["kwargs"])
    margin = {"rel": "rtol", "abs": "atol"}[kwargs.pop("threshold_mode")]
    other = {"rtol": "atol", "atol": "rtol"}[margin]
    ours = {margin: kwargs.pop("threshold"), other: 0.0, "relative_to": "value"}
    least = kwargs.pop("min_lr")
    ours |= {"init_scale": least, "min_scale": least}
    if curve["peer"].endswith("GreedyLR"):
        size = kwargs.pop("window_size")
        window = size if kwargs.pop("smooth") else 1
        ours |= {"max_scale": kwargs.pop("max_lr"), "window": window}
        rule = greedy(**ours, **kwargs)
    else:
        rule = reduce_on_plateau(**ours, **kwargs)
    # A peer begins with any rate; ours would refuse one below the least.
    first = curve["base_lr"]
    return dataclasses.replace(rule, init_scale=tuple(first) if isinstance(first, list) else first)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve["id"])
def test_recorded_curves_of_other_libraries(curve):
    want = np.asarray(curve["lr"])
    _, got = stepped(rule_of(curve), curve["metrics"])
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * want.max())


@pytest.mark.parametrize(
    ("rule", "period"),
    [("torch", 3 + 1 + 2), ("optax", 3 + 2), ("keras", 3 + 2 - 1), ("odyssey", 5)],
)
def test_the_period_between_cuts_on_a_flat_metric(rule, period):
    _, scales = stepped(reduce_on_plateau(0.5, 3, cooldown=2, patience_rule=rule), [1.0] * 40)
    cuts = np.flatnonzero(np.diff(scales, prepend=1.0))
    assert np.unique(np.diff(cuts)).tolist() == [period]
    assert cuts[0] == (4 if rule == "torch" else 3)


def test_agrees_with_optax():
    import optax

    values = jax.random.normal(jax.random.key(0), (200,))
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.contrib.reduce_on_plateau(0.7, 3, 0.1, 0.01, 2, 2, 0.05)
        state, want = theirs.init(jnp.zeros(1)), []
        update = jax.jit(theirs.update)
        for value in values:
            _, state = update(jnp.zeros(1), state, value=value)
            want.append(state.scale)
    ours = reduce_on_plateau(
        0.7, 3, 0.1, 0.01, 2, min_scale=0.05, accumulation_size=2, patience_rule="optax",
        relative_to="value",
    )  # fmt: skip
    np.testing.assert_allclose(scanned(ours, values)[1], np.stack(want), rtol=1e-6)


def test_a_relative_threshold_has_a_sign():
    """On a metric below 0 too, a gain of less than a tenth is none."""
    values = [-1.0, -1.05, -1.08, -1.2]
    _, scales = stepped(reduce_on_plateau(0.5, 1, rtol=0.1), values)
    assert scales.tolist() == [1, 1, 0.5, 0.5]
    _, scales = stepped(reduce_on_plateau(0.5, 1, rtol=0.1, relative_to="value"), [-1.0] * 4)
    assert scales.tolist() == [1, 1, 1, 1]


def test_a_margin_is_measured_with_all_digits():
    """1.1 is not more than 0.1 above 1; in float32 it is."""
    rule = reduce_on_plateau(0.5, 0, rtol=0.1, mode="max")
    assert stepped(rule, [1.0, 1.1])[1].tolist() == [1, 0.5]
    far = reduce_on_plateau(0.5, 0, rtol=0.0, atol=1e-4)
    assert stepped(far, [1e5, 1e5 - 2e-4, 1e5 - 4e-4])[1].tolist() == [1, 1, 1]


def test_groups_share_the_decisions():
    rule = reduce_on_plateau(0.1, 0, init_scale=[0.1, 0.01], min_scale=[0.0, 0.005], eps=[0, 0.008])
    _, scales = stepped(rule, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(scales, [[0.1, 0.01], [0.01, 0.01], [0.001, 0.01]], rtol=1e-6)
    both = greedy([0.01, 0.001], 1.0, 0.1, 0, init_scale=[0.1, 0.1], reset_start=1)
    _, scales = stepped(both, [1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(scales, [[1, 1], [0.1, 0.1], [0.01, 0.01], [0.1, 0.1]], rtol=1e-6)


def test_each_number_is_a_leaf():
    """A hundred settings are one program, and a batch of them a vmap."""
    rules = [reduce_on_plateau(0.5, p, rtol=0.01 * p, cooldown=p % 3) for p in range(100)]
    values = jnp.asarray(np.sin(np.arange(50.0)), jnp.float32)
    before = scanned._cache_size()
    each = [scanned(rule, values) for rule in rules]
    assert scanned._cache_size() - before == 1
    batch = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rules)
    got = jax.vmap(scanned, in_axes=(0, None))(batch, values)
    assert_same(got, jax.tree.map(lambda *x: jnp.stack(x), *each))
    others = [greedy(0.01 * i, 9.0, 0.5 + i / 300, i % 4, warmup=i % 5) for i in range(100)]
    before = scanned._cache_size()
    each = [scanned(rule, values)[1] for rule in others]
    assert scanned._cache_size() - before == 1
    batch = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *others)
    np.testing.assert_allclose(jax.vmap(scanned, (0, None))(batch, values)[1], each, rtol=1e-6)


RULES = [
    reduce_on_plateau(0.5, 1, smoothing=0.3, accumulation_size=2),
    greedy(0.01, 10.0, 0.5, 1, window=3, reset_start=2),
]


@pytest.mark.parametrize("rule", RULES, ids=["plateau", "greedy"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8])
def test_the_state_keeps_its_form(rule, dtype):
    state = rule.init()
    new = rule.update(state, jnp.ones((), dtype))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        assert not a.weak_type
    assert state.scale.dtype == jnp.float32


@pytest.mark.parametrize("rule", RULES, ids=["plateau", "greedy"])
def test_with_and_without_x64(rule):
    values = [1.0, 0.9, 1.1, 1.2, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6]
    plain = stepped(rule, values)
    with jax.enable_x64(True):
        assert_same(stepped(rule, values), plain)
        assert_same(stepped(rule, jnp.asarray(values)), plain)
        wide = stepped(rule, jnp.asarray(values, jnp.float32))
    assert_same(stepped(rule, jnp.asarray(values, jnp.float32)), wide)


@pytest.mark.parametrize("rule", RULES, ids=["plateau", "greedy"])
def test_a_rule_is_a_value(rule):
    assert isinstance(rule, MetricRule)
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert hash(dataclasses.replace(rule)) == hash(rule)
    assert dataclasses.replace(rule, patience=9) != rule
    assert isinstance(hash(reduce_on_plateau(init_scale=[0.1, 0.2])), int)


def test_resume_at_every_position_and_a_new_patience():
    values = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0]
    rule = reduce_on_plateau(0.5, 1)
    _, want = stepped(rule, values)
    for position in range(len(values)):
        state, scales = rule.init(), []
        for index, value in enumerate(values):
            if index == position:  # through numpy, as a checkpoint would
                state = jax.tree.map(lambda x: jnp.asarray(np.array(x)), state)
            state = rule.update(state, value)
            scales.append(state.scale)
        np.testing.assert_array_equal(np.stack(scales), want)
    state, _ = stepped(reduce_on_plateau(0.5, 9), [1.0] * 6)
    assert reduce_on_plateau(0.5, 3).update(state, 1.0).scale == 0.5


BAD = [
    (lambda: reduce_on_plateau(1.0), r"factor must be in the range \[0, 1\); got factor = 1\.0"),
    (lambda: reduce_on_plateau(patience=-1), r"patience must be a whole number in .* = -1"),
    (lambda: reduce_on_plateau(patience=1.5), r"patience must be a whole number in .* = 1\.5"),
    (
        lambda: reduce_on_plateau(patience=0, patience_rule="optax"),
        r"patience must be at least 1 under patience_rule = 'optax'.*got patience = 0",
    ),
    (
        lambda: reduce_on_plateau(patience_rule="timm"),  # pyright: ignore
        r"patience_rule must be one of 'torch', 'optax', 'keras', 'odyssey'; got .*'timm'",
    ),
    (lambda: reduce_on_plateau(mode="auto"), r"mode must be one of 'min', 'max'; got"),  # pyright: ignore
    (lambda: reduce_on_plateau(rtol=-0.1), r"rtol must be finite and at least 0; got rtol = -0\.1"),
    (lambda: reduce_on_plateau(atol=NAN), r"atol must be finite and at least 0; got atol = nan"),
    (lambda: reduce_on_plateau(smoothing=1.0), r"smoothing must be in the range \[0, 1\)"),
    (lambda: reduce_on_plateau(accumulation_size=0), r"accumulation_size must be .* \[1, "),
    (lambda: reduce_on_plateau(min_scale=[0.1, -1]), r"min_scale must be .*\[0\.1, -1\]"),
    (
        lambda: reduce_on_plateau(min_scale=2.0),
        r"min_scale must be at most init_scale; got min_scale = 2\.0, init_scale = 1\.0",
    ),
    (
        lambda: greedy(0.1, 0.5),
        r"init_scale must be at most max_scale; got init_scale = 1\.0, max_scale = 0\.5",
    ),
    (lambda: greedy(1.5, 2.0), r"min_scale must be at most init_scale"),
    (lambda: RULES[0].update(RULES[0].init(), None), r"value must be a number; got value = None"),
    (lambda: RULES[0].update(RULES[0].init(), "low"), r"value must be a number; got .*'low'"),
    (lambda: RULES[0].update(RULES[0].init(), True), r"value must be a number; got .*True"),
    (lambda: reduce_on_plateau(nan="stop"), r"nan must be one of 'bad', 'ignore'"),  # pyright: ignore
    (lambda: reduce_on_plateau().update(RULES[0].init(), jnp.ones(2)), r"scalar; got shape \(2,\)"),
    (lambda: greedy(0.1, 1.0, 0.0), r"factor must be in the range \(0, 1\); got factor = 0\.0"),
    (lambda: greedy(2.0, 1.0), r"min_scale must be at most max_scale; got min_scale = 2\.0, max"),
    (
        lambda: greedy(0.1, 1.0, window=0),
        r"window must be an integer of at least 1; got window = 0",
    ),
    (lambda: greedy(0.1, 1.0, reset_start=0), r"reset_start must be a whole number .*\[1, "),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
