"""Optax and Orbax by hand."""

import json
import os

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

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

directory = os.path.abspath("runs/by_hand")
options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=50)
with ocp.CheckpointManager(directory, options=options) as manager:
    begin = 0
    if manager.latest_step() is not None:
        begin = manager.latest_step()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        state = manager.restore(begin, args=ocp.args.StandardRestore(abstract))
    with open("metrics.jsonl", "a") as log:  # rows past the checkpoint come twice
        for step in range(begin, 160):
            state, loss = train_step(state, batch_of(step))
            log.write(json.dumps({"step": step + 1, "loss": float(loss)}) + "\n")
            manager.save(step + 1, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
# --8<-- [end:program]
