"""A loop of Python over epochs, each one compiled scan over its batches; data on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import run
from _models import MODELS
from flax import nnx
from jax import lax


@functools.cache
def compiled(graphdef, rate, batch, valid_batch):
    optimizer = optax.adamw(rate)

    def loss_of(params, x, y):
        logits = nnx.merge(graphdef, params)(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), (jnp.argmax(logits, -1) == y).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, key, data):
        def step(state, rows):
            params, opt_state = state
            x, y = data["train_image"][rows], data["train_label"][rows]
            (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        count = len(data["train_label"])
        order = jax.random.permutation(key, count)[: count // batch * batch]
        (params, opt_state), losses = lax.scan(step, state, order.reshape(-1, batch))
        cut = lambda x: x.reshape(-1, valid_batch, *x.shape[1:])
        each = lambda batch: loss_of(params, *batch)
        loss, accuracy = lax.map(each, (cut(data["valid_image"]), cut(data["valid_label"])))
        return (params, opt_state), jnp.stack([losses.mean(), loss.mean(), accuracy.mean()])

    return optimizer, epoch


def train(job, data, checkpoints, at_epoch):
    arrays = {name: jnp.asarray(x) for name, x in data.items()}
    graphdef, params = nnx.split(MODELS[job["name"]](nnx.Rngs(0)))
    optimizer, epoch = compiled(graphdef, job["rate"], job["batch"], job["valid_batch"])
    state, key = (params, optimizer.init(params)), jax.random.key(0)
    best, best_loss, since, history = params, np.inf, 0, []
    if checkpoints:
        import orbax.checkpoint as ocp

        manager = ocp.CheckpointManager(checkpoints.absolute(), options=_options(ocp))
    for number in range(job["epochs"]):
        state, row = epoch(state, jax.random.fold_in(key, number), arrays)
        row = np.asarray(row)
        history.append(row)
        at_epoch()
        if row[1] < best_loss:
            best, best_loss, since = jax.tree.map(jnp.copy, state[0]), row[1], 0
        else:
            since += 1
        if checkpoints:
            manager.save(number, args=ocp.args.StandardSave(state))
        if since >= job["patience"]:
            break
    if checkpoints:
        manager.close()
    model = nnx.merge(graphdef, best)
    return lambda images: np.argmax(model(images), -1)


def _options(ocp):
    return ocp.CheckpointManagerOptions(max_to_keep=1)


if __name__ == "__main__":
    run(train, "jax", "flax")
