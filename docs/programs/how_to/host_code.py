"""Host code every 5 epochs: a number for the history, and a text for the writers."""

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


def seen_from_outside(view):
    """Anything that Python can do with the model; `view.key` is a key to draw with."""
    logits = np.asarray(view.model(x[400:]))
    return {"confident": float((np.abs(logits[:, 0] - logits[:, 1]) > 1).mean())}


def look(view):
    right = np.asarray(view.model(x[400:])).argmax(-1) == y[400:]
    return {"note": f"epoch {view.epoch}: {right.sum()} of {len(right)} right"}


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=20,
    learning_rate=1e-2,
    hooks=[
        ody.hook(seen_from_outside, ody.every(epochs=5), columns=["confident"]),
        ody.hook(look, ody.every(epochs=5)),  # to TensorBoard, W&B, MLflow and shown.jsonl
    ],
    callbacks=ody.track_best("confident", mode="max"),
    directory="runs/host_code",
)
print(np.isfinite(result.history["confident"]).sum(), "measurements")
