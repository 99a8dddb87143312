"""Parameters for other tools: safetensors, or a plain Orbax checkpoint."""

import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file

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


ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=3,
    learning_rate=1e-2,
    directory="runs/export",
)
ody.export_params("runs/export", "model.safetensors")
ody.export_params("runs/export", "model_orbax")  # orbax.checkpoint.StandardCheckpointer reads it

print(sorted(load_file("model.safetensors")))
params = ody.load_params("runs/export")  # nested dicts of NumPy arrays, without any file between
print(params["layers"][0]["kernel"].shape)
