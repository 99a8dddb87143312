"""Proximal policy optimisation on carts with a pole, simulated within the train step.

`python -m examples.ppo [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from examples import main

CARTS, LENGTH, PASSES = 32, 64, 4
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


def moved(cart: jax.Array, action: jax.Array) -> jax.Array:
    """Return x, its speed, the pole's angle and its speed, 0.02 s later (Barto et al., 1983)."""
    _, v, angle, w = cart
    force, sin, cos = jnp.where(action == 1, 10.0, -10.0), jnp.sin(angle), jnp.cos(angle)
    push = (force + 0.05 * w**2 * sin) / 1.1
    turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    return cart + 0.02 * jnp.stack([v, push - 0.05 * turn * cos / 1.1, w, turn])


def policy(params: Any, cart: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the log-probabilities of the two actions, and the value."""
    found = jnp.tanh(jnp.tanh(cart @ params["w1"]) @ params["w2"]) @ params["w3"]
    return jax.nn.log_softmax(found[..., :2]), found[..., 2]


def chosen(log_probabilities: jax.Array, action: jax.Array) -> jax.Array:
    """Return the log-probability of what was done."""
    return jnp.take_along_axis(log_probabilities, action[..., None], -1)[..., 0]


def play(params: Any, carts: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
    """Make LENGTH moves; return the carts, and what was seen, done, found and over at each."""

    def move(carts: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        acting, anew = jax.random.split(key)
        log_probabilities, value = policy(params, carts)
        action = jax.random.categorical(acting, log_probabilities)
        new = jax.vmap(moved)(carts, action)
        fell = (jnp.abs(new[:, 0]) > 2.4) | (jnp.abs(new[:, 2]) > 0.21)
        first = jax.random.uniform(anew, new.shape, minval=-0.05, maxval=0.05)
        made = carts, action, chosen(log_probabilities, action), value, fell
        return jnp.where(fell[:, None], first, new), made

    return jax.lax.scan(move, carts, jax.random.split(key, LENGTH))


def advantages(values: jax.Array, fell: jax.Array, last: jax.Array) -> jax.Array:
    """Return generalised advantages (Schulman et al., 2016); each move is rewarded by 1."""

    def back(carry: Any, at: Any) -> Any:
        (following, advantage), (value, fell) = carry, at
        error = 1 + GAMMA * following * ~fell - value
        advantage = error + GAMMA * LAMBDA * advantage * ~fell
        return (value, advantage), advantage

    return jax.lax.scan(back, (last, jnp.zeros_like(last)), (values, fell), reverse=True)[1]


def loss_fn(params: Any, carts: Any, batch: Any, key: jax.Array) -> Any:
    """Return PPO's loss: `Task.loss`, whose batch is experience, and whose state the carts."""
    del key
    (seen, action, before, value, _), advantage = batch
    log_probabilities, values = policy(params, seen)
    ratio = jnp.exp(chosen(log_probabilities, action) - before)
    gain = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
    gained = jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * gain)
    entropy = -(jnp.exp(log_probabilities) * log_probabilities).sum(-1)
    return (-gained + 0.5 * (values - value - advantage) ** 2 - 0.01 * entropy).mean(), (carts, {})


def update(state: Any, _: Any, step: Any, optimizer: Any) -> Any:
    """Play, and learn from it PASSES times; what is read is left alone."""
    carts, experience = play(state.params, state.model_state, step.key)
    *_, values, fell = experience
    batch = experience, advantages(values, fell, policy(state.params, carts)[1])
    for _ in range(PASSES):
        (loss, _), grads = step.value_and_grad(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(params=params, opt_state=opt_state)
    outputs = {"loss": loss, "moves": fell.size / jnp.maximum(fell.sum(), 1)}
    return state._replace(model_state=carts), outputs


def initial(key: jax.Array) -> tuple[Any, Any]:
    """Return the first parameters, and the carts."""
    shapes, draw = {"w1": (4, 64), "w2": (64, 64), "w3": (64, 3)}, jax.nn.initializers.orthogonal()
    keys = dict(zip(shapes, jax.random.split(key, 3), strict=True))
    return {k: draw(keys[k], shape) for k, shape in shapes.items()}, jnp.zeros((CARTS, 4))


def run(directory: Any = None, epochs: int = 20, **options: Any) -> ody.FitResult:
    """Train it, and return the result; "train/moves" are those to a fall."""
    task = ody.Task(initial, loss_fn, evaluate=lambda *_: {}, update=update)
    return ody.fit(
        task,
        optax.adam,
        ody.ArrayDataset(np.zeros(1), 1),
        epochs=epochs,
        steps_per_epoch=10,
        learning_rate=ody.linear(3e-3, 0.0, ody.schedules.fraction(1.0)),
        train_metrics={"moves": ody.Mean("moves")},
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "ppo")
