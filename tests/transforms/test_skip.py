"""Skipped updates: of what is not finite, and of spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

SKIPPING = {
    "skip_not_finite": ody.transforms.skip_not_finite,
    "skip_spikes": lambda optimizer: ody.skip_spikes(optimizer, window=8),
    "apply_if_finite": lambda optimizer: optax.apply_if_finite(optimizer, 100),
}


def moved(optimizer, gradients, values=None):
    """The updates, one after another, of a scalar parameter; and the last state."""

    def step(state, given):
        gradient, value = given
        extra = {} if values is None else {"value": value}
        update, state = optimizer.update(gradient, state, jnp.zeros(()), **extra)
        return state, update

    gradients = jnp.asarray(gradients, jnp.float32)
    given = gradients, gradients if values is None else jnp.asarray(values, jnp.float32)
    state, updates = jax.lax.scan(step, optimizer.init(jnp.zeros(())), given)
    return np.asarray(updates), state


def numpys(values, window, factor):
    """Which of the values are taken, by NumPy."""
    seen, taken = [], []
    for value in values:
        before = np.asarray(seen[-window:], np.float64)
        spike = False
        if len(before) >= window // 2:
            deviation = max(before.std(), 1e-3 * abs(before.mean()))
            spike = value > before.mean() + factor * deviation
        taken.append(bool(np.isfinite(value) and not spike))
        if np.isfinite(value):
            seen.append(value)
    return taken


@pytest.mark.parametrize("of", ["the gradient", "the loss"])
def test_spikes_are_as_numpy_finds_them(of):
    noise = np.random.default_rng(0)
    values = 2 + noise.uniform(-0.1, 0.1, 60)
    values[[9, 20, 21, 40]] = 3.0, 30.0, np.inf, 3.5  # the first where half a window is seen
    values[50:] += 5  # a level that has come to stay
    optimizer = ody.skip_spikes(optax.sgd(1.0), window=16, sigma_factor=4)
    if of == "the gradient":
        updates, state = moved(optimizer, values)
    else:
        updates, state = moved(optimizer, np.ones(60), values)
    taken = numpys(values, 16, 4)
    assert not any(taken[i] for i in (9, 20, 21, 40, 50))
    assert taken[-1]
    np.testing.assert_array_equal(updates != 0, taken)
    assert int(state.skipped) == 60 - sum(taken)


def test_what_is_skipped_leaves_the_optimizer_as_it_was():
    good = [1.0, 0.5, 0.25]
    want, inner = moved(optax.adam(0.1), good)
    updates, state = moved(ody.transforms.skip_not_finite(optax.adam(0.1)), [1, np.nan, 0.5, 0.25])
    np.testing.assert_array_equal(updates, [want[0], 0, *want[1:]])
    examples.assert_same(state.inner_state, inner)
    of_loss = ody.transforms.skip_not_finite(optax.sgd(1.0))
    updates, _ = moved(of_loss, [1, 1, 1], [1, np.inf, 1])
    np.testing.assert_array_equal(updates, [-1, 0, -1])
    made = optax.stateless(lambda updates, _: jax.tree.map(jnp.log, updates))
    updates, state = moved(ody.transforms.skip_not_finite(made), [1, -1])
    assert (updates.tolist(), int(state.skipped)) == ([0, 0], 1), "of an update"


@pytest.mark.parametrize("name", SKIPPING)
def test_a_run_counts_them_and_logs_the_rate_in_force(name):
    """The schedule goes by updates that are made: the second step's is NaN, the third has its."""
    x = jnp.asarray([1.0, jnp.nan, 1.0, 1.0])
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: (w * batch).sum())
    rate = ody.schedules.piecewise_constant([0.1, 0.2, 0.3], [1, 2])
    result = ody.fit(
        task, lambda rate: SKIPPING[name](optax.sgd(rate)), ody.ArrayDataset(x, 1), epochs=4,
        steps_per_epoch=1, learning_rate=rate, writers=[],
    )  # fmt: skip
    np.testing.assert_array_equal(result.history["skipped_updates"], [0, 1, 1, 1])
    np.testing.assert_allclose(result.history["learning_rate"], [0.1, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(result.model, -0.6, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "window must be an integer of at least 2, got 1"),
        ({"sigma_factor": 0}, "sigma_factor must be finite and above 0, got 0"),
        ({"sigma_factor": "6"}, "sigma_factor must be finite and above 0, got '6'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ody.skip_spikes(optax.sgd(0.1), **arguments)
