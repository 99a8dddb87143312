"""Batches from Grain."""

import grain
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


examples = [{"x": point, "y": label} for point, label in zip(x, y, strict=True)]
result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    grain.MapDataset.source(examples[:400]).shuffle(seed=0).batch(50),
    grain.MapDataset.source(examples[400:]).batch(50),
    epochs=10,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(result.metrics["valid/accuracy"] > 0.6)
