"""Two sets of validation data, each with a cadence of its own, in a run validated by steps."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(2_000, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign


def part(start, end, scale=1.0, **how):
    return ody.ArrayDataset({"x": scale * x[start:end], "y": y[start:end]}, **how)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    part(0, 1_000, batch_size=10, shuffle=True),  # 100 steps to an epoch
    {
        "near": part(1_000, 1_200, batch_size=100),
        "far": ody.Evaluation(
            part(1_200, 2_000, scale=5.0, batch_size=100),
            every=ody.every(steps=200),  # NaN in the rows between
            batches=4,  # of its 8
            metrics={"accuracy": ody.Accuracy()},
            at_start=True,
        ),
    },
    steps=400,
    validate=ody.every(steps=50),  # instead of at the end of each epoch
    learning_rate=1e-2,
    callbacks=ody.early_stopping("valid/near/loss", patience=3, restore_best=True),
)
print(result.history["step"][:4])
print(np.isfinite(result.history["valid/far/accuracy"])[:4])
print(sorted(result.metrics_at_start))
