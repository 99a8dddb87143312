"""Keep the best checkpoint and the last one, and return the best parameters."""

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
    epochs=20,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.chain(
        # result.model is the best epoch's; with a patience of 20 it never stops before the end.
        ody.early_stopping("valid/accuracy", patience=20, restore_best=True),
        ody.checkpoint(keep_best=1, monitor="valid/accuracy"),  # and the last one, to resume from
    ),
    directory="runs/keep_best",
)
best = ody.load_params("runs/keep_best", step="best")  # later, without the model's code
print(bool((best["layers"][0]["kernel"] == result.model.layers[0].kernel[...]).all()))
