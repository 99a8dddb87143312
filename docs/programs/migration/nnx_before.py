"""A loop by hand over an NNX model, as Flax teaches it."""

import jax
import numpy as np
import optax
from flax import nnx

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(2, 16, rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def loss_fn(model, batch):
    logits = model(batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), logits


@nnx.jit
def train_step(model, optimizer, metrics, batch):
    compute = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = compute(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["y"])
    optimizer.update(model, grads)


@nnx.jit
def eval_step(model, metrics, batch):
    loss, logits = loss_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["y"])


model = MLP(rngs=nnx.Rngs(0))
schedule = optax.cosine_decay_schedule(1e-2, 160)
optimizer = nnx.Optimizer(model, optax.adamw(schedule), wrt=nnx.Param)
metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
best, wait = float("inf"), 0
for epoch in range(20):
    model.train()
    order = np.random.default_rng(epoch).permutation(400)
    for rows in order.reshape(-1, 50):
        train_step(model, optimizer, metrics, {"x": x[rows], "y": y[rows]})
    train_metrics = metrics.compute()
    metrics.reset()
    model.eval()
    for start in range(400, 600, 50):
        rows = slice(start, start + 50)
        eval_step(model, metrics, {"x": x[rows], "y": y[rows]})
    found = metrics.compute()
    metrics.reset()
    if found["loss"] < best:
        best, wait = found["loss"], 0
        best_state = jax.tree.map(lambda leaf: leaf.copy(), nnx.state(model))
    else:
        wait += 1
        if wait == 5:
            break
nnx.update(model, best_state)
# --8<-- [end:program]
