"""First run: a model, a loss, data, and `fit`."""

# --8<-- [start:data]
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(1_200, 2)).astype(np.float32)
y = (np.linalg.norm(x, axis=1) > 1.2).astype(np.int32)  # outside of a circle
train = ody.ArrayDataset({"x": x[:1_000], "y": y[:1_000]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[1_000:], "y": y[1_000:]}, batch_size=100)
print(train.steps_per_pass, "train steps to a pass")
# --8<-- [end:data]


# --8<-- [start:model]
class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(2, 32, rngs=rngs)
        self.head = nnx.Linear(32, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


task = ody.nnx_task(MLP(rngs=nnx.Rngs(0)), loss_fn)
# --8<-- [end:model]

# --8<-- [start:fit]
result = ody.fit(
    task,
    optax.adam,
    train,
    valid,
    epochs=20,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(result.reason)
# --8<-- [end:fit]

# --8<-- [start:result]
print(result.history)  # a table: a row for each epoch
print(result.metrics["valid/accuracy"] > 0.9)
outside = result.model(np.array([[0.1, 0.1], [2.0, 2.0]], np.float32)).argmax(-1)
print(outside)
# --8<-- [end:result]

# --8<-- [start:picture]
ody.plot_history(result, path="history.svg")
# --8<-- [end:picture]
