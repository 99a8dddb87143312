"""Go on with a run's files on another machine, and with its parameters in another model."""

import shutil

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


def run(directory, epochs):
    return ody.fit(
        ody.nnx_task(make_model(), loss_fn),
        optax.adam,
        train,
        valid,
        epochs=epochs,
        learning_rate=1e-2,
        directory=directory,
    )


run("here/run", epochs=5)
shutil.copytree("here/run", "there/run")  # rsync, a bucket, a mounted drive: files are files
print(run("there/run", epochs=10).epochs, "epochs")

# The parameters alone, into a model with another head:
rngs = nnx.Rngs(1)
larger = nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 5, rngs=rngs))
start = ody.load_params(
    "there/run",
    nnx.to_pure_dict(nnx.state(larger, nnx.Param)),
    transfer=ody.Transfer(initialize=["^layers/2/"]),  # all else must match
)
nnx.update(larger, start)
print(larger(x[:1]).shape)
