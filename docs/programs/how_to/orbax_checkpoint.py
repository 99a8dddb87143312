"""An Orbax checkpoint in, and one out."""

import os

import numpy as np
import optax
import orbax.checkpoint as ocp
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


# In: parameters that another program saved with Orbax.
theirs = os.path.abspath("theirs")
with ocp.StandardCheckpointer() as orbax:
    orbax.save(theirs, nnx.to_pure_dict(nnx.state(make_model(), nnx.Param)))

model = make_model()
ody.update_model(model, ody.load_params(theirs))

# Train on from there.
ody.fit(
    ody.nnx_task(model, loss_fn),
    optax.adam,
    train,
    valid,
    epochs=3,
    learning_rate=1e-2,
    directory="runs/orbax",
)

# Out: a plain Orbax checkpoint, which a program without odyssey_jax reads.
path = ody.export_params("runs/orbax", "ours")
with ocp.StandardCheckpointer() as orbax:
    print(sorted(orbax.restore(path)))
