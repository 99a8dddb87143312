"""Two optimizers that take turns within a train step, as a GAN's do."""

import jax
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)


class GAN(nnx.Module):
    def __init__(self, *, rngs):
        self.judge = nnx.Linear(2, 1, rngs=rngs)
        self.maker = nnx.Linear(4, 2, rngs=rngs)


def made(model, batch, key):
    return model.maker(jax.random.normal(key, (len(batch["x"]), 4)))


def judge_loss(model, batch, key):
    real, false = model.judge(batch["x"]), model.judge(made(model, batch, key))
    return (jax.nn.softplus(-real) + jax.nn.softplus(false)).mean()


def maker_loss(model, batch, key):
    return jax.nn.softplus(-model.judge(made(model, batch, key))).mean()


def update(state, batch, step, optimizer):
    losses = {}
    for part, loss_fn in {"judge": judge_loss, "maker": maker_loss}.items():
        (losses[part], _), grads = step.value_and_grad(state, batch, loss_fn, part=part)
        own = state.params[part]
        updates, opt_state = optimizer[part].update(grads, state.opt_state[part], own)
        state = state._replace(
            params=state.params | {part: optax.apply_updates(own, updates)},
            opt_state=state.opt_state | {part: opt_state},
        )
    return state, {"loss": losses["judge"], "maker_loss": losses["maker"]}


result = ody.fit(
    ody.nnx_task(GAN(rngs=nnx.Rngs(0)), judge_loss, update=update),
    {"judge": optax.sgd, "maker": optax.adam},
    train,
    epochs=10,
    learning_rate={"judge": 1e-2, "maker": 1e-3},
    train_metrics={"maker_loss": ody.Mean("maker_loss")},
)
print(sorted(name for name in result.history if name.startswith("train/")))
