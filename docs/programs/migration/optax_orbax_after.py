"""The same loop in an `ody.Run`."""

import jax
import numpy as np
import optax

import odyssey_jax as ody

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
def loss_fn(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["w1"])
    logits = hidden @ params["w2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


draw = np.random.default_rng(1)
params = {
    "w1": draw.normal(size=(2, 16)).astype(np.float32),
    "w2": draw.normal(size=(16, 2)).astype(np.float32),
}
optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 160))


@jax.jit
def train_step(state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch)
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state}, loss


def batch_of(step):
    rows = np.random.default_rng(step).integers(0, 400, 50)
    return {"x": x[rows], "y": y[rows]}


state = {"params": params, "opt_state": optimizer.init(params)}

saving = ody.checkpoint(ody.every(steps=50), keep_last=2)
with ody.Run("runs/by_hand", checkpoint=saving) as run:
    state = run.restore(state)
    for step in run.steps(160):  # from where it was
        state, loss = train_step(state, batch_of(step))
        run.log(step, {"loss": loss})  # metrics.jsonl: each step once, wherever it died
        run.save_if_due(state)  # and at Ctrl-C, SIGTERM, an exception and the end
# --8<-- [end:program]
