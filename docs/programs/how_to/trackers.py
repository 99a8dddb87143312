"""One history to several trackers."""

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


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=5,
    learning_rate=1e-2,
    writers=[
        ody.ProgressLine(),
        ody.JsonLines(),  # metrics.jsonl in the run's directory
        ody.TensorBoard(histograms_every=5),  # tensorboard --logdir runs
        ody.MLflow("circles", tracking_uri="mlruns"),
        ody.WeightsAndBiases(project="circles", mode="offline"),  # without mode: online
    ],
    on_failed_write="warn",  # a server that is away ends no run
    config={"width": 16},  # recorded with the checkpoints, and with the trackers
    directory="runs/trackers",
)
print(result.epochs, "epochs")
