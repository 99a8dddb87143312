"""Train into a bucket, go on from it, and read what is there."""

import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody

# gs://bucket/runs/first and s3://bucket/runs/first are the same; this one dies with the program.
RUN = "memory://bucket/runs/first"

x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
data = ody.ArrayDataset({"x": x, "y": x @ np.ones((4, 1), np.float32)}, batch_size=32)
task = ody.pure_task(
    {"kernel": jnp.zeros((4, 1))},
    lambda params, batch: ((batch["x"] @ params["kernel"] - batch["y"]) ** 2).mean(),
)


def train(epochs):
    return ody.fit(
        task,
        optax.adam(0.1),
        data,
        data,
        epochs=epochs,
        callbacks=ody.checkpoint(keep_best=1, monitor="valid/loss"),
        directory=RUN,
    )


train(3)
result = train(6)  # goes on from the bucket, on this machine or another

params = ody.load_params(RUN, step="best")
(run,) = ody.runs.find_runs("memory://bucket/runs")
print(ody.Store(f"{RUN}/checkpoints").steps())
print(run.directory, run.epochs, float(params["kernel"].mean().round(1)))
