"""The checkpoint callback: when it asks, which epochs are among the best, what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.store import retain

NAN = math.nan


def event(epoch=0, loss=0.0):
    clock = ody.Clock(jnp.int32(7 * epoch), jnp.int32(epoch))
    return ody.Event({"loss": jnp.float32(loss)}, clock)


def asked(callback, losses):
    """The epochs after which it asks for a save, and its state at the end."""
    update = jax.jit(lambda s, e, x: callback.update(s, event(e, x)))
    state, epochs = callback.init(event()), []
    for epoch, loss in enumerate(losses):
        state, signal = update(state, epoch, loss)
        epochs += [epoch] if signal.save else []
    return epochs, state


@pytest.mark.parametrize(
    ("kwargs", "due"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),  # in `fit` it says when by itself
        ({"every_epochs": 1}, [0, 1, 2, 3, 4, 5]),
        ({"every_epochs": 3}, [2, 5]),
        ({"every_epochs": 9}, []),
        ({"when": ody.every(epochs=3)}, [2, 5]),
        ({"when": ody.callbacks.at(epochs=[1, 5]) | ody.after(epochs=6)}, [0, 4, 5]),
        ({"when": ody.callbacks.at(epochs=[]), "keep_every_epochs": 2}, [1, 3, 5]),
    ],
)
def test_asks_when_it_is_due(kwargs, due):
    assert asked(ody.checkpoint(**kwargs), [0.0] * 6)[0] == due


NEVER = ody.callbacks.at(epochs=[])


@pytest.mark.parametrize(
    ("losses", "mode", "best", "due"),
    [
        ([3, 2, 2, 1, 4], "min", 1, [0, 1, 3]),
        ([3, 2, 2, 1, 4], "max", 1, [0, 4]),
        ([3, 2, 2, 1, 4], "min", 2, [0, 1, 2, 3]),
        ([3, 2, 2, 2, 2], "min", 2, [0, 1, 2]),  # ties stay with the earlier
        ([NAN, NAN, 5, NAN, 4], "min", 1, [2, 4]),
        ([math.inf, math.inf, 1e30, -math.inf], "min", 1, [0, 2, 3]),
        ([0.5, 0.1, NAN, 0.4, 0.3, NAN, 0.2], "min", 2, [0, 1, 3, 4, 6]),
    ],
)
def test_asks_for_what_is_among_the_best_so_far(losses, mode, best, due):
    callback = ody.checkpoint(NEVER, keep_best=best, monitor="loss", mode=mode)
    assert asked(callback, losses)[0] == due


values = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, math.inf, -math.inf, NAN]), max_size=9
)


@given(values, st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_what_the_store_keeps_as_best_was_asked_for(losses, best, mode):
    """So the best of the run are kept, not the best of those that happened to be saved."""
    callback = ody.checkpoint(NEVER, keep_best=best, monitor="loss", mode=mode)
    state, epochs = callback.init(event()), []
    for epoch, loss in enumerate(losses):
        state, signal = callback.update(state, event(epoch, loss))
        epochs += [epoch] if signal.save else []
    kept = retain(dict(enumerate(losses)), 1, best, mode) - {len(losses) - 1}
    assert kept <= set(epochs)
    again = callback.ranking({"loss": np.asarray(losses, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert jax.tree.map(lambda x: x.dtype, again) == jax.tree.map(lambda x: x.dtype, state)


def test_fit_asks_the_program_for_the_best_only():
    whole = ody.checkpoint(every_epochs=1, keep_best=1, keep_every_epochs=2, monitor="loss")
    assert asked(whole.only_best(), [3, 4, 2, 5, 5])[0] == [0, 2]
    assert ody.checkpoint(every_epochs=1).only_best().init(event()) is None
    assert repr(whole.condition) == "every(epochs=1) | every(epochs=2)"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"every_epochs": 0}, ValueError, "every_epochs must be an integer of at least 1, got 0"),
        ({"keep_last": 0}, ValueError, "keep_last must be .* at least 1 or None for all, got 0"),
        ({"keep_best": -1}, ValueError, "keep_best must be an integer of at least 0, got -1"),
        ({"keep_every_epochs": 0}, ValueError, "keep_every_epochs must be .* or None, got 0"),
        ({"keep_best": 1}, ValueError, "keep_best=1 needs a monitor"),
        ({"monitor": "loss"}, ValueError, "monitor='loss' is for keep_best, which is 0"),
        ({"keep_best": 1, "monitor": "loss", "mode": "up"}, ValueError, "mode must be 'min' or"),
        ({"when": 5}, TypeError, r"when must be a condition such as every\(epochs=5\), got 5"),
        (
            {"when": ody.every(seconds=9), "every_epochs": 5},
            ValueError,
            r"short for when=every\(epochs=5\): join it to when=every\(seconds=9\) with |",
        ),
    ],
)
def test_refuses_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        ody.checkpoint(**kwargs)


def test_in_a_loop_of_ones_own_only_epochs_can_be_counted():
    with pytest.raises(ValueError, match=r"at the ends of epochs, where seconds and steps don't"):
        ody.checkpoint(ody.every(steps=5) | ody.callbacks.at(seconds=6)).init(event())
