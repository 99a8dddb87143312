"""The same run by `fit`."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(2, 16, rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def loss_fn(model, batch):
    logits = model(batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), {"logits": logits, "labels": batch["y"]}


task = ody.nnx_task(MLP(rngs=nnx.Rngs(0)), loss_fn)
test = {"x": x[400:], "y": y[400:]}
result = ody.fit(
    task,
    lambda rate: optax.adamw(rate, weight_decay=1e-4),
    {"x": x[:400], "y": y[:400]},  # arrays with a batch size are shuffled
    test,
    batch_size=50,
    epochs=20,
    learning_rate=ody.cosine_decay(1e-2, 160),  # or ody.compat.keras.CosineDecay(...)
    clip_norm=1.0,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.chain(
        ody.early_stopping("valid/loss", patience=5, restore_best=True),
        ody.checkpoint(keep_best=1, monitor="valid/loss"),
    ),
    writers=[ody.ProgressLine(), ody.CsvFile()],
    directory="runs/keras",
)
ody.evaluate(task, result.state, test, {"accuracy": ody.Accuracy()}, batch_size=50)
softmax = lambda model, batch: nnx.softmax(model(batch["x"]))
probabilities = ody.predict(task, result.state, test, softmax, batch_size=50)
# --8<-- [end:program]
