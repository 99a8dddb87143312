"""Classes that are rare count more, in the loss and in its mean over batches."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (np.linalg.norm(x, axis=1) > 2).astype(np.int32)  # 1 is rare
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)
WEIGHTS = len(y) / (2 * np.bincount(y)).astype(np.float32)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits, labels = model(batch["x"]), batch["y"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    weights = jnp.asarray(WEIGHTS)[labels]
    loss = (weights * losses).sum() / weights.sum()
    # "weight": how much this batch counts in the epoch's mean, and in accumulation. A metric is
    # given the outputs that it names: the accuracy counts examples as they are.
    return loss, {"weight": weights.sum(), "logits": logits, "labels": labels}


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=10,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(np.round(WEIGHTS, 1))
