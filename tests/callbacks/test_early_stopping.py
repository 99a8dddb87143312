"""Early stopping: the cases of its peers, a Python oracle, and each way of calling it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import odyssey_jax as ody

NAN, INF = math.nan, math.inf


def event(value, epoch=0, state=None, point=ody.Point.EPOCH_END):
    state = ody.TrainState(jnp.zeros(2)) if state is None else state
    return ody.Event({"m": value}, ody.Clock(epoch * 10, epoch), state, point)


def stop_epoch(callback, values):
    """Where a Python loop over the values stops; None if it does not."""
    state = callback.init(event(0.0))
    update = jax.jit(callback.update)
    for epoch, value in enumerate(values):
        state, signal = update(state, event(jnp.float32(value), jnp.int32(epoch)))
        if signal.stop:
            return epoch
    return None


def oracle(values, patience, min_delta=0.0, mode="min"):
    """The same in plain Python, on float32 values."""
    sign = 1 if mode == "min" else -1
    best, best_epoch, wait = None, None, 0
    for epoch, value in enumerate(np.float32(values)):
        signed = np.float32(sign) * value
        if not np.isnan(value) and (best is None or signed < best - np.float32(min_delta)):
            best, best_epoch, wait = signed, epoch, 0
        else:
            wait += 1
            if wait >= max(patience, 1):
                return epoch, best_epoch
    return None, best_epoch


# As Lightning and Keras test theirs.
CASES = [
    ([6, 5, 5, 5, 5, 5], 3, 4),
    ([6, 5, 4, 4, 3, 3], 1, 3),
    ([6, 5, 6, 5, 5, 5], 3, 4),
    ([8, 4, 2, 3, 4, 5, 8, 10], 3, 5),
    *[([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], p, max(p, 1) + 2) for p in range(6)],
    ([1, 1, 1], 2, 2),  # a flat metric is no improvement
    ([NAN, 2, 1, 0.5], 2, None),  # a first NaN poisons nothing
    ([NAN, NAN], 2, 1),
    ([INF, 5, 4], 1, None),
    ([-INF, -INF], 1, 1),
    ([2e9, 1e9, 5e8], 1, None),
    ([3, 2, 1], 0, None),
]


@pytest.mark.parametrize(("values", "patience", "expected"), CASES)
def test_stops_where_its_peers_do(values, patience, expected):
    assert stop_epoch(ody.early_stopping("m", patience), values) == expected
    up = ody.early_stopping("m", patience, mode="max")
    assert stop_epoch(up, [-v for v in values]) == expected


@pytest.mark.parametrize(
    ("values", "delta", "expected"), [([5, 4.6, 4.2], 0.5, 1), ([5, 4.4, 3.8], 0.5, None)]
)
def test_min_delta(values, delta, expected):
    assert stop_epoch(ody.early_stopping("m", 1, min_delta=delta), values) == expected


VALUES = st.lists(
    st.one_of(st.floats(-4, 4, width=32), st.sampled_from([NAN, INF, -INF, 0.0, 1.0])),
    min_size=1,
    max_size=12,
)


def run_in_while_loop(callback, values):
    """The user's own `lax.while_loop`: returns the number of epochs done, and the state."""
    padded = jnp.zeros(12, jnp.float32).at[: len(values)].set(jnp.asarray(values, jnp.float32))
    return _while(callback, padded, len(values))


def _while(callback, values, count):
    def body(carry):
        epoch, state, _ = carry
        state, signal = callback.update(state, event(values[epoch], epoch))
        return epoch + 1, state, signal.stop

    start = (jnp.int32(0), callback.init(event(0.0)), jnp.int32(0))
    return lax.while_loop(lambda c: (c[0] < count) & (c[2] == 0), body, start)


_while = jax.jit(_while, static_argnums=0)


@given(VALUES, st.sampled_from([0, 1, 2, 3]), st.sampled_from([0.0, 0.5]), st.booleans())
def test_agrees_with_a_python_oracle(values, patience, min_delta, up):
    mode = "max" if up else "min"
    callback = ody.early_stopping("m", patience, min_delta=min_delta, mode=mode)
    stopped, best = oracle(values, patience, min_delta, mode)
    epochs, state, reason = run_in_while_loop(callback, values)
    assert int(epochs) == (len(values) if stopped is None else stopped + 1)
    assert bool(reason) == (stopped is not None)
    assert (int(state.best.epoch) if state.best.seen else None) == best


