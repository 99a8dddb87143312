"""A callback of one's own: stop when training no longer helps validation."""

import dataclasses

import jax.numpy as jnp
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


@dataclasses.dataclass(frozen=True)
class StopOverfitting:
    """Stop after `patience` epochs in which the gap between the two losses grew."""

    patience: int
    points: tuple[ody.Point, ...] = (ody.Point.EPOCH_END,)

    def init(self, event):
        return {"gap": jnp.float32(jnp.inf), "grew": jnp.int32(0)}

    def update(self, state, event):
        gap = event.metric("valid/loss") - event.metric("train/loss")
        grew = jnp.where(gap > state["gap"], state["grew"] + 1, 0)
        return {"gap": gap, "grew": grew}, ody.Signal.stop_if(grew >= self.patience)

    def report(self, state):  # a column of the history
        return {"gap_grew": state["grew"]}


stop = StopOverfitting(patience=3)
ody.testing.check_callback(stop)  # can be compiled, batched, saved and resumed
result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=200,
    learning_rate=3e-2,
    callbacks=stop,
)
print(result.reason)
print("gap_grew" in result.history)
