"""Compute in bfloat16, or in float16 with a loss scale; parameters stay float32."""

import jax.numpy as jnp
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
    logits = model(batch["x"]).astype(jnp.float32)  # the loss itself in full precision
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


task = ody.nnx_task(make_model(), loss_fn)
data = {"epochs": 5, "learning_rate": 1e-2}

result = ody.fit(ody.mixed_precision(task), optax.adam, train, valid, **data)
print(result.model.layers[0].kernel.dtype)

in_float16 = ody.mixed_precision(task, "float16")
result = ody.fit(in_float16, optax.adam, train, valid, **data, loss_scale=ody.loss_scale())
print(result.reason)