def test_eager_jit_and_vmap_agree():
    callback = ody.early_stopping("m", 2)
    runs = np.float32([[3, 2, 2, 2], [3, 2, 1, 0], [NAN, 2, 3, 4]])
    each = [callback.init(event(0.0)) for _ in runs]
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), each[0])
    step = jax.vmap(lambda s, v, e: callback.update(s, event(v, e)), in_axes=(0, 0, None))
    jitted = jax.jit(step)
    for epoch in range(4):
        one = [callback.update(s, event(r[epoch], epoch)) for s, r in zip(each, runs, strict=True)]
        eager, signals = step(many, runs[:, epoch], epoch)
        many, again = jitted(many, runs[:, epoch], epoch)
        for state, signal in ((eager, signals), (many, again)):
            stacked = jax.tree.map(lambda *x: np.stack(x), *one)
            jax.tree.map(np.testing.assert_array_equal, (state, signal), stacked)
        each = [state for state, _ in one]


def test_resume_at_every_position_changes_nothing():
    values = np.float32([5, 4, 4, 3, 3.5, 3.2, 3.1])
    for position in range(len(values)):
        state = ody.early_stopping("m", 3).init(event(0.0))
        for epoch, value in enumerate(values):
            if epoch == position:  # through numpy, as a checkpoint would
                state = jax.tree.map(lambda x: jnp.asarray(np.array(x)), state)
            callback = ody.early_stopping("m", 3)
            state, signal = callback.update(state, event(value, epoch))
        assert int(signal.stop) == ody.StopReason.NO_IMPROVEMENT
        assert int(signal.detail) == 3


def test_new_patience_applies_to_an_old_state():
    state = ody.early_stopping("m", 9).init(event(0.0))
    for epoch in range(3):
        state, _ = ody.early_stopping("m", 9).update(state, event(1.0, epoch))
    _, signal = ody.early_stopping("m", 3).update(state, event(1.0, 3))
    assert int(signal.stop) == ody.StopReason.NO_IMPROVEMENT


def test_restores_the_best_at_the_end():
    callback = ody.early_stopping("m", 5, restore_best=True)
    states = [ody.TrainState(jnp.full(2, float(i)), {"bn": jnp.float32(i)}) for i in range(4)]
    own = callback.init(event(0.0, state=states[0]))
    end = event(0.0, 0, states[3], ody.Point.TRAIN_END)
    untouched = callback.update(own, end)[1].state
    np.testing.assert_array_equal(untouched.params, states[3].params)  # nothing was seen yet
    for epoch, (value, state) in enumerate(zip([3, 1, NAN, 2], states, strict=True)):
        own, _ = callback.update(own, event(jnp.float32(value), epoch, state))
    _, signal = callback.update(own, end)
    np.testing.assert_array_equal(signal.state.params, states[1].params)
    np.testing.assert_array_equal(signal.state.model_state["bn"], 1.0)
    assert ody.early_stopping("m", 5).points == (ody.Point.EPOCH_END,)


def test_a_missing_metric_is_named_with_those_that_exist():
    callback = ody.early_stopping("valid/los", 1)
    metrics = {"valid/loss": 0.0, "train/loss": 0.0, "valid/confusion": jnp.zeros((2, 2))}
    expected = "no metric 'valid/los'; the scalar metrics are: train/loss, valid/loss"
    with pytest.raises(ValueError, match=expected):
        callback.init(ody.Event(metrics))
    shaped = ody.early_stopping("valid/confusion", 1)
    with pytest.raises(ValueError, match=r"'valid/confusion' of shape \(2, 2\) can't be monitored"):
        shaped.init(ody.Event(metrics))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patience": -1}, "patience must be an integer of at least 0, got -1"),
        ({"patience": 1.5}, "patience must be an integer of at least 0, got 1.5"),
        ({"mode": "maximum"}, "mode must be 'min' or 'max', got 'maximum'"),
        ({"min_delta": -0.1}, "min_delta must be finite and at least 0, got -0.1"),
        ({"min_delta": NAN}, "min_delta must be finite"),
        ({"monitor": ""}, "monitor must be a metric's name"),
    ],
)
def test_bad_arguments_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ody.early_stopping(**{"monitor": "m", "patience": 3, **kwargs})
