"""An optimizer for each label: matrices by one, vectors by another."""

import jax
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


def label(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


def optimizer(rate):
    return optax.partition({"matrix": optax.adamw(rate), "vector": optax.sgd(rate)}, label)


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optimizer,
    train,
    valid,
    epochs=20,
    learning_rate=ody.cosine_decay(1e-2, ody.schedules.fraction(1)),
)
print(result.epochs, "epochs")
