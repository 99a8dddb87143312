"""The examples: at most 120 lines each, and every one interrupted and gone on with to the bit."""

import functools
import importlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from examples import digits
from examples import dp_sgd as examples_dp_sgd
from examples import gan as examples_gan
from examples import physics_informed as examples_pinn
from examples import ppo as examples_ppo
from examples import vae as examples_vae
from odyssey_jax.train._user_functions import _OF_LOSS
from tests import examples

ROOT = Path(__file__).parents[1]
NAMES = sorted(x.stem for x in (ROOT / "examples").glob("*.py") if x.stem != "__init__")

# What is shorter than it is for users.
SHORT = {
    "byte_transformer": {"steps_per_epoch": 4},
    "physics_informed": {"steps_per_epoch": 3},
    "sharded_transformer": {"steps_per_epoch": 4},
}
IN_X64 = {"physics_informed"}
EPOCHS, LEFT_AT = 3, 2


def leave(view):
    if view.epoch == LEFT_AT:
        raise KeyError("left")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120


@pytest.fixture(scope="module")
def whole_and_left(tmp_path_factory):
    """Of an example: its options here, its result, and the folder of a run that was left."""

    @functools.cache
    def run(name):
        module = importlib.import_module(f"examples.{name}")
        directory = tmp_path_factory.mktemp(name)
        options = {"epochs": EPOCHS, "writers": [], **SHORT.get(name, {})}
        with jax.enable_x64(name in IN_X64):
            whole = module.run(directory / "whole", **options)
            with pytest.raises(KeyError, match="left"):
                module.run(directory / "left", **options, hooks=[ody.hook(leave)])
        return options, whole, directory / "left"

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_to_the_bit(whole_and_left, name, tmp_path):
    """The exception stands for all that ends a run: what was saved last is gone on from."""
    options, whole, left = whole_and_left(name)
    left = shutil.copytree(left, tmp_path / "left")
    with jax.enable_x64(name in IN_X64):
        again = importlib.import_module(f"examples.{name}").run(left, **options)
        assert again.epochs == whole.epochs == EPOCHS
        examples.assert_same(again.state, whole.state)
        examples.assert_same(dict(again.history), dict(whole.history))


@pytest.mark.slow
def test_the_sharded_one_goes_on_with_half_of_the_devices(whole_and_left, tmp_path):
    module = importlib.import_module("examples.sharded_transformer")
    options, whole, left = whole_and_left("sharded_transformer")
    left = shutil.copytree(left, tmp_path / "left")
    again = module.run(left, **options, placement=module.placement(jax.devices()[:4]))
    assert again.steps == whole.steps
    for name, column in whole.history.items():
        np.testing.assert_allclose(again.history[name], column, rtol=2e-3, err_msg=name)
    kernel = again.model.blocks[0].wide.kernel[...]
    assert kernel.sharding.spec == jax.P(None, "model")
    assert len(kernel.sharding.device_set) == 4


# Plain JAX beside them: nothing of odyssey_jax but the order of the batches and the steps' keys.


def losses_by_hand(step, carry, train, epochs, epoch_steps):
    """The mean loss of each epoch of a jitted `step(carry, batch, key, t) -> (carry, loss)`."""
    keys, step, means = ody.train.Keys.of(jax.random.key(0)), jax.jit(step), []
    for epoch in range(epochs):
        losses = []
        for t in range(epoch * epoch_steps, (epoch + 1) * epoch_steps):
            index, place = divmod(t, train.steps_per_pass)
            batch = train.batch(train.order(keys.shuffle, index), place)
            carry, loss = step(carry, batch, jax.random.fold_in(keys.step, t), t)
            losses.append(loss)
        means.append(np.mean(np.asarray(losses, np.float64)))
    return means


def by_optax(optimizer, loss_of):
    """A train step of the parameters and the optimizer's state."""

    def step(carry, batch, key, t):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, batch, key, t)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return step


def of_loss(key):
    """The key that a loss is told, apart from what else draws in a step."""
    return jax.random.fold_in(key, _OF_LOSS)


def vae(epochs):
    train, _ = digits(100)
    total = epochs * train.steps_per_pass
    graph, params = nnx.split(examples_vae.VAE(rngs=nnx.Rngs(0)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, total))

    def loss_of(params, batch, key, t):
        told = {"train": True, "key": of_loss(key), "progress": t / total}
        return examples_vae.loss_fn(nnx.merge(graph, params), batch, **told)[0]

    carry = params, optimizer.init(params)
    return losses_by_hand(by_optax(optimizer, loss_of), carry, train, epochs, train.steps_per_pass)


