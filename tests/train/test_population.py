"""Populations: one program, each member as its own single run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from odyssey_jax.train import Keys, fresh_copy
from tests import examples

MEMBERS = 8
EPOCHS = 30


def member_of(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def population(validations=None):
    def loss_fn(params, batch):
        return examples.linear_loss(params, batch)

    def init(key):
        return {"w": jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}, None

    def evaluate(params, model_state, batch):
        if validations is not None:
            jax.debug.callback(lambda: validations.append(1))
        loss, outputs = loss_fn(params, batch)
        return {**outputs, "loss": loss}

    task = ody.pure_task({}, loss_fn)._replace(init=init, evaluate=evaluate)
    callbacks = ody.chain(
        ody.callbacks.log(EPOCHS), ody.early_stopping("valid/loss", 2), ody.track_best("valid/loss")
    )
    loop = examples.make_loop(task, optax.adam, callbacks=callbacks)
    rates = jax.vmap(ody.cosine_decay, in_axes=(0, None))(
        jnp.geomspace(0.01, 1.0, MEMBERS), EPOCHS * 5
    )
    return task, loop, rates


def test_each_member_equals_its_own_run_and_stops_at_its_own_epoch():
    task, loop, rates = population()
    many = ody.train.population(loop, task)
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data(), rates)
    keys = jax.random.split(jax.random.key(0), MEMBERS)
    traces = []

    @jax.jit
    def run(carry, limit):
        traces.append(1)
        return many.run(carry, inputs, limit)

    carry = many.init(keys, inputs)
    for limit in (3, 20, 41, EPOCHS * 5):
        carry = run(carry, limit)
    assert len(traces) == 1
    single = jax.jit(lambda carry, inputs: loop.run(carry, inputs, EPOCHS * 5))
    stopped = set()
    for i, key in enumerate(keys):
        member = inputs._replace(learning_rate=member_of(rates, i))
        alone = fresh_copy(loop.init(key, *task.init(Keys.of(key).init), member))
        alone = single(alone, member)
        of_many = member_of(carry._replace(clock=None), i)
        assert int(of_many.signal.stop) == int(alone.signal.stop)
        epochs = int(alone.callbacks[0].length)
        stopped.add(epochs)
        assert int(of_many.callbacks[0].length) == epochs
        for name, column in alone.callbacks[0].metrics.items():
            np.testing.assert_allclose(
                of_many.callbacks[0].metrics[name][:epochs], column[:epochs], rtol=2e-5, atol=1e-6
            )
        for a, b in zip(jax.tree.leaves(of_many.state), jax.tree.leaves(alone.state), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert len(stopped) > 2  # they did stop apart


def test_a_stopped_member_is_frozen_to_the_bit():
    task, loop, rates = population()
    many = ody.train.population(loop, task)
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data(), rates)
    run = jax.jit(many.run)
    carry = many.init(jax.random.split(jax.random.key(0), MEMBERS), inputs)
    frozen = {}
    for epoch in range(1, EPOCHS + 1):
        carry = run(carry, inputs, epoch * 5)
        for i in np.flatnonzero(np.asarray(carry.signal.stop)):
            now = member_of(carry._replace(clock=None), i)
            examples.assert_same(frozen.setdefault(i, now), now)
    assert len(frozen) > 2


def stop_half_at_two(state, event):
    odd = (event.state.params["w"] * 1e3).sum().astype(jnp.int32) % 2 == 1
    stop = jnp.where((event.clock.epoch == 2) & odd, ody.StopReason.REQUESTED, ody.StopReason.NONE)
    return state, ody.Signal.none()._replace(stop=stop.astype(jnp.int32))


def test_a_member_stopped_when_an_epoch_begins_trains_no_further():
    task, loop, rates = population()
    stopper = ody.callback(lambda event: None, stop_half_at_two, [ody.Point.EPOCH_BEGIN])
    loop = dataclasses.replace(loop, callbacks=ody.chain(ody.callbacks.log(EPOCHS), stopper))
    many = ody.train.population(loop, task)
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data(), rates)
    carry = many.init(jax.random.split(jax.random.key(0), MEMBERS), inputs)
    carry = jax.jit(many.run)(carry, inputs, 20)
    stopped = np.asarray(carry.signal.stop) == ody.StopReason.REQUESTED
    assert 0 < stopped.sum() < MEMBERS
    np.testing.assert_array_equal(carry.callbacks[0].length, np.where(stopped, 2, 4))


def test_validation_is_evaluated_once_an_epoch():
    validations = []
    task, loop, rates = population(validations)
    many = ody.train.population(loop, task)
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data(), rates)
    carry = many.init(jax.random.split(jax.random.key(0), MEMBERS), inputs)
    jax.block_until_ready(jax.jit(many.run)(carry, inputs, 15))
    jax.effects_barrier()
    # Three epochs of three batches, each once for all members; a conditional that had become a
    # select would validate in every block, and one that is not evaluated, never.
    assert len(validations) == 3 * 3


def test_batches_sharded_over_eight_devices_equal_one_device():
    results = []
    for placement in (None, ody.data_parallel()):
        result = ody.fit(
            examples.nnx_task(),
            optax.adamw,
            examples.train_data(),
            examples.valid_data(),
            epochs=4,
            learning_rate=0.01,
            placement=placement,
            writers=[],
        )
        results.append(result)
    one, eight = results
    assert len(jax.tree.leaves(eight.state.params)[0].sharding.device_set) == 8
    for name, column in one.history.items():
        np.testing.assert_allclose(eight.history[name], column, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        jax.tree.leaves(one.state.params), jax.tree.leaves(eight.state.params), strict=True
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-4)
