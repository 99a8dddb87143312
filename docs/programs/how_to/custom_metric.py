"""A metric of one's own: the F1 score of class 1."""

import dataclasses

import jax
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class F1:
    """Counts that add up over batches; the score is computed from their sums."""

    true_positive: jax.Array
    predicted: jax.Array
    positive: jax.Array
    mode = "max"  # more is better: callbacks that monitor it need not be told

    @classmethod
    def empty(cls):
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))

    @classmethod
    def from_model_output(cls, *, logits, labels, **_):
        found = logits.argmax(-1) == 1
        count = lambda which: which.sum(dtype=jnp.int32)
        return cls(count(found & (labels == 1)), count(found), count(labels == 1))

    def merge(self, other):
        return jax.tree.map(jnp.add, self, other)

    def compute(self):
        return 2 * self.true_positive / (self.predicted + self.positive)


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=20,
    learning_rate=1e-2,
    metrics={"f1": F1},  # in the history as "valid/f1"
    callbacks=ody.track_best("valid/f1"),
)
print(f"best F1 {result.best.value:.1f}")
