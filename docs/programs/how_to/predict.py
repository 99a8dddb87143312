"""An output for each example, in order."""

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


task = ody.nnx_task(make_model(), loss_fn)
result = ody.fit(task, optax.adam, train, valid, epochs=10, learning_rate=1e-2)


def probabilities(model, batch):
    return nnx.softmax(model(batch["x"]))


found = ody.predict(task, result.state, {"x": x[400:]}, probabilities, batch_size=64)
print(found.shape)
print(ody.evaluate(task, result.state, valid, {"accuracy": ody.Accuracy()}).keys())

model = result.model  # or plainly, as any NNX module
print(model(x[:3]).shape)
