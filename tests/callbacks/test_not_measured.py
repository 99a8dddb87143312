"""Epochs at which a metric was not measured: to who monitors it, they have not been."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests.examples import assert_same

NAN = np.nan
LOSSES = [3.0, 2.0, NAN, 2.5, 1.0, 1.5, 9.0, 1.6, 1.7, 1.8]
REASON = ody.StopReason


def state_of(x):
    opt_state = (optax.EmptyState(), ody.scale_by_callback().init(None))
    return ody.TrainState({"w": jnp.full(2, x, jnp.float32)}, None, opt_state)


def event(loss, epoch, measured=None, parameter=1.0):
    said = {} if measured is None else {"valid/ood": jnp.asarray(measured)}
    clock = ody.Clock(jnp.int32(10 * epoch + 10), jnp.int32(epoch))
    metrics = {"valid/ood/loss": jnp.float32(loss)}
    return ody.Event(metrics, clock, state_of(parameter), measured=said)


def run(callback, events):
    """The state, and what was asked for at each epoch."""
    state, asked, update = callback.init(event(0.0, 0)), [], jax.jit(callback.update)
    for one in events:
        state, signal = update(state, one)
        asked.append(signal)
    return state, asked


M = "valid/ood/loss"
CALLBACKS = {
    "stopping": ody.early_stopping(M, 2),
    "every option": ody.early_stopping(
        M, 2, smoothing=0.5, cooldown=1, divergence_factor=3.0, restore_best=True, nan="stop"
    ),
    "ignoring NaN": ody.early_stopping(M, 2, nan="ignore"),
    "best": ody.track_best(M),
    "rate": ody.adapt_rate(M, ody.reduce_on_plateau(0.5, 0)),
    "greedy": ody.adapt_rate(M, ody.schedules.greedy(0.1, 4.0, 0.5, 1, window=2)),
    "back": ody.roll_back(M, divergence_factor=3.0),
    "guard": ody.terminate_on_nan(M),
    "checkpoint": ody.checkpoint(ody.callbacks.at(epochs=()), keep_best=2, monitor=M),
    "all of": ody.all_of(ody.early_stopping(M, 2), ody.early_stopping(M, 1)),
    "chain": ody.chain(ody.early_stopping(M, 2), ody.track_best(M)),
}


@pytest.mark.parametrize("which", CALLBACKS)
def test_the_state_is_that_of_the_epochs_in_which_it_was_measured(which):
    callback = CALLBACKS[which]
    epochs = range(1, 2 * len(LOSSES), 2)
    measured = [event(loss, epoch) for loss, epoch in zip(LOSSES, epochs, strict=True)]
    between = [event(NAN, epoch - 1, measured=False) for epoch in epochs]
    seen = [event(loss, epoch, True) for loss, epoch in zip(LOSSES, epochs, strict=True)]
    want, asked = run(callback, measured)
    state, found = run(callback, [x for pair in zip(between, seen, strict=True) for x in pair])
    assert_same(state, want)
    assert_same(found[1::2], asked)
    for signal in found[::2]:
        assert int(signal.stop) == REASON.NONE
        assert not signal.save
        if signal.state is not None:  # as it was given
            assert_same(signal.state.params, state_of(1.0).params)


def test_a_nan_that_was_measured_is_one():
    _, asked = run(ody.terminate_on_nan(M), [event(NAN, 0, False), event(NAN, 1, True)])
    assert [int(signal.stop) for signal in asked] == [REASON.NONE, REASON.NOT_FINITE]


@pytest.mark.parametrize("guard", [ody.terminate_on_nan(M), ody.roll_back(M, at_most=1)])
def test_parameters_that_are_not_finite_are_seen_all_the_same(guard):
    events = [event(1.0, 0, True), *(event(NAN, e, False, parameter=NAN) for e in (1, 2))]
    _, asked = run(guard, events)
    assert int(asked[-1].stop) == REASON.NOT_FINITE


def test_an_epoch_in_between_is_no_good_one_to_go_back_to():
    events = [event(1.0, 0, True), event(NAN, 1, False, 2.0), event(NAN, 2, True, 3.0)]
    _, asked = run(ody.roll_back(M), events)
    assert asked[-1].state.params["w"].tolist() == [1.0, 1.0]


def test_where_measured_goes_by_the_set():
    one = ody.Event({}, measured={"valid/ood": False, "valid/far": jnp.array(True)})
    assert one.where_measured("valid/loss", 1, 0) == 1
    assert one.where_measured("valid/oodles/loss", 1, 0) == 1
    assert int(one.where_measured("valid/ood/loss", 1, 0)) == 0
    new, old = {"a": jnp.ones(2), "b": 1}, {"a": jnp.zeros(2), "b": 0}
    assert_same(one.where_measured("valid/far/f1/macro", new, old), {**new, "b": jnp.asarray(1)})
