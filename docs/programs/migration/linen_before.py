"""A loop by hand over a Linen model with a TrainState."""

from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training import train_state

# --8<-- [start:data]
x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
# --8<-- [end:data]


# --8<-- [start:program]
class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(not train)(nn.Dense(16)(x)))
        return nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x))


class TrainState(train_state.TrainState):
    batch_stats: Any
    key: jax.Array


variables = MLP().init(jax.random.key(0), x[:1])
state = TrainState.create(
    apply_fn=MLP().apply,
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    key=jax.random.key(1),
    tx=optax.adamw(optax.cosine_decay_schedule(1e-2, 160)),
)


@jax.jit
def train_step(state, batch):
    key = jax.random.fold_in(state.key, state.step)

    def loss_fn(params):
        logits, updated = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["x"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), updated

    (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, batch_stats=updated["batch_stats"])
    return state, loss


@jax.jit
def accuracy(state, batch):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return (state.apply_fn(variables, batch["x"]).argmax(-1) == batch["y"]).mean()


for epoch in range(20):
    order = np.random.default_rng(epoch).permutation(400)
    for rows in order.reshape(-1, 50):
        state, loss = train_step(state, {"x": x[rows], "y": y[rows]})
    found = accuracy(state, {"x": x[400:], "y": y[400:]})
    print(epoch, float(loss), float(found))
# --8<-- [end:program]
