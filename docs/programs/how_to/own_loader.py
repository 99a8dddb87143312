"""A loader of one's own: a function of the step, a generator, anything that iterates."""

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


def batch_of(step):
    """The best kind: any batch at once, so that a run goes on in the middle of a pass for free."""
    rows = np.random.default_rng(step).integers(0, 400, 50)
    return {"x": x[rows], "y": y[rows]}


def one_pass():
    """A generator function: called again for every pass."""
    for start in range(400, 600, 50):
        yield {"x": x[start : start + 50], "y": y[start : start + 50]}


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    batch_of,
    one_pass,
    epochs=10,
    steps_per_epoch=8,  # a function of the step has no end,
    valid_steps=4,  # and of a generator it is not known
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(result.metrics["valid/accuracy"] > 0.6)
