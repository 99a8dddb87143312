"""LoRA: small matrices are trained, and the base is held."""

import jax
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


base = make_model()  # or one that nnx.update(base, ody.load_params("runs/base")) has filled
rngs = nnx.Rngs(1)
model = nnx.Sequential(
    nnx.LoRA(2, 2, 16, base_module=base.layers[0], rngs=rngs),
    nnx.relu,
    nnx.LoRA(16, 2, 2, base_module=base.layers[2], rngs=rngs),
)
result = ody.fit(
    ody.nnx_task(model, loss_fn, trainable=nnx.LoRAParam),
    optax.adam,  # has moments for the small matrices alone
    train,
    valid,
    epochs=10,
    learning_rate=1e-2,
)
print(sum(leaf.size for leaf in jax.tree.leaves(result.carry.state.params)), "are trained")
