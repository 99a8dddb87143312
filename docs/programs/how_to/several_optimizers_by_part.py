"""An optimizer and a rate for each part of the model."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)


class Classifier(nnx.Module):
    def __init__(self, *, rngs):
        self.encoder = nnx.Linear(2, 16, rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.encoder(x)))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


result = ody.fit(
    ody.nnx_task(Classifier(rngs=nnx.Rngs(0)), loss_fn),
    {"encoder": optax.sgd, "head": lambda rate: optax.adamw(rate, weight_decay=1e-3)},
    train,
    valid,
    epochs=20,
    learning_rate={"encoder": 0.1, "head": ody.cosine_decay(1e-2, ody.schedules.fraction(1))},
)
print([name for name in result.history if name.startswith("learning_rate")])
