"""A table of Hugging Face's datasets."""

import datasets
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


table = datasets.Dataset.from_dict({"x": x, "y": y})  # or datasets.load_dataset(...)["train"]
parts = table.train_test_split(200, seed=0)
result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    parts["train"],
    parts["test"],
    batch_size=50,
    epochs=10,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(result.metrics["valid/accuracy"] > 0.6)
