"""A learning rate from one short run."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


task = ody.nnx_task(make_model(), loss_fn)
found = ody.rate_range_test(task, optax.adamw, train, start=1e-5, end=1.0, steps=100)
found.plot("rates.png")
print(1e-3 < found.suggestion < 0.1)

peak = found.suggestion or 1e-3  # None where the loss falls nowhere clearly; `reason` says why
schedule = ody.warmup_cosine(peak, ody.schedules.epochs(1), ody.schedules.fraction(1))
result = ody.fit(task, optax.adamw, train, epochs=20, learning_rate=schedule)
print(result.metrics["train/loss"] < 0.3)
