"""Several devices: batches divided over them, and large parameters too."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=40, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=40)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


def run(placement):
    return ody.fit(
        ody.nnx_task(make_model(), loss_fn),
        optax.adam,
        train,
        valid,
        epochs=10,
        learning_rate=1e-2,
        placement=placement,
    )


# Batches are divided, and each device has the whole of the parameters:
result = run(ody.data_parallel())
print(len(result.carry.state.params["layers"][0]["kernel"].sharding.device_set))

# Parameters, moments and averages are divided too, those of at least `min_size` elements:
result = run(ody.fully_sharded(min_size=16))
print(result.reason)
