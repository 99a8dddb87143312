"""The same run by `fit`."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import odyssey_jax as ody

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(not train)(nn.Dense(16)(x)))
        return nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x))


def loss_fn(apply, batch, train):
    logits = apply(batch["x"], train=train)  # with the variables
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), {"logits": logits, "labels": batch["y"]}


train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)

result = ody.fit(
    ody.linen_task(MLP(), loss_fn, jnp.zeros((1, 2))),
    optax.adamw,
    train,
    valid,
    epochs=20,
    learning_rate=ody.cosine_decay(1e-2, 160),
    metrics={"accuracy": ody.Accuracy()},
    directory="runs/linen",
)
logits = MLP().apply(result.model, x[400:])  # the dict of variables
# --8<-- [end:program]
