"""Train the head, and leave the rest as it is."""

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


model = make_model()
before = model.layers[0].kernel[...].copy()
result = ody.fit(
    ody.nnx_task(model, loss_fn),
    lambda rate: ody.freeze(optax.adamw(rate), ["^layers/0/"]),  # found in a parameter's path
    train,
    valid,
    epochs=5,
    learning_rate=1e-2,
)
print(bool((result.model.layers[0].kernel[...] == before).all()))
