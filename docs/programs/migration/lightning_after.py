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


def loss_fn(model, batch):  # training_step and validation_step
    logits = model(batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses.mean(), {"logits": logits, "labels": batch["y"]}


train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)

result = ody.fit(
    ody.nnx_task(MLP(rngs=nnx.Rngs(0)), loss_fn),
    optax.adamw,
    train,  # or the torch DataLoader itself
    valid,
    epochs=20,
    # Counted in updates, of which two batches make one:
    learning_rate=ody.compat.torch.CosineAnnealingLR(base_lr=1e-2, T_max=80),
    clip_norm=1.0,
    accumulate_steps=2,
    log_every_n_steps=4,
    metrics={"accuracy": ody.Accuracy()},
    train_metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.chain(
        ody.early_stopping("valid/loss", patience=5, restore_best=True),
        ody.checkpoint(keep_last=1, keep_best=1, monitor="valid/loss"),
    ),
    directory="runs/lightning",  # the rate is in the history, and the last is gone on from
)
# --8<-- [end:program]
