"""One compiled program: epochs in a `lax.while_loop`, with all that stops it and is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import run
from _models import MODELS
from flax import nnx
from jax import lax


def cross_entropy(graphdef, params, x, y):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), (jnp.argmax(logits, -1) == y).mean()


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def train_all(graphdef, rate, batch, valid_batch, room, patience, params, data, key, epochs):
    optimizer, count = optax.adamw(rate), len(data["train_label"])
    steps, loss_of = count // batch, functools.partial(cross_entropy, graphdef)

    def step(carry, rows):
        params, opt_state = carry
        x, y = data["train_image"][rows], data["train_label"][rows]
        (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def evaluate(params):
        cut = lambda x: x.reshape(-1, valid_batch, *x.shape[1:])
        each = lambda batch: loss_of(params, *batch)
        found = lax.map(each, (cut(data["valid_image"]), cut(data["valid_label"])))
        return jax.tree.map(jnp.mean, found)

    def epoch(carry):
        number, state, best, best_loss, since, history = carry
        order = jax.random.permutation(jax.random.fold_in(key, number), count)
        state, losses = lax.scan(step, state, order[: steps * batch].reshape(steps, batch))
        loss, accuracy = evaluate(state[0])
        better = loss < best_loss
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state[0], best)
        best_loss, since = jnp.minimum(loss, best_loss), jnp.where(better, 0, since + 1)
        row = jnp.stack([losses.mean(), loss, accuracy])
        return number + 1, state, best, best_loss, since, history.at[number].set(row)

    goes_on = lambda carry: (carry[0] < epochs) & (carry[4] < patience)
    state = params, optimizer.init(params)
    carry = 0, state, params, jnp.inf, 0, jnp.full((room, 3), jnp.nan)
    return lax.while_loop(goes_on, epoch, carry)


def train(job, data, checkpoints, at_epoch):
    arrays = {name: jnp.asarray(x) for name, x in data.items()}
    graphdef, params = nnx.split(MODELS[job["name"]](nnx.Rngs(0)))
    sizes = job["rate"], job["batch"], job["valid_batch"], job["room"], job["patience"]
    key, epochs = jax.random.key(0), job["epochs"]
    found = jax.block_until_ready(train_all(graphdef, *sizes, params, arrays, key, epochs))
    at_epoch()
    model = nnx.merge(graphdef, found[2])
    return lambda images: np.argmax(model(images), -1)


if __name__ == "__main__":
    run(train, "jax", "flax")
