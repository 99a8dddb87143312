"""An Equinox model, trained as it is."""

import equinox as eqx
import jax
import numpy as np
import optax

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)


class MLP(eqx.Module):
    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.hidden = eqx.nn.Linear(2, 32, key=first)
        self.dropout = eqx.nn.Dropout(0.1)
        self.head = eqx.nn.Linear(32, 2, key=second)

    def __call__(self, x, key):  # one example, as everywhere in Equinox
        return self.head(self.dropout(jax.nn.relu(self.hidden(x)), key=key))


def loss_fn(model, batch, *, key):  # a key of the step; in validation dropout is off
    logits = jax.vmap(model)(batch["x"], jax.random.split(key, len(batch["x"])))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


result = ody.fit(
    ody.eqx_task(MLP(jax.random.key(0)), loss_fn),
    optax.adamw,
    train,
    valid,
    epochs=20,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.early_stopping("valid/loss", patience=5, restore_best=True),
    directory="runs/equinox",
)
print(result.metrics["valid/accuracy"] > 0.8)
print(type(result.model).__name__, result.model.dropout.inference)  # an Equinox module, to call