def of_one(loss_fn, params, name, key, part, batch):
    return loss_fn(params | {name: part}, batch, key=key)


def gan(epochs):
    train, _ = digits(100)
    total = epochs * train.steps_per_pass
    rates = {"d": optax.cosine_decay_schedule(5e-4, total), "g": 1e-3}
    adams = {name: optax.adam(rate, b1=0.5) for name, rate in rates.items()}
    losses = {"d": examples_gan.discriminator_loss, "g": examples_gan.generator_loss}

    def step(carry, batch, key, t):
        params, states = carry
        sum_of = 0.0
        for name, loss_fn in losses.items():
            of_part = functools.partial(of_one, loss_fn, params, name, of_loss(key))
            loss, grads = jax.value_and_grad(of_part)(params[name], batch)
            updates, state = adams[name].update(grads, states[name], params[name])
            params = params | {name: optax.apply_updates(params[name], updates)}
            states = states | {name: state}
            sum_of += loss
        return (params, states), sum_of

    params = jax.tree.map(jnp.asarray, examples_gan.initial())
    carry = params, {name: adam.init(params[name]) for name, adam in adams.items()}
    return losses_by_hand(step, carry, train, epochs, train.steps_per_pass)


def dp_sgd(epochs):
    train, _ = digits(250)
    noisy = {"l2_norm_clip": 1.0, "noise_multiplier": 0.6, "key": jax.random.key(0)}
    optimizer = optax.chain(optax.contrib.differentially_private_aggregate(**noisy), optax.sgd(0.5))
    add_axis = lambda x: x[None]

    def step(carry, batch, key, t):
        params, state = carry
        alone = lambda params, x: examples_dp_sgd.loss_fn(params, jax.tree.map(add_axis, x))[0]
        losses, grads = jax.vmap(jax.value_and_grad(alone), (None, 0))(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), losses.mean()

    params = jax.tree.map(jnp.asarray, examples_dp_sgd.initial())
    carry = params, optimizer.init(params)
    return losses_by_hand(step, carry, train, epochs, train.steps_per_pass)


def physics_informed(epochs):
    times = jnp.linspace(0, examples_pinn.END, 64)
    train, optimizer = ody.ArrayDataset(np.asarray(times), 64), optax.lbfgs(memory_size=20)

    def step(carry, batch, key, t):
        params, state = carry
        loss_of = lambda params: examples_pinn.loss_fn(params, batch)
        loss, grads = optax.value_and_grad_from_state(loss_of)(params, state=state)
        more = {"value": loss, "grad": grads, "value_fn": loss_of}
        updates, state = optimizer.update(grads, state, params, **more)
        return (optax.apply_updates(params, updates), state), loss

    params = jax.tree.map(jnp.asarray, examples_pinn.initial())
    return losses_by_hand(step, (params, optimizer.init(params)), train, epochs, 3)


def ppo(epochs):
    """PPO's own arithmetic, and a plain loop around it."""
    optimizer = optax.adam(optax.linear_schedule(3e-3, 0.0, epochs * 10))

    def step(carry, batch, key, t):
        params, state, carts = carry
        carts, experience = examples_ppo.play(params, carts, key)
        *_, values, fell = experience
        advantage = examples_ppo.advantages(values, fell, examples_ppo.policy(params, carts)[1])
        for _ in range(examples_ppo.PASSES):
            loss_of = lambda p: examples_ppo.loss_fn(p, carts, (experience, advantage), key)[0]
            loss, grads = jax.value_and_grad(loss_of)(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return (params, state, carts), loss

    params, carts = examples_ppo.initial(ody.train.Keys.of(jax.random.key(0)).init)
    carry = params, optimizer.init(params), carts
    return losses_by_hand(step, carry, ody.ArrayDataset(np.zeros(1), 1), epochs, 10)


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [vae, gan, dp_sgd, physics_informed, ppo])
def test_its_losses_are_those_of_plain_jax(whole_and_left, by_hand):
    name = by_hand.__name__
    _, result, _ = whole_and_left(name)
    with jax.enable_x64(name in IN_X64):
        np.testing.assert_allclose(result.history["train/loss"], by_hand(EPOCHS), rtol=1e-5)
