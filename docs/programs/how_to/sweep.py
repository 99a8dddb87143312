"""Six learning rates in one compiled program."""

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


def make_model(rngs):
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


rates = jnp.logspace(-4, 0, 6)
task = ody.nnx_task(lambda rngs: make_model(rngs), loss_fn)  # each member draws its own
loop = ody.train.make_loop(
    task,
    optax.sgd,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.early_stopping("valid/loss", patience=5),
    capacity=30,
)
members = ody.train.population(loop, task)
schedules = jax.vmap(lambda peak: ody.warmup_cosine(peak, 20, 240))(rates)
inputs = ody.train.Inputs(train, valid, schedules)
carry = jax.jit(members.init)(jax.random.split(jax.random.key(0), len(rates)), inputs)
carry = jax.jit(members.run)(carry, inputs, 240)  # at most 240 train steps

history = carry.history  # of each member `length` rows are filled
losses = history.metrics["valid/loss"]  # [member, epoch]
losses = jnp.where(jnp.arange(30) < history.length[:, None], losses, jnp.inf)
for rate, loss in zip(rates, losses.min(axis=1), strict=True):
    print(f"{rate:.0e}  {loss:.2f}")
